"""Measure what 8-bit weights cost in quality: nano's clips with ``--quantize`` beside those without, task by task.

    python -m zoetrope.benchmarks.quantized_quality --out benchmarks/results/quantized-quality

Both networks make the same held-out cases (`model.nano.cases`) from the same noise. The oracle (`model.nano.measures`)
scores each clip; latents are compared by their relative error and PSNR, the decoded frames by their PSNR. The tasks
take turns, a batch each, and the results so far are written after every batch, single clips to OUT-clips.json. A run
with the same settings keeps these: one that was stopped goes on, and a larger --count adds to it. Exits with 1 if a
share of right cases differs by more than 2 points.

On a CPU the products are those of `kernels.reference`: of the same 8-bit numbers, summed in float32.
"""

from __future__ import annotations

import json
import math
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from zoetrope.benchmarks import command
from zoetrope.benchmarks.environment import header
from zoetrope.benchmarks.provenance import commit_of
from zoetrope.model.catalog.presets import find_model
from zoetrope.model.families.quantization import middle_blocks
from zoetrope.model.nano.cases import NanoCase, held_out
from zoetrope.model.nano.evaluate import SHORT_NAMES
from zoetrope.model.nano.measures import MAX_PSNR, MEASURES, CaseOutcome, Measure, examine, psnr
from zoetrope.model.nano.report import DIGITS
from zoetrope.model.nano.samples import TaskKind
from zoetrope.model.pipeline import LocalPipeline, quiet
from zoetrope.model.request.load_options import LoadOptions

MODEL = "nano"
SEED = 987654  # of `model.nano.evaluate`
POINTS = 2.0  # that a share may differ
NOTE = (
    "Shares are of the cases, PSNR and IoU means over them; *lost* and *won* count the cases that are right only "
    "without and only with 8 bits. A difference of latents: the norm of the difference over that of the exact ones; "
    "PSNR takes the range of a clip's exact latents as its peak, and 255 for frames. A sampler amplifies small errors: "
    "clips that differ may be equally good, which is what the oracle's shares tell."
)


Clip = dict[str, Any]  # of one case: what `compare` returns


def pairs(exact: LocalPipeline, quantized: LocalPipeline, cases: list[NanoCase]) -> list[Clip]:
    """Make the cases by both pipelines, in one batch of mixed sizes, and compare them."""
    specs, inputs = [case.spec for case in cases], [case.inputs for case in cases]
    made = [pipeline.run_batch(specs, quiet, inputs) for pipeline in (exact, quantized)]
    clips = []
    for case, one, other in zip(cases, *made, strict=True):
        ours, theirs = (examine(case, np.concatenate(list(exact.decode(latents)))) for latents in (one, other))
        apart = {"latents_error": float((other - one).norm() / one.norm()), "latents_psnr": latents_psnr(one, other)}
        clips.append(compare(ours, theirs, apart))
    return clips


def compare(exact: CaseOutcome, quantized: CaseOutcome, apart: dict[str, float]) -> Clip:
    """Return a clip's figures: how far ``apart`` both are, and every measure that applies as ``[exact, quantized]``."""
    frames = psnr(*(outcome.frames[: exact.case.spec.frames] for outcome in (exact, quantized)))
    found = {m.name: [m.value(exact), m.value(quantized)] for m in MEASURES if m.applies(exact)}
    figures = {name: round(value, 5) for name, value in {**apart, "frames_psnr": frames}.items()}
    return {**figures, "measures": {name: [round(value, 5) for value in row] for name, row in found.items()}}


def latents_psnr(exact: torch.Tensor, other: torch.Tensor) -> float:
    """Return the PSNR in dB of latents, with the range of the exact ones as the peak; at most `MAX_PSNR`."""
    error = float((other - exact).double().square().mean())
    peak = float(exact.max() - exact.min())
    return MAX_PSNR if error == 0 else min(MAX_PSNR, 10 * math.log10(peak**2 / error))


def summarise(kind: TaskKind, clips: list[Clip]) -> dict[str, Any]:
    """Summarise one task: every measure both ways, and how far apart the clips are."""
    rows = {}
    for measure in MEASURES:
        values = [clip["measures"][measure.name] for clip in clips if measure.name in clip["measures"]]
        if measure.task == kind and values:
            rows[measure.name] = _row(measure, values)
    return {
        "cases": len(clips),
        "measures": rows,
        "latents_error": _spread([clip["latents_error"] for clip in clips], worst=max),
        "latents_psnr": _spread([clip["latents_psnr"] for clip in clips], worst=min),
        "frames_psnr": _spread([clip["frames_psnr"] for clip in clips], worst=min),
        "within": all(abs(row["difference"]) <= POINTS for row in rows.values() if row["unit"] == "%"),
    }


def _row(measure: Measure, values: list[list[float]]) -> dict[str, Any]:
    unit = 100.0 if measure.unit == "%" else 1.0
    exact, quantized = (unit * statistics.fmean(side) for side in zip(*values, strict=True))
    row: dict[str, Any] = {
        "unit": measure.unit,
        "cases": len(values),
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
    parser.add_argument("--count", type=command.at_least(1), default=200, help="cases of each task (default: 200)")
    parser.add_argument("--seed", type=int, default=SEED, help="of the cases; must not be the seed of training")
    parser.add_argument("--steps", type=command.at_least(1), help="denoising steps, else the model's default")
    parser.add_argument("--batch", type=command.at_least(1), default=10, help="clips per batch (default: 10)")
    parser.add_argument("--out", type=Path, help=command.OUT_HELP)
    args = parser.parse_args(arguments)
    names = [name.strip() for name in args.tasks.split(",")]
    if not SHORT_NAMES.keys() >= set(names):
        parser.error(f"--tasks: {args.tasks!r} must be of {', '.join(SHORT_NAMES)}")
    kinds: list[TaskKind] = [SHORT_NAMES[name] for name in names]
    card, other = find_model(MODEL), find_model(MODEL, LoadOptions(quantize=args.quantize))
    exact, quantized = LocalPipeline.load(card), LocalPipeline.load(other)
    network = exact.denoiser.transformer
    measured = {
        "model": MODEL,
        "quantize": args.quantize,
        "blocks": [*middle_blocks(network.config.num_layers)],
        "steps": args.steps or card.default_steps,
        "seed": args.seed,
    }
    clips = _kept(args.out, measured)
    record: dict[str, Any] = {
        "environment": header(network.device, command.command_line("quantized_quality", arguments), args.seed),
        "measured": measured,
        "tasks": {kind: summarise(kind, made) for kind, made in clips.items()},
    }
    for start in range(0, args.count, args.batch):
        for kind in kinds:
            done = clips.setdefault(kind, [])
            wanted = min(args.count, start + args.batch)
            if len(done) >= wanted:
                continue
            started = time.monotonic()
            done += pairs(exact, quantized, held_out(kind, card, wanted, args.seed, args.steps)[len(done) :])
            record["tasks"][kind] = summarise(kind, done)
            command.write_results(args.out, record, page(record))
            if args.out is not None:
                command.write_json(_clips_path(args.out), {"measured": measured, "clips": clips}, indent=None)
            print(f"{kind}: {len(done)} cases, {time.monotonic() - started:.0f} s", file=sys.stderr, flush=True)
    command.write_results(args.out, record, page(record))
    print(page(record))
    return 0 if all(task["within"] for task in record["tasks"].values()) else 1


def _clips_path(out: Path) -> Path:
    stem = out.with_suffix("") if out.suffix == ".json" else out
    return stem.with_name(f"{stem.name}-clips.json")


def _kept(out: Path | None, measured: dict[str, Any]) -> dict[TaskKind, list[Clip]]:
    """Return the clips that an earlier run with the same settings has written, by task."""
    if out is None or not _clips_path(out).is_file():
        return {}
    earlier: dict[str, Any] = json.loads(_clips_path(out).read_text())
    return dict(earlier["clips"]) if earlier.get("measured") == measured else {}


if __name__ == "__main__":
    sys.exit(main())
