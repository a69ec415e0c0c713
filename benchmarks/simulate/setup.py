"""What a command line asks for: a trace, a fleet, policies."""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from zoetrope.benchmarks.command import at_least
from zoetrope.benchmarks.simulate.fleet import Fleet, costs_of, parse_engines
from zoetrope.benchmarks.simulate.generate import ARRIVALS, DEFAULT_BURST, RAMP, TraceRecipe, generate
from zoetrope.benchmarks.simulate.jobs import conditioning_seconds, tail_seconds
from zoetrope.benchmarks.simulate.metrics import Outcome
from zoetrope.benchmarks.simulate.mixes import MIXES
from zoetrope.benchmarks.simulate.offered import drawn_trace
from zoetrope.benchmarks.simulate.simulation import HOUR, SimRules, Simulation
from zoetrope.benchmarks.simulate.trace import TraceError, TraceJob, read_trace
from zoetrope.benchmarks.simulate.workload import preset_named, workload
from zoetrope.model.families.family import Preset
from zoetrope.serving.router.policies.choose import policy_of
from zoetrope.serving.router.policies.policy import registered

STAGE_LOAD = 0.5  # the share of their time that conditioners and decoders are to be busy, where no number is given


@dataclass(frozen=True)
class Setup:
    """A trace, a fleet, and the policies to compare on them. ``drawn``: how the trace came about, in words."""

    model: str
    gpu: str
    fleet: Fleet
    trace: tuple[TraceJob, ...]
    drawn: str
    policies: tuple[str, ...]
    rules: SimRules

    def described(self) -> dict[str, Any]:
        """Return what readers of the figures must know."""
        fleet = self.fleet
        failing = ""
        if fleet.failures is not None:
            failing = (
                f"a GPU fails every {fleet.failures:g} hours on average and takes its engine with it; loading the model"
                f" again takes {fleet.restart:g} s, snapshots are {fleet.snapshot:g} s apart"
            )
        return {
            "model": self.model,
            "fleet": {
                "gpu": self.gpu,
                "gpus": fleet.gpus,
                "engines": list(fleet.engines),
                "described": fleet.described(),
                "conditioners": fleet.conditioners,
                "decoders": fleet.decoders,
                "origin": fleet.origin,
                "failing": failing,
                "cold": fleet.cold,
            },
            "trace": {"jobs": len(self.trace), "described": self.drawn},
            "slo": self.rules.slo,
            "told": self.rules.tell,
            "step_tokens": self.rules.step_tokens,
            "seed": self.rules.seed,
        }


def simulate(setup: Setup, policy: str) -> tuple[dict[str, Any], list[Outcome]]:
    """Run one policy; returns its figures and what became of each job."""
    preset, fleet = preset_named(setup.model), setup.fleet
    work = workload(preset, setup.trace)
    simulation = Simulation(
        setup.trace, work, fleet, policy_of(policy, ranks=fleet.fastest, gpus=fleet.gpus), setup.rules
    )
    outcomes = simulation.run()
    return simulation.figures(), outcomes


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of a simulation."""
    positive = at_least(1)
    parser.add_argument("--model", default="wan2.7-27b", help="preset (default: %(default)s)")
    parser.add_argument("--gpu", default="h100", help="kind of GPU (default: %(default)s)")
    parser.add_argument("--engines", default="8x8", help="COUNTxGPUS, separated by commas (default: %(default)s)")
    parser.add_argument("--policies", default="", help="names separated by commas (default: all)")
    parser.add_argument("--trace", type=Path, help="JSON lines; replaces a drawn trace")
    mixes = f"of a drawn trace: {', '.join(MIXES)}, or a file of JSON lines (default: %(default)s)"
    parser.add_argument("--mix", default="mixed", help=mixes)
    parser.add_argument("--arrivals", default="poisson", choices=ARRIVALS, help="(default: %(default)s)")
    parser.add_argument(
        "--load", type=float, default=0.85, help="share of the engines' time that the jobs' steps take (default: 0.85)"
    )
    parser.add_argument("--hours", type=float, default=1.0, help="in which jobs arrive (default: 1)")
    parser.add_argument("--jobs", type=positive, default=None, help="with --arrivals at-once: how many")
    parser.add_argument("--tenants", type=positive, default=8, help="(default: 8)")
    parser.add_argument(
        "--burst", type=float, default=DEFAULT_BURST, help="mean jobs of a burst (default: %(default)g)"
    )
    parser.add_argument("--seed", type=int, default=1, help="of everything that is drawn (default: 1)")
    parser.add_argument("--slo", type=float, default=3.0, help="objective, in multiples of a job alone (default: 3)")
    parser.add_argument("--untold", action="store_true", help="policies do not know the objective")
    parser.add_argument("--step-tokens", type=positive, default=100_000, help="of a step, at most (default: 100000)")
    parser.add_argument("--quantum", type=float, default=1.0, help="seconds that a decision stands (default: 1)")
    parser.add_argument("--noise", type=float, default=0.0, help="of step times: deviation of their logarithm")
    parser.add_argument("--etas", type=at_least(0), default=200, help="jobs whose end is foreseen (default: 200)")
    parser.add_argument("--until", type=float, help="stop after so many seconds (default: when all jobs have ended)")
    parser.add_argument("--conditioners", type=positive, help="servers (default: one an engine, and half idle)")
    parser.add_argument("--decoders", type=positive, help="servers (default: one an engine, and half idle)")
    parser.add_argument("--mtbf", type=float, help="mean hours between failures of a GPU (default: never)")
    parser.add_argument("--restart", type=float, default=300.0, help="seconds to load a model (default: 300)")
    parser.add_argument("--cold", action="store_true", help="engines start without their model")


def setup_of(args: argparse.Namespace) -> Setup:
    """Check the options, and draw or read the trace.

    Raises:
        TraceError: an option is wrong, with its name, value and limit; or the trace's file is.
    """
    for name in ("load", "hours", "slo", "quantum", "restart", "mtbf", "until"):
        value = getattr(args, name)
        if value is not None and not (math.isfinite(value) and value > 0):
            raise TraceError(f"{name} is {value}, must be above 0")
    if not (math.isfinite(args.noise) and 0 <= args.noise <= 1):
        raise TraceError(f"noise is {args.noise}, must be from 0 to 1")
    policies = tuple(args.policies.split(",")) if args.policies else tuple(sorted(registered()))
    for name in policies:
        if name not in registered():
            raise TraceError(f"policies: {name!r} is unknown, there are {', '.join(sorted(registered()))}")
    preset = preset_named(args.model)
    engines = parse_engines(args.engines)
    costs, origin = costs_of(preset, args.gpu, engines)
    fleet = Fleet(engines, costs, origin, failures=args.mtbf, restart=args.restart, cold=args.cold)
    trace, drawn = _trace(args, preset, fleet)
    return Setup(
        model=preset.name,
        gpu=args.gpu,
        fleet=_staffed(fleet, trace, preset, args),
        trace=tuple(trace),
        drawn=drawn,
        policies=policies,
        rules=SimRules(
            slo=args.slo,
            tell=not args.untold,
            step_tokens=args.step_tokens,
            quantum=args.quantum,
            noise=args.noise,
            until=args.until,
            etas=args.etas,
            seed=args.seed,
        ),
    )


def _trace(args: argparse.Namespace, preset: Preset, fleet: Fleet) -> tuple[list[TraceJob], str]:
    if args.trace is not None:
        trace = read_trace(args.trace)
        return trace, f"{len(trace):,} jobs in {trace[-1].arrival / HOUR:.3g} hours, from {args.trace.name}"
    recipe = TraceRecipe(
        mix=args.mix,
        arrivals=args.arrivals,
        seconds=args.hours * HOUR,
        tenants=args.tenants,
        burst=args.burst,
        fps=preset.sampling.fps,
        temporal=preset.vae.temporal,
        jobs=args.jobs or 0,
        seed=args.seed,
    )
    if args.arrivals == "at-once":
        return generate(recipe), f"{args.jobs:,} jobs at once, mix {args.mix!r}, {args.tenants} tenants"
    kind = {
        "poisson": "Poisson arrivals",
        "bursty": f"arrivals in bursts of {args.burst:g} jobs on average",
        "ramp": f"a rate that grows from {RAMP[0]:g} to {RAMP[1]:g} times its mean",
    }[args.arrivals]
    trace, length = drawn_trace(fleet, preset, recipe, args.load)
    words = (
        f"{len(trace):,} jobs in {length / HOUR:.3g} hours, mix {args.mix!r}, {kind}, {args.tenants} tenants of "
        "unequal size"
    )
    return trace, f"{words}; their steps, each alone, take {args.load:.0%} of the engines' time"


def _staffed(fleet: Fleet, trace: Sequence[TraceJob], preset: Preset, args: argparse.Namespace) -> Fleet:
    """Give the other stages as many servers as asked for; else as many as there are engines, for a small clip should
    not wait until a large one is decoded, or more."""
    work, stages = workload(preset, trace), fleet.stages
    conditioning = sum(
        conditioning_seconds(job, stages) + (len(segments) - 1) * tail_seconds(job, stages)
        for job, segments in zip(trace, work.segments, strict=True)
    )
    span = max(
        trace[-1].arrival,
        sum(ranks * fleet.denoise_seconds(s, ranks) for s in work.segments for ranks in (fleet.fastest,)) / fleet.gpus,
    )
    enough = [
        max(len(fleet.engines), math.ceil(seconds / span / STAGE_LOAD))
        for seconds in (conditioning, stages.decode * sum(work.megapixels))
    ]
    return replace(fleet, conditioners=args.conditioners or enough[0], decoders=args.decoders or enough[1])
