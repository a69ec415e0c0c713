"""Simulate a fleet of engines under a virtual clock, with the router's own policies, on a recorded or a drawn trace.

    python -m zoetrope.benchmarks.simulate --engines 8x8 --load 0.85 --hours 24 --out benchmarks/results/simulate
    python -m zoetrope.benchmarks.simulate --record DATABASE --write trace.jsonl
    python -m zoetrope.benchmarks.simulate --trace trace.jsonl --engines 4x8,32x1

Every policy gets the same trace, and every step's time is computed: from measurements where `benchmarks/results` has
some of this kind of GPU, else from the roofline, as the page says. `simulate.compare` holds the simulation against a
real service, `simulate.elastic` shows what gangs would give that change their size between steps.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

from zoetrope.benchmarks import command
from zoetrope.benchmarks.provenance import header
from zoetrope.benchmarks.simulate import setup
from zoetrope.benchmarks.simulate.plot import plot
from zoetrope.benchmarks.simulate.recorder import recorded_jobs, trace_of
from zoetrope.benchmarks.simulate.report import label, page
from zoetrope.benchmarks.simulate.setup import Setup, simulate
from zoetrope.benchmarks.simulate.trace import TraceError, write_trace


def main(arguments: Sequence[str] | None = None) -> int:
    parser = command.parser("simulate", __doc__)
    setup.add_arguments(parser)
    parser.add_argument("--record", metavar="DATABASE", help="only record a trace from a service's database")
    parser.add_argument("--write", type=Path, metavar="FILE", help="write the trace as JSON lines")
    parser.add_argument(
        "--workers", type=command.at_least(1), default=1, help="policies simulated at a time (default: 1)"
    )
    parser.add_argument("--out", type=Path, help="write OUT.json, OUT.md and OUT.png")
    args = parser.parse_args(arguments)
    try:
        if args.record is not None:
            return _record(args.record, args.write)
        made = setup.setup_of(args)
    except TraceError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if args.write is not None:
        write_trace(args.write, made.trace)
    runs = _all(made, args.workers)
    record = {
        "label": label(made.fleet.origin),
        "environment": header(command.command_line("simulate", arguments), args.seed),
        **made.described(),
        "runs": [figures for figures, _ in runs],
    }
    text = page(record)
    command.write_results(args.out, record, text)
    print(text)
    if args.out is not None:
        title = f"{made.described()['trace']['described']}; {record['label']}"
        outcomes = {figures["policy"]: found for figures, found in runs}
        missing = plot(outcomes, made.rules.slo, title, args.out.with_suffix(".png"))
        if missing is not None:
            print(f"no plot: {missing}", file=sys.stderr)
    return 0


def _all(made: Setup, workers: int) -> list[Any]:
    if workers == 1:
        return [simulate(made, policy) for policy in made.policies]
    with ProcessPoolExecutor(workers) as pool:
        return list(pool.map(simulate, [made] * len(made.policies), made.policies))


def _record(database: str, path: Path | None) -> int:
    if path is None:
        raise TraceError("write: name the file for the recorded trace")
    trace = trace_of(recorded_jobs(database))
    write_trace(path, trace)
    print(f"{len(trace)} jobs in {trace[-1].arrival:.0f} s: {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
