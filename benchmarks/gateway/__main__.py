"""What a gateway carries: creates, gets, watchers, long lists and memory, with a null engine in the router's place.

    python -m benchmarks.gateway --out benchmarks/results/gateway.json

A real gateway process is called by client processes over gRPC, on SQLite and on a PostgreSQL of its own. The null
engine claims jobs from the store and ends them with one small MP4; there is no Ray and no model. What bounds the result
is measured beside it: gRPC with empty methods, and the store without gRPC. All of it shares one machine.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from benchmarks.gateway import report
from benchmarks.gateway.phases import Measured, Sizes, grpc_alone, measure
from benchmarks.gateway.processes import BenchmarkError, open_database

DATABASES = ("sqlite", "postgresql")
# Of the sizes, what may be set one by one.
OPTIONS = ("seconds", "processes", "creators", "rate", "gets", "batch", "streams", "queued", "seed")


def main(arguments: list[str] | None = None) -> int:
    given = sys.argv[1:] if arguments is None else arguments
    args = _parser().parse_args(given)
    console, load = Console(stderr=True), os.getloadavg()
    about = report.machine(load)
    warning = report.warning(about)
    if warning is not None:
        if not (args.busy or args.quick):
            console.print(f"{warning} Wait until nothing else runs, or measure all the same with --busy.")
            return 2
        console.print(f"[bold]{warning}[/bold]")
    sizes = Sizes.quick() if args.quick else Sizes()
    sizes = replace(sizes, **{name: value for name in OPTIONS if (value := getattr(args, name)) is not None})
    found: list[Measured] = []

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
    values = report.record(shlex.join(["python", "-m", "benchmarks.gateway", *given]), about, sizes, empty, found)
    tables = report.sections(sizes, empty, found)
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(json.dumps(values, indent=2) + "\n")
        args.out.with_suffix(".md").write_text(report.markdown(values, tables))
    report.show(Console(), tables)
    for one in values["databases"]:
        print(f"{one['database']}: {one['bounds']}")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gateway", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--out", type=Path, help="write the figures as JSON, and as Markdown beside it")
    parser.add_argument("--database", action="append", choices=DATABASES, help="only this one; may be repeated")
    parser.add_argument("--quick", action="store_true", help="a second of everything, to see that it works")
    parser.add_argument("--busy", action="store_true", help="measure although other programs run")
    parser.add_argument("--dir", type=Path, help="where the databases lie; a folder for temporary files by default")
    sizes = Sizes()
    for name in OPTIONS:
        kind = type(getattr(sizes, name))
        parser.add_argument(f"--{name}", type=_positive(kind), help=f"{getattr(sizes, name):g} by default")
    return parser


def _positive(kind: type[int] | type[float]) -> Callable[[str], float]:
    def parse(text: str) -> float:
        value = kind(text)
        if not value > 0:
            raise argparse.ArgumentTypeError(f"{text} is not above 0")
        return value

    parse.__name__ = kind.__name__  # in argparse's own message
    return parse


if __name__ == "__main__":
    sys.exit(main())
