"""Measure a gateway: creates, gets, watchers, long lists and memory, with a null engine in place of the router.

    python -m zoetrope.benchmarks.gateway --out benchmarks/results/gateway.json

Client processes call a real gateway process over gRPC, with SQLite and with its own PostgreSQL. The null engine claims
jobs from the store and completes them with one small MP4; there is no Ray and no model. Two upper bounds are measured
too: gRPC with empty methods, and the store without gRPC. Everything runs on one machine.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from zoetrope.benchmarks import command
from zoetrope.benchmarks.errors import BenchmarkError
from zoetrope.benchmarks.gateway import report
from zoetrope.benchmarks.gateway.phases import PhaseResult, PhaseSizes, grpc_alone, measure
from zoetrope.benchmarks.gateway.processes import open_database
from zoetrope.benchmarks.provenance import machine

DATABASES = ("sqlite", "postgresql")
# The fields of PhaseSizes that are options.
HELP = {
    "seconds": "duration of each load",
    "processes": "client processes",
    "creators": "concurrent callers of the flood",
    "rate": "creates per second of the paced load",
    "gets": "gets per second during each load",
    "batch": "jobs per BatchCreateVideos call",
    "streams": "WatchVideo streams",
    "queued": "jobs in the long queue",
    "seed": "seed of the random arrival times",
}


def main(arguments: list[str] | None = None) -> int:
    args = _parser().parse_args(arguments)
    console, about = Console(stderr=True), machine(os.getloadavg())
    warning = report.warning(about)
    if warning is not None:
        if not (args.busy or args.quick):
            console.print(f"{warning} Wait until nothing else runs, or use --busy.")
            return 2
        console.print(f"[bold]{warning}[/bold]")
    sizes = PhaseSizes.quick() if args.quick else PhaseSizes()
    sizes = replace(sizes, **{name: value for name in HELP if (value := getattr(args, name)) is not None})
    found: list[PhaseResult] = []

    def say(line: str) -> None:
        console.print(line, style="dim", highlight=False)

    try:
        empty = grpc_alone(sizes)
        say(f"gRPC with empty methods: {empty.per_second:,.0f} calls/s")
        for name in args.database or DATABASES:
            with tempfile.TemporaryDirectory(dir=args.dir) as folder, open_database(name, Path(folder)) as database:
                found.append(measure(database, sizes, Path(folder) / "data", say))
    except BenchmarkError as error:
        console.print(f"error: {error}")
        return 1
    values = report.record(command.command_line("gateway", arguments), about, sizes, empty, found)
    command.write_results(args.out, values, report.page(values))
    report.show(Console(), report.sections(sizes, empty, found))
    for one in values["databases"]:
        print(f"{one['database']}: {one['bounds']}")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = command.parser("gateway", __doc__)
    parser.add_argument("--out", type=Path, help=command.OUT_HELP)
    parser.add_argument("--database", action="append", choices=DATABASES, help="measure only this one; repeatable")
    parser.add_argument("--quick", action="store_true", help="measure everything for a second, as a smoke test")
    parser.add_argument("--busy", action="store_true", help="measure even if the machine is not idle")
    parser.add_argument("--dir", type=Path, help="folder for the databases (default: the system's temporary folder)")
    sizes = PhaseSizes()
    for name in HELP:
        kind = type(getattr(sizes, name))
        parser.add_argument(f"--{name}", type=_positive(kind), help=f"{HELP[name]} (default: {getattr(sizes, name):g})")
    return parser


def _positive(kind: type[int] | type[float]) -> Callable[[str], float]:
    def parse(text: str) -> float:
        value = kind(text)
        if not value > 0:
            raise argparse.ArgumentTypeError(f"must be above 0, not {text}")
        return value

    parse.__name__ = kind.__name__  # for argparse's own messages
    return parse


if __name__ == "__main__":
    sys.exit(main())
