"""Measure what 8-bit weights cost in quality: nano's clips with ``--quantize`` beside those without, task by task.

    python -m zoetrope.benchmarks.quantized_quality --count 50 --out benchmarks/results/quantized-quality

Both networks make the same held-out cases (`model.nano.cases`) from the same noise. The oracle (`model.nano.measures`)
scores each clip; latents are compared by their relative error and PSNR, the decoded frames by their PSNR. Results are
written after every task; a run with the same settings keeps the tasks that OUT.json has, so that one that was stopped
goes on. Exits with 1 if a share of right cases differs by more than 2 points.

On a CPU the products are those of `kernels.reference`: of the same 8-bit numbers, summed in float32.
"""

from __future__ import annotations

import json
import math
import statistics
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from zoetrope.benchmarks import command
from zoetrope.benchmarks.environment import header
from zoetrope.benchmarks.provenance import commit_of
from zoetrope.model.catalog.presets import find_model
from zoetrope.model.families.quantization import middle_blocks
from zoetrope.model.nano.cases import GROUPS, NanoCase, held_out
from zoetrope.model.nano.evaluate import SHORT_NAMES
from zoetrope.model.nano.measures import MAX_PSNR, MEASURES, CaseOutcome, Measure, examine, psnr
from zoetrope.model.nano.report import DIGITS
from zoetrope.model.nano.samples import TaskKind
from zoetrope.model.pipeline import LocalPipeline, quiet

MODEL = "nano"
SEED = 987654  # of `model.nano.evaluate`
POINTS = 2.0  # that a share may differ
NOTE = (
    "Shares are of the cases, PSNR and IoU means over them; *lost* and *won* count the cases that are right only "
    "without and only with 8 bits. A difference of latents: the norm of the difference over that of the exact ones; "
    "PSNR takes the range of a clip's exact latents as its peak, and 255 for frames. A sampler amplifies small errors: "
    "clips that differ may be equally good, which is what the oracle's shares tell."
)


@dataclass(frozen=True, eq=False)
class ClipPair:
    """One case, exact and in 8 bits."""

    exact: CaseOutcome
    quantized: CaseOutcome
    error: float  # of the latents, relative
    latents_psnr: float
    frames_psnr: float


def pairs(exact: LocalPipeline, quantized: LocalPipeline, cases: list[NanoCase], batch: int) -> Iterator[ClipPair]:
    """Yield the cases as both pipelines make them, in batches of mixed sizes."""
    for start in range(0, len(cases), batch):
        group = cases[start : start + batch]
        specs, inputs = [case.spec for case in group], [case.inputs for case in group]
        made = [pipeline.run_batch(specs, quiet, inputs) for pipeline in (exact, quantized)]
        for case, one, other in zip(group, *made, strict=True):
            outcomes = [examine(case, np.concatenate(list(exact.decode(latents)))) for latents in (one, other)]
            error = float((other - one).norm() / one.norm())
            frames = psnr(*(outcome.frames[: case.spec.frames] for outcome in outcomes))
            yield ClipPair(outcomes[0], outcomes[1], error, latents_psnr(one, other), frames)


def latents_psnr(exact: torch.Tensor, other: torch.Tensor) -> float:
    """Return the PSNR in dB of latents, with the range of the exact ones as the peak; at most `MAX_PSNR`."""
    error = float((other - exact).double().square().mean())
    peak = float(exact.max() - exact.min())
    return MAX_PSNR if error == 0 else min(MAX_PSNR, 10 * math.log10(peak**2 / error))


def summarise(kind: TaskKind, made: list[ClipPair]) -> dict[str, Any]:
    """Summarise one task: every measure both ways, and how far apart the clips are."""
    rows = {measure.name: _row(measure, made) for measure in MEASURES if measure.task == kind}
    return {
        "cases": len(made),
        "measures": rows,
        "latents_error": _spread([pair.error for pair in made], worst=max),
        "latents_psnr": _spread([pair.latents_psnr for pair in made], worst=min),
        "frames_psnr": _spread([pair.frames_psnr for pair in made], worst=min),
        "within": all(abs(row["difference"]) <= POINTS for row in rows.values() if row["unit"] == "%"),
    }


def _row(measure: Measure, made: list[ClipPair]) -> dict[str, Any]:
    counted = [pair for pair in made if measure.applies(pair.exact)]
    values = [(measure.value(pair.exact), measure.value(pair.quantized)) for pair in counted]
    unit = 100.0 if measure.unit == "%" else 1.0
    exact, quantized = (unit * statistics.fmean(side) for side in zip(*values, strict=True))
    row: dict[str, Any] = {
        "unit": measure.unit,
        "cases": len(counted),
        "exact": round(exact, 4),
        "quantized": round(quantized, 4),
        "difference": round(quantized - exact, 4),
    }
    if measure.unit == "%":
        row |= {"lost": sum(a > b for a, b in values), "won": sum(a < b for a, b in values)}
    return row


def _spread(values: list[float], worst: Any) -> dict[str, float]:
    return {"mean": round(statistics.fmean(values), 5), "worst": round(worst(values), 5)}


def page(record: dict[str, Any]) -> str:
    """Format the page."""
    where, about = record["environment"], record["measured"]
    lines = [
        f"# Quality with --quantize {about['quantize']}",
        "",
        f"`{where['command']}`",
        "",
        f"{where['date']}, {commit_of(where)}, torch {where['torch']}, {where['device']}.",
        "",
        f"{about['model']}, blocks {about['blocks']} in 8 bits, {about['steps']} steps, cases of seed {about['seed']}.",
        "",
        NOTE,
        "",
        "| task | cases | latents differ by (worst) | PSNR of latents (worst) | PSNR of frames (worst) | shares |",
        "|---|---|---|---|---|---|",
    ]
    for kind, task in record["tasks"].items():
        error, latents, frames = (task[name] for name in ("latents_error", "latents_psnr", "frames_psnr"))
        lines.append(
            f"| {kind} | {task['cases']} | {error['mean']:.1%} ({error['worst']:.1%}) | {latents['mean']:.1f} dB "
            f"({latents['worst']:.1f}) | {frames['mean']:.1f} dB ({frames['worst']:.1f}) | "
            f"{'within' if task['within'] else 'beyond'} {POINTS:g} points |"
        )
    for kind, task in record["tasks"].items():
        lines += ["", f"| {kind} | exact | {about['quantize']} | difference | lost, won |", "|---|---|---|---|---|"]
        lines += [_line(name, row, task["cases"]) for name, row in task["measures"].items()]
    return "\n".join([*lines, ""])


def _line(name: str, row: dict[str, Any], cases: int) -> str:
    unit, digits = row["unit"], DIGITS[row["unit"]]
    of = "" if row["cases"] == cases else f" ({row['cases']} cases)"
    values = " | ".join(f"{row[key]:{sign}.{digits}f}" for key, sign in (("exact", ""), ("quantized", "")))
    changed = f"{row['lost']}, {row['won']}" if unit == "%" else ""
    return f"| {name}{of}, {unit} | {values} | {row['difference']:+.{digits}f} | {changed} |"


def main(arguments: list[str] | None = None) -> int:
    parser = command.parser("quantized_quality", __doc__)
    parser.add_argument("--quantize", choices=("fp8",), default="fp8", help="the form to measure (default: fp8)")
    parser.add_argument("--tasks", default=",".join(SHORT_NAMES), help="which, by commas (default: %(default)s)")
    parser.add_argument("--count", type=command.at_least(4), default=200, help="cases of each task (default: 200)")
    parser.add_argument("--seed", type=int, default=SEED, help="of the cases; must not be the seed of training")
    parser.add_argument("--steps", type=command.at_least(1), help="denoising steps, else the model's default")
    parser.add_argument("--batch", type=command.at_least(1), default=20, help="clips per batch (default: 20)")
    parser.add_argument("--out", type=Path, help=command.OUT_HELP)
    args = parser.parse_args(arguments)
    kinds = [SHORT_NAMES.get(name.strip()) for name in args.tasks.split(",")]
    if None in kinds:
        parser.error(f"--tasks: {args.tasks!r} must be of {', '.join(SHORT_NAMES)}")
    card, other = find_model(MODEL), find_model(MODEL, quantize=args.quantize)
    exact, quantized = LocalPipeline.load(card), LocalPipeline.load(other)
    network = exact.denoiser.transformer
    measured = {
        "model": MODEL,
        "quantize": args.quantize,
        "blocks": [*middle_blocks(network.config.num_layers)],
        "steps": args.steps or card.default_steps,
        "count": args.count,
        "seed": args.seed,
    }
    record: dict[str, Any] = {
        "environment": header(network.device, command.command_line("quantized_quality", arguments), args.seed),
        "measured": measured,
        "tasks": _kept(args.out, measured),
    }
    for kind in kinds:
        if kind is None or kind in record["tasks"]:
            continue
        started = time.monotonic()
        cases = held_out(kind, card, max(args.count, len(GROUPS[kind])), args.seed, args.steps)
        task = summarise(kind, list(pairs(exact, quantized, cases, args.batch)))
        record["tasks"][kind] = task | {"seconds": round(time.monotonic() - started)}
        command.write_results(args.out, record, page(record))
        print(f"{kind}: {task['cases']} cases, {time.monotonic() - started:.0f} s", file=sys.stderr, flush=True)
    command.write_results(args.out, record, page(record))
    print(page(record))
    return 0 if all(task["within"] for task in record["tasks"].values()) else 1


def _kept(out: Path | None, measured: dict[str, Any]) -> dict[str, Any]:
    """Return the tasks that an earlier run with the same settings has written."""
    path = None if out is None else out.with_suffix("").with_name(f"{out.with_suffix('').name}.json")
    if path is None or not path.is_file():
        return {}
    earlier: dict[str, Any] = json.loads(path.read_text())
    return dict(earlier["tasks"]) if earlier.get("measured") == measured else {}


if __name__ == "__main__":
    sys.exit(main())
