"""Show what gangs would give that change their size between steps, against gangs of fixed sizes under the same rule.

    python -m zoetrope.benchmarks.simulate.elastic --nodes 8 --hours 24 --out benchmarks/results/elastic-gangs

The rule, and why the difference is an upper bound: `simulate.elastic_gangs`.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from zoetrope.benchmarks import command
from zoetrope.benchmarks.provenance import header
from zoetrope.benchmarks.simulate import setup
from zoetrope.benchmarks.simulate.elastic_gangs import NODE, ElasticSimulation, GangRules
from zoetrope.benchmarks.simulate.fleet import MAX_GPUS, costs_of
from zoetrope.benchmarks.simulate.report import label, seconds
from zoetrope.benchmarks.simulate.setup import Setup
from zoetrope.benchmarks.simulate.trace import TraceError
from zoetrope.benchmarks.simulate.workload import preset_named, workload

WORTH = 0.15  # of attainment, that elastic gangs must give to be built
SPLITS = ((8,), (4, 4), (4, 2, 2), (2, 2, 2, 2), (4, 2, 1, 1), (1, 1, 1, 1, 1, 1, 1, 1))


def main(arguments: Sequence[str] | None = None) -> int:
    parser, positive = command.parser("simulate.elastic", __doc__), command.at_least(1)
    setup.add_arguments(parser)
    parser.add_argument("--nodes", type=positive, default=8, help=f"of {NODE} GPUs; replaces --engines (default: 8)")
    parser.add_argument("--round", type=float, default=2.0, help="seconds between two assignments (default: 2)")
    parser.add_argument(
        "--change", type=float, default=0.1, help="seconds lost by changing a job's GPUs (default: 0.1)"
    )
    parser.add_argument("--out", type=Path, help=command.OUT_HELP)
    args = parser.parse_args(arguments)
    args.engines = f"{args.nodes}x{NODE}"
    try:
        if args.nodes * NODE > MAX_GPUS:
            raise TraceError(f"nodes is {args.nodes}: {args.nodes * NODE} GPUs, must be at most {MAX_GPUS}")
        if not args.round > 0 or not 0 <= args.change < args.round:
            raise TraceError(f"round is {args.round} and change {args.change}: round must be above 0, change below it")
        made = setup.setup_of(args)
        sizes = tuple(size for size in (1, 2, 4, 8) if _runs(made, size))
        rules = GangRules(sizes=sizes, round=args.round, change=args.change, slo=args.slo)
        runs = study(made, rules)
    except TraceError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    record = {
        "label": label(made.fleet.origin),
        "environment": header(command.command_line("simulate.elastic", arguments), args.seed),
        **made.described(),
        "round": rules.round,
        "change": rules.change,
        "sizes": list(sizes),
        "worth": WORTH,
        "runs": runs,
    }
    text = page(record)
    command.write_results(args.out, record, text)
    print(text)
    return 0


def study(made: Setup, rules: GangRules) -> list[dict[str, Any]]:
    """Simulate every split into sizes that the model runs on, and elastic gangs last."""
    preset = preset_named(made.model)
    costs, _ = costs_of(preset, made.gpu, rules.sizes)
    fleet, work = replace(made.fleet, costs=costs), workload(preset, made.trace)
    runs = []
    for split in (*(split for split in SPLITS if set(split) <= set(rules.sizes)), ()):
        simulation = ElasticSimulation(made.trace, work, fleet, replace(rules, split=split))
        simulation.run()
        runs.append(simulation.figures())
    return runs


def gain(runs: Sequence[Mapping[str, Any]]) -> float:
    """Return the attainment of elastic gangs, the last run, less that of the best fixed ones."""
    *fixed, elastic = (float(run["slo_attainment"]) for run in runs)
    return elastic - max(fixed)


def page(record: Mapping[str, Any]) -> str:
    """Format a page."""
    fleet, trace, runs = record["fleet"], record["trace"], record["runs"]
    points = 100 * gain(runs)
    verdict = "worth building" if points >= 100 * record["worth"] else "not worth building"
    lines = [
        f"# Elastic gangs on {fleet['gpus']:,} {fleet['gpu'].upper()}s",
        "",
        f"**{record['label'][:1].upper()}{record['label'][1:]}.** Written by `{record['environment']['command']}`.",
        "",
        f"- {record['model']} on {len(fleet['engines'])} nodes of {NODE} GPUs",
        f"- {trace['described']}",
        f"- objective: a job is done within {record['slo']:g} times what it takes alone on a node",
        f"- step times: {fleet['origin']}",
        f"- rounds of {record['round']:g} s; a job loses {record['change']:g} s when its GPUs change",
        "",
        "| gangs of a node | in time | mean | p50 | p95 | p99 | GPUs busy | changes |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for run in runs:
        latency = run["latency"]
        cells = [run["policy"], f"{run['slo_attainment']:.1%}"]
        cells += [seconds(latency[name]) for name in ("mean", "p50", "p95", "p99")]
        cells += [f"{run['busy']:.1%}", f"{run['size_changes']:,}"]
        lines.append(f"| {' | '.join(cells)} |")
    lines += [
        "",
        f"Elastic gangs have {points:+.1f} points over the best fixed ones, at most: every GPU is taken to hold the"
        " whole model, and a round ends in the middle of a step at no cost. From "
        f"{100 * record['worth']:.0f} points on they would be worth it: **{verdict}**.",
    ]
    return "\n".join(lines) + "\n"


def _runs(made: Setup, size: int) -> bool:
    try:
        costs_of(preset_named(made.model), made.gpu, (size,))
    except TraceError:
        return False
    return True


if __name__ == "__main__":
    sys.exit(main())
