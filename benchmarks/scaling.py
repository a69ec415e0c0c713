"""How a step's time goes down with GPUs, and why not all the way: predicted, from 1 to 64 of them.

    python -m benchmarks.scaling --out benchmarks/results/scaling

Writes JSON, a table (.md) and, where matplotlib is installed, a plot (.png). The model is `cluster.step_time`; its
rates are those measured on a GPU where there are results (`cluster.calibration`), else fractions of a datasheet's
peaks, and the files say which. Up to an NVLink domain GPUs join one gang. Beyond it there are two ways, both shown: the
two guidance branches on a domain each, only velocities crossing InfiniBand, which makes a clip sooner; and more gangs
that work on requests of their own, which makes more clips.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cluster.calibration import RESULTS, StepCheck, check_steps, rates_of
from cluster.hardware import GIB, HARDWARE, hardware
from cluster.overlap import LENT
from cluster.plan import GangPlan, PlanError, plan_gang
from cluster.rates import Rates
from cluster.step_time import StepTime, step_time
from model.family import FAMILY, Preset
from model.sizes import SIZES

MODELS = ("wan2.7-27b", "wan2.1-t2v-14b")
CLIPS = ("480p", "720p", "1080p")
SECONDS = 5.0
GPUS = (1, 2, 4, 8, 16, 32, 64)
DOMAIN = 8
PARTS = {"compute": "#4878a8", "all-to-all": "#e08a3c", "gather": "#b8b8b8", "idle": "#c44e52"}

COMPUTED = "roofline: computed, nothing here was measured on a GPU"
CALIBRATED = "calibrated: computed from rates measured on one GPU; nothing here was measured on more than one"


@dataclass(frozen=True)
class Point:
    """A number of GPUs and one way to use them; seconds are those of a step of one clip.

    Attributes:
        gangs: engines at work on different requests, each of ``cfg_groups x sequence_ranks`` GPUs.
        memory, available: bytes of the fullest rank; a point where they do not fit is only an ideal to compare with.
        efficiency: steps a second of all gangs, over those of as many single GPUs that had memory enough.
    """

    model: str
    size: str
    gpus: int
    gangs: int
    cfg_groups: int
    sequence_ranks: int
    seconds: float
    compute: float
    all_to_all: float
    gather: float
    idle: float
    efficiency: float
    memory: int | None
    available: int
    nvlink: float
    infiniband: float

    @property
    def fits(self) -> bool:
        return self.memory is not None and self.memory <= self.available

    @property
    def layout(self) -> str:
        gang = f"{self.cfg_groups} x {self.sequence_ranks}"
        return gang if self.gangs == 1 else f"{self.gangs} gangs of {gang}"


def points(
    rates: Rates, preset: Preset, size: str, gpus: Iterable[int] = GPUS, domain: int = DOMAIN
) -> Iterator[Point]:
    """Every way that is shown for a model and a clip."""
    width, height = SIZES[size]["16:9"]
    name = rates.hardware.name

    def plan(n: int) -> GangPlan | None:
        try:
            return plan_gang(preset, n, name, width, height, SECONDS, nvlink_domain=domain, rates=rates)
        except PlanError:
            return None

    gpus = tuple(gpus)
    sizes = [n for n in range(1, 2 * domain + 1) if any(count % n == 0 for count in gpus)]
    plans = {n: made for n in sizes if (made := plan(n)) is not None}
    if not plans:
        return
    any_plan = next(iter(plans.values()))
    alone = step_time(preset.config, [any_plan.tokens] * any_plan.sequences, rates)
    for n in gpus:
        if n == 1 and 1 not in plans:
            yield _point(preset.name, size, 1, 1, alone, alone, None, rates)
        for made in _choices(plans, n, domain):
            yield _point(preset.name, size, n, n // made.ranks, made.time, alone, made, rates)


def _choices(plans: Mapping[int, GangPlan], gpus: int, domain: int) -> list[GangPlan]:
    """The largest gang of a domain, and beyond it also the largest of two domains, of those that use all GPUs."""
    usable = [made for n, made in sorted(plans.items()) if n <= gpus and gpus % n == 0]
    inside = [made for made in usable if made.ranks <= domain][-1:]
    across = [made for made in usable if made.domains > 1][-1:]
    return inside + across


def _point(
    model: str, size: str, gpus: int, gangs: int, time: StepTime, alone: StepTime, plan: GangPlan | None, rates: Rates
) -> Point:
    gear = rates.hardware
    return Point(
        model=model,
        size=size,
        gpus=gpus,
        gangs=gangs,
        cfg_groups=plan.cfg_groups if plan else 1,
        sequence_ranks=plan.sequence_ranks if plan else 1,
        seconds=time.total,
        compute=time.compute,
        all_to_all=time.all_to_all,
        gather=time.gather,
        idle=time.idle,
        efficiency=gangs * alone.total / (gpus * time.total),
        memory=plan.memory.total if plan else None,
        available=gear.memory,
        nvlink=time.sent(gear.inside.name),
        infiniband=time.sent(gear.outside.name),
    )


def record(rates: Rates, found: Sequence[Point], checks: Sequence[StepCheck], command: str) -> dict[str, Any]:
    """What is written as JSON."""
    gear = rates.hardware
    return {
        "label": label(rates),
        "command": command,
        "hardware": {"name": gear.name, "source": gear.source, "links": [asdict(gear.inside), asdict(gear.outside)]},
        "rates": list(rates.notes),
        "seconds_of_clip": SECONDS,
        "nvlink_domain": DOMAIN,
        "checks": [{**asdict(check), "ratio": check.ratio} for check in checks],
        "points": [{**asdict(point), "fits": point.fits} for point in found],
    }


def label(rates: Rates) -> str:
    return COMPUTED if rates.origin == "roofline" else CALIBRATED


def table(rates: Rates, found: Sequence[Point], checks: Sequence[StepCheck], command: str) -> str:
    """The same as Markdown."""
    gear = rates.hardware
    lines = [
        f"# Predicted step time on {gear.name.upper()}, 1 to {max(GPUS)} GPUs",
        "",
        f"**{label(rates)}.** Written by `{command}`.",
        "",
        f"A clip of {SECONDS:g} s at each model's frame rate, both guidance branches in a step, NVLink domains of "
        f"{DOMAIN}. Messages that travel while ranks compute are not counted as all-to-all, but {LENT:.0%} of their "
        "time is, assumed to be lost by the work beside them; launches and the host's time are left out.",
        "",
        f"- {gear.source}",
        *(f"- {note}" for note in rates.notes),
        *(f"- {link.name}: {link.bandwidth / 1e9:g} GB/s each way, {link.fraction:.0%} of it; {link.source}"
          for link in (gear.inside, gear.outside)),
        "",
        "Layout: guidance groups x sequence ranks. Shares are of the step. Efficiency: steps a second over those of as "
        "many single GPUs with memory enough.",
    ]  # fmt: skip
    for model, size in dict.fromkeys((point.model, point.size) for point in found):
        lines += ["", f"## {model}, {size}", ""]
        lines += ["| GPUs | layout | s a step | compute | all-to-all | gather | idle | efficiency | GiB a rank |"]
        lines += ["|---|---|---|---|---|---|---|---|---|"]
        lines += [_line(point) for point in found if (point.model, point.size) == (model, size)]
    lines += ["", "## Against steps measured on one GPU", ""]
    if not checks:
        lines += ["No step of this kind of GPU is among the results."]
    else:
        lines += ["| preset | tokens | measured s | predicted s | ratio | from |", "|---|---|---|---|---|---|"]
        lines += [
            f"| {c.preset} | {c.forwards} x {c.tokens:,} | {c.measured:.3f} | {c.predicted:.3f} | {c.ratio:.2f} "
            f"| {c.where} |"
            for c in checks
        ]
    return "\n".join(lines) + "\n"


def _line(point: Point) -> str:
    shares = [point.compute, point.all_to_all, point.gather, point.idle]
    memory = "does not fit" if point.memory is None else f"{point.memory / GIB:.0f} of {point.available / GIB:.0f}"
    cells = [str(point.gpus), point.layout, f"{point.seconds:.3f}"]
    cells += [f"{share / point.seconds:.1%}" for share in shares] + [f"{point.efficiency:.0%}", memory]
    return "| " + " | ".join(cells) + " |"


def plot(rates: Rates, found: Sequence[Point], path: Path) -> bool:
    """Bars of the shares of a step, its seconds above them; False where matplotlib is missing."""
    try:
        import matplotlib
    except ImportError:
        return False
    matplotlib.use("Agg")
    from matplotlib import pyplot

    models, sizes = (list(dict.fromkeys(getattr(p, name) for p in found)) for name in ("model", "size"))
    figure, axes = pyplot.subplots(len(models), len(sizes), figsize=(5 * len(sizes), 4.5 * len(models)), squeeze=False)
    for row, model in enumerate(models):
        for column, size in enumerate(sizes):
            axis, mine = axes[row][column], [p for p in found if (p.model, p.size) == (model, size)]
            names = [f"{p.gpus}{'' if p.fits else '*'}: {p.layout}" for p in mine]
            bottom = [0.0] * len(mine)
            for part, colour in PARTS.items():
                share = [getattr(p, part.replace("-", "_")) / p.seconds for p in mine]
                axis.bar(range(len(mine)), share, bottom=bottom, color=colour, label=part)
                bottom = [a + b for a, b in zip(bottom, share, strict=True)]
            for x, p in enumerate(mine):
                axis.text(x, 1.01, f"{p.seconds:.3g} s", ha="center", fontsize=6)
            axis.set_xticks(range(len(mine)), names, fontsize=7, rotation=90)
            axis.set_ylim(0, 1.1)
            axis.set_ylabel("share of a step")
            axis.set_title(f"{model}, {size}, {SECONDS:g} s", fontsize=10)
    axes[0][0].legend(fontsize=7, loc="lower left")
    figure.suptitle(f"{rates.hardware.name.upper()}. {label(rates)}", fontsize=11)
    key = "GPUs: guidance groups x sequence ranks. * does not fit, for comparison only"
    figure.text(0.5, 0.005, key, ha="center", fontsize=8)
    figure.tight_layout(rect=(0, 0.02, 1, 0.97))
    figure.savefig(path, dpi=110)
    pyplot.close(figure)
    return True


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--out", type=Path, required=True, help="where to write, without the ending")
    parser.add_argument("--gpu", default="h100", choices=sorted(name for name, kind in HARDWARE.items() if kind.is_gpu))
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of what was measured on a GPU")
    args = parser.parse_args(arguments)
    gear = hardware(args.gpu)
    rates, checks = rates_of(gear, args.results), check_steps(gear, args.results)
    found = [point for model in MODELS for size in CLIPS for point in points(rates, FAMILY[model], size)]
    command = " ".join(["python -m benchmarks.scaling", *(sys.argv[1:] if arguments is None else arguments)])
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.with_suffix(".json").write_text(json.dumps(record(rates, found, checks, command), indent=1) + "\n")
    args.out.with_suffix(".md").write_text(table(rates, found, checks, command))
    drawn = plot(rates, found, args.out.with_suffix(".png"))
    print(f"{label(rates)}: {len(found)} points" + ("" if drawn else "; no plot, matplotlib is not installed"))
    for check in checks:
        print(f"{check.preset}, {check.forwards} x {check.tokens} tokens: predicted over measured {check.ratio:.2f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
