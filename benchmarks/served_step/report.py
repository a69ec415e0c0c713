"""Report the figures as JSON and as a page."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from zoetrope.benchmarks.provenance import busy, commit_of
from zoetrope.benchmarks.served_step.bare import BareTiming
from zoetrope.benchmarks.served_step.served import ServedTiming
from zoetrope.benchmarks.served_step.work import SEED
from zoetrope.serving.gateway.watch.watcher import POLL_SECONDS

GOAL = 0.98
GOAL_MODEL, GOAL_DEVICE = "wan2.7-27b", "H100"


@dataclass(frozen=True)
class Round:
    """The service between two runs of the bare model; seconds per step are medians of the repeats.

    Attributes:
        ratio: mean of the bare model's two runs over the service's.
        overhead: the service's seconds per step minus that mean.
        drift: the bare model's second run over its first, minus 1.
    """

    before: float
    served: float
    after: float
    ratio: float
    overhead: float
    drift: float


def rounds_of(bare: Sequence[BareTiming], through: Sequence[ServedTiming]) -> list[Round]:
    """Combine the runs; there is one more of the bare model than of the service."""
    found = []
    for number, one in enumerate(through):
        before, after = (statistics.median(each.runs) for each in bare[number : number + 2])
        served, mean = statistics.median(one.runs), (before + after) / 2
        found.append(Round(before, served, after, mean / served, served - mean, after / before - 1))
    return found


def shortest_step(overhead: float) -> float | None:
    """Return the shortest bare step, in seconds, for which bare / (bare + overhead) reaches the goal; None: any."""
    return overhead * GOAL / (1 - GOAL) if overhead > 0 else None


def unsteady(rounds: Sequence[Round]) -> str | None:
    """Return a warning if the bare model alone drifted by more than the goal allows the service."""
    worst = max((one.drift for one in rounds), key=abs)
    if abs(worst) <= 1 - GOAL:
        return None
    return f"The bare model itself drifted by {100 * worst:+.1f} % within a round: too much to resolve {GOAL:g}."


def record(
    command: str,
    about: dict[str, Any],
    clip: dict[str, Any],
    bare: Sequence[BareTiming],
    through: Sequence[ServedTiming],
) -> dict[str, Any]:
    """Return the record to write as JSON, in seconds unless a name says otherwise."""
    import torch

    from zoetrope.benchmarks.environment import header

    environment = header(torch.device("cuda" if torch.cuda.is_available() else "cpu"), command, SEED)
    rounds = rounds_of(bare, through)
    ratio = statistics.median(one.ratio for one in rounds)
    overhead = statistics.median(one.overhead for one in rounds)
    drifted = unsteady(rounds)
    on_goal = clip["model"].startswith(GOAL_MODEL + "-random") and GOAL_DEVICE in environment["device"]
    return {
        "environment": environment,
        "machine": about,
        "clip": clip,
        "goal": {
            "ratio": GOAL,
            "model": GOAL_MODEL,
            "device": GOAL_DEVICE,
            "met": ratio >= GOAL if on_goal and drifted is None else None,
        },
        "unsteady": drifted,
        "ratio": {"median": ratio, "least": min(r.ratio for r in rounds), "largest": max(r.ratio for r in rounds)},
        "overhead_ms": {
            "median": 1e3 * overhead,
            "least": 1e3 * min(r.overhead for r in rounds),
            "largest": 1e3 * max(r.overhead for r in rounds),
        },
        "resolution_ms": 1e3 * POLL_SECONDS / min(one.between for one in through),
        "computed": {"shortest_step_for_goal": shortest_step(overhead)},
        "rounds": [asdict(one) for one in rounds],
        "bare": [asdict(one) for one in bare],
        "served": [asdict(one) for one in through],
    }


def markdown(values: dict[str, Any]) -> str:
    """Format the page."""
    where, about, clip, goal = values["environment"], values["machine"], values["clip"], values["goal"]
    ratio, overhead = values["ratio"], values["overhead_ms"]
    bare = values["bare"][0]
    device = where["device"] if where["cuda"] else f"{about['processor']}, {about['usable_cores']} cores"
    lines = [
        "# Step time in the service and of the bare model",
        "",
        f"`{where['command']}`",
        "",
        f"{where['date']}, {commit_of(where)}, {device}, torch "
        f"{where['torch']}, {bare['threads']} threads in both; load average "
        f"{about['load_average'][0]:.2f} before.",
        "",
    ]
    if (text := busy(about)) is not None:
        lines += [f"**{text} The figures are unreliable.**", ""]
    if values["unsteady"] is not None:
        lines += [f"**{values['unsteady']}**", ""]
    lines += [
        f"{clip['model']} ({clip['weights']}), {clip['size']}, {clip['duration']:g} s, latents "
        f"{list(clip['latent_shape'])}, guidance {clip['guidance']:g}, {bare['tokens']:,} tokens per step; "
        f"{clip['steps']} steps per run, {clip['repeats']} runs in each process.",
        "",
        "`bare`: a process with the denoiser alone, before and after the service; `served`: `zoetrope serve`, timed by "
        "a client that watches its job over gRPC. Both run from the end of the first step to the end of the last but "
        "one; medians of the runs.",
        "",
        f"**Measured: bare / served = {ratio['median']:.4f}** ({ratio['least']:.4f} to {ratio['largest']:.4f}); "
        f"{overhead['median']:+.2f} ms per step ({overhead['least']:+.2f} to {overhead['largest']:+.2f}). A step is "
        f"reported up to {1e3 * POLL_SECONDS:.0f} ms late, which changes a run by at most "
        f"{values['resolution_ms']:.2f} ms per step.",
        "",
        _verdict(goal, values["computed"]["shortest_step_for_goal"], values["unsteady"] is None),
        "",
        "| round | bare before, ms | served, ms | bare after, ms | bare / served | served - bare, ms | drift of bare |",
        "|---|---|---|---|---|---|---|",
    ]
    for number, row in enumerate(values["rounds"], 1):
        lines.append(
            f"| {number} | {1e3 * row['before']:.2f} | {1e3 * row['served']:.2f} | {1e3 * row['after']:.2f} | "
            f"{row['ratio']:.4f} | {1e3 * row['overhead']:+.2f} | {100 * row['drift']:+.2f} % |"
        )
    loaded = ", ".join(f"{one['load_seconds']:.1f}" for one in values["bare"])
    ready = ", ".join(f"{one['ready_seconds']:.1f}" for one in values["served"])
    peak = "" if bare["peak_gib"] is None else f" Peak device memory of the bare model: {bare['peak_gib']:.1f} GiB."
    lines += ["", f"Loaded in {loaded} s (bare), the service ready after {ready} s.{peak}", ""]
    return "\n".join(lines)


def _verdict(goal: dict[str, Any], shortest: float | None, steady: bool) -> str:
    text = f"Goal: at least {goal['ratio']:g} for {goal['model']} on one {goal['device']}: "
    if not steady:
        return text + "this run is too unsteady to tell."
    if goal["met"] is None:
        text += "not evaluated, this is another model or device."
    else:
        text += "met." if goal["met"] else "NOT met."
    if shortest is None:
        return f"{text} Computed: the overhead is not above 0, so steps of any length would reach {goal['ratio']:g}."
    return (
        f"{text} Computed from the overhead, not measured: steps of at least {shortest:.3g} s would reach "
        f"{goal['ratio']:g} with the same overhead."
    )
