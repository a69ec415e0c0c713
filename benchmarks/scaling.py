"""Predict how a step's time scales from 1 to 64 GPUs, and what limits it.

    python -m zoetrope.benchmarks.scaling --out benchmarks/results/scaling

Writes JSON, a table (.md) and, if matplotlib is installed, a plot (.png). The model is `cluster.planning.step_time`.
Its rates come from GPU measurements if there are any (`cluster.planning.calibration`), otherwise they are fractions of
the datasheet's peaks; the files say which. Within an NVLink domain, all GPUs join one gang. Beyond it, two layouts are
shown: one domain for each guidance branch, with only velocities crossing InfiniBand (lower latency), and several gangs
with requests of their own (higher throughput).
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from zoetrope.benchmarks import command
from zoetrope.benchmarks.provenance import header
from zoetrope.cluster.planning.calibration import RESULTS, StepCheck, check_steps, rates_of
from zoetrope.cluster.planning.gang_plan import GangPlan, PlanError, plan_gang
from zoetrope.cluster.planning.hardware import GIB, HARDWARE, hardware
from zoetrope.cluster.planning.overlap import LENT
from zoetrope.cluster.planning.rates import Rates
from zoetrope.cluster.planning.step_time import StepTime, step_time
from zoetrope.model.families import PRESETS
from zoetrope.model.families.family import Preset
from zoetrope.model.request.sizes import SIZES

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
    """A number of GPUs and one layout; seconds are for one step of one clip.

    Attributes:
        gangs: engines with different requests, each of ``cfg_groups x sequence_ranks`` GPUs.
        memory, available: bytes of the fullest rank; a layout that does not fit is only an ideal to compare with.
        efficiency: steps per second of all gangs, relative to as many single GPUs with enough memory.
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
        """Tell whether the layout fits in memory."""
        return self.memory is not None and self.memory <= self.available

    @property
    def layout(self) -> str:
        """Describe the layout."""
        gang = f"{self.cfg_groups} x {self.sequence_ranks}"
        return gang if self.gangs == 1 else f"{self.gangs} gangs of {gang}"


POINT, CHECK = TypeAdapter(Point), TypeAdapter(StepCheck)  # they read what a result file holds


def points(
    rates: Rates, preset: Preset, size: str, gpus: Iterable[int] = GPUS, domain: int = DOMAIN
) -> Iterator[Point]:
    """Yield every layout to show for a model and a clip."""
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
    """Choose, among gangs that use all GPUs, the largest within one domain and the largest across two."""
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


def record_of(rates: Rates, found: Sequence[Point], checks: Sequence[StepCheck], run: str) -> dict[str, Any]:
    """Return the record to write as JSON. ``run``: the command."""
    gear = rates.hardware
    return {
        "environment": header(run),
        "label": label(rates),
        "hardware": {"name": gear.name, "source": gear.source, "links": [asdict(gear.inside), asdict(gear.outside)]},
        "rates": list(rates.notes),
        "seconds_of_clip": SECONDS,
        "nvlink_domain": DOMAIN,
        "checks": [{**asdict(check), "ratio": check.ratio} for check in checks],
        "points": [{**asdict(point), "fits": point.fits} for point in found],
    }


def label(rates: Rates) -> str:
    """Return the label that says how the figures were obtained."""
    return COMPUTED if rates.origin == "roofline" else CALIBRATED


def page(record: Mapping[str, Any]) -> str:
    """Format the page."""
    gear = record["hardware"]
    found = [POINT.validate_python(point) for point in record["points"]]
    checks = [CHECK.validate_python(check) for check in record["checks"]]
    lines = [
        f"# Predicted step time on {gear['name'].upper()}, 1 to {max(GPUS)} GPUs",
        "",
        f"**{record['label']}.** Written by `{record['environment']['command']}`.",
        "",
        f"A clip of {SECONDS:g} s at each model's frame rate, both guidance branches in a step, NVLink domains of "
        f"{DOMAIN}. Messages that overlap with computation count as all-to-all only with {LENT:.0%} of their time, the "
        "assumed slowdown of the overlapped work; launches and host time are ignored.",
        "",
        f"- {gear['source']}",
        *(f"- {note}" for note in record["rates"]),
        *(f"- {link['name']}: {link['bandwidth'] / 1e9:g} GB/s each way, {link['fraction']:.0%} of it usable; "
          f"{link['source']}" for link in gear["links"]),
        "",
        "Layout: guidance groups x sequence ranks. Shares are of the step. Efficiency: steps per second relative to as "
        "many single GPUs with enough memory.",
    ]  # fmt: skip
    for model, size in dict.fromkeys((point.model, point.size) for point in found):
        lines += ["", f"## {model}, {size}", ""]
        lines += ["| GPUs | layout | s/step | compute | all-to-all | gather | idle | efficiency | GiB per rank |"]
        lines += ["|---|---|---|---|---|---|---|---|---|"]
        lines += [_line(point) for point in found if (point.model, point.size) == (model, size)]
    lines += ["", "## Comparison with steps measured on one GPU", ""]
    if not checks:
        lines += ["There are no results for this kind of GPU."]
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
    """Plot the shares of a step as bars, with its seconds above; returns False if matplotlib is missing."""
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
    parser, gpus = command.parser("scaling", __doc__), sorted(name for name, kind in HARDWARE.items() if kind.is_gpu)
    parser.add_argument("--out", type=Path, required=True, help="write OUT.json, OUT.md and OUT.png")
    parser.add_argument("--gpu", default="h100", choices=gpus, help="kind of GPU (default: h100)")
    parser.add_argument(
        "--results", type=Path, default=RESULTS, help="folder of GPU measurements (default: %(default)s)"
    )
    args = parser.parse_args(arguments)
    gear = hardware(args.gpu)
    rates, checks = rates_of(gear, args.results), check_steps(gear, args.results)
    found = [point for model in MODELS for size in CLIPS for point in points(rates, PRESETS[model], size)]
    run = command.command_line("scaling", arguments)
    record = record_of(rates, found, checks, run)
    command.write_results(args.out, record, page(record), indent=1)
    drawn = plot(rates, found, args.out.with_suffix(".png"))
    print(f"{label(rates)}: {len(found)} points" + ("" if drawn else "; no plot, matplotlib is not installed"))
    for check in checks:
        print(f"{check.preset}, {check.forwards} x {check.tokens} tokens: predicted over measured {check.ratio:.2f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
