"""Time the router's decisions with a long queue.

    python -m zoetrope.benchmarks.decision_time --waiting 100000 --engines 128 --out benchmarks/results/decision-time

For each policy: so many segments of many tenants wait, engines of 8 ranks are asked in turn what they do next, and what
changes in between is told to the backlog as the router does it: a segment ends and another comes with each decision.
"""

from __future__ import annotations

import argparse
import random
import statistics
import sys
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from zoetrope.benchmarks import command
from zoetrope.benchmarks.provenance import header
from zoetrope.cluster.planning.hardware import hardware
from zoetrope.cluster.planning.rates import roofline
from zoetrope.cluster.planning.step_costs import Load, StepCosts
from zoetrope.model.families import PRESETS
from zoetrope.serving.router.backlog import Backlog
from zoetrope.serving.router.policies.choose import policy_of
from zoetrope.serving.router.policies.work import EngineState, Work
from zoetrope.serving.router.scheduler import decide

POLICIES = ("fair", "fifo", "srpt", "edf", "round_robin")
MODEL, GEAR, RANKS = "wan2.7-27b", "h100", 8
TOKENS = (8_190, 32_760, 75_600, 151_200)
STEPS = 30
SEED = 1
SPREAD = 86_400.0  # seconds over which the work was created


def main(arguments: list[str] | None = None) -> int:
    parser = command.parser("decision_time", __doc__)
    parser.add_argument("--waiting", type=command.at_least(1), default=100_000, help="segments that wait")
    parser.add_argument("--tenants", type=command.at_least(1), default=200, help="tenants that have made them")
    parser.add_argument("--engines", type=command.at_least(1), default=128, help="engines of 8 GPUs each")
    parser.add_argument("--decisions", type=command.at_least(1), default=1_000, help="decisions to time")
    parser.add_argument("--out", type=Path, help=command.OUT_HELP)
    args = parser.parse_args(arguments)
    rows = {policy: measure(policy, args) for policy in POLICIES}
    record = {
        "environment": header(command.command_line("decision_time", arguments), SEED),
        "settings": {name: value for name, value in vars(args).items() if name != "out"},
        "rows": rows,
    }
    text = page(record)
    sys.stdout.write(text)
    command.write_results(args.out, record, text)
    return 0


def measure(policy: str, args: argparse.Namespace) -> dict[str, float]:
    """Return figures in milliseconds: of putting one segment in the queue, and of decisions."""
    rng = random.Random(SEED)
    costs = StepCosts.prior(PRESETS[MODEL].config, roofline(hardware(GEAR)), ranks=RANKS)
    seconds = {tokens: costs.seconds([Load(tokens, 2)]) for tokens in TOKENS}
    made = 0

    def work() -> Work:
        nonlocal made
        made += 1
        tokens, created_at = rng.choice(TOKENS), rng.uniform(0, SPREAD)
        remaining = RANKS * STEPS * seconds[tokens]
        deadline = created_at + 3 * remaining / RANKS if rng.random() < 0.5 else None
        tenant = f"t{int(rng.paretovariate(1)) % args.tenants}"
        load = Load(tokens, 2)
        priority = rng.randrange(3)
        return Work(f"s{made}", tenant, MODEL, priority, created_at, deadline, remaining, load, 2 * tokens, STEPS)

    backlog = Backlog(policy_of(policy, RANKS))
    waiting = [work() for _ in range(args.waiting)]
    started = time.thread_time()
    for one in waiting:
        backlog.add(one)
    added = (time.thread_time() - started) / args.waiting
    known = {one.id: one for one in waiting}
    held: list[dict[str, Work]] = [{} for _ in range(args.engines)]
    stepping: list[frozenset[str]] = [frozenset()] * args.engines
    times = []
    for number in range(args.engines + args.decisions):
        engine = number % args.engines
        now = SPREAD + number
        mine = held[engine]
        if mine and rng.random() < 0.2:  # one of its segments ends, and another comes
            ended = mine.pop(next(iter(mine)))
            new = work()
            known[new.id] = new
            backlog.remove(ended.id)
            backlog.add(new)
        for one in [mine[i] for i in stepping[engine] if i in mine]:
            mine[one.id] = replace(one, remaining=one.remaining - RANKS * seconds[one.load.tokens])
            backlog.charge(one.tenant, RANKS * seconds[one.load.tokens])
            backlog.begin(mine[one.id])
        state = EngineState(
            f"e{engine}", MODEL, RANKS, "both", 400_000, 4, tuple(mine.values()), costs, stepping[engine]
        )
        started = time.thread_time()
        decision = decide(state, backlog, now)
        times.append(time.thread_time() - started)
        for i in decision.admit:
            mine[i] = known[i]
            backlog.begin(known[i])
        stepping[engine] = frozenset(decision.advance)
    times = sorted(times[args.engines :])
    return {
        "put_ms": 1e3 * added,
        "median_ms": 1e3 * statistics.median(times),
        "p99_ms": 1e3 * times[int(0.99 * (len(times) - 1))],
        "max_ms": 1e3 * times[-1],
    }


def page(record: Mapping[str, Any]) -> str:
    """Format the page."""
    settings = record["settings"]
    lines = [
        "# Decisions of the router",
        "",
        f"{settings['waiting']:,} segments of {settings['tenants']:,} tenants wait for {settings['engines']:,} engines"
        f" of {RANKS} GPUs."
        " Milliseconds of the processor's time.",
        "",
        "| policy | put one in order | decision, median | 99 % | longest |",
        "|---|---:|---:|---:|---:|",
        *(
            f"| {policy} | {row['put_ms']:.3f} | {row['median_ms']:.3f} | {row['p99_ms']:.3f} | {row['max_ms']:.3f} |"
            for policy, row in record["rows"].items()
        ),
        "",
        f"    {record['environment']['command']}",
        "",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
