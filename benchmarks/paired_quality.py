"""Compare nano's clips made in two ways, case by case: the oracle's scores of both, and how far apart they are.

What `quantized_quality` and `cached_quality` share. Results are written after every batch, single clips to
OUT-clips.json; a run with the same settings keeps these, so one that was stopped goes on.
"""

from __future__ import annotations

import json
import math
import statistics
from pathlib import Path
from typing import Any

import numpy as np
import torch

from zoetrope.model.nano.cases import NanoCase
from zoetrope.model.nano.measures import MAX_PSNR, MEASURES, CaseOutcome, Measure, examine, psnr
from zoetrope.model.nano.report import DIGITS
from zoetrope.model.nano.samples import TaskKind
from zoetrope.model.pipeline import LocalPipeline

POINTS = 2.0  # that a share may differ
Clip = dict[str, Any]  # of one case: what `compare` returns


def pair(
    pipeline: LocalPipeline, case: NanoCase, other_case: NanoCase, latents: torch.Tensor, other: torch.Tensor
) -> Clip:
    """Decode and compare a case's latents ``[C, T, H, W]``; ``other_case`` is the same one, made in the other way."""
    ours, theirs = (
        examine(which, np.concatenate(list(pipeline.decode(clip))))
        for which, clip in ((case, latents), (other_case, other))
    )
    apart = {
        "latents_error": float((other - latents).norm() / latents.norm()),
        "latents_psnr": latents_psnr(latents, other),
    }
    return compare(ours, theirs, apart)


def compare(exact: CaseOutcome, other: CaseOutcome, apart: dict[str, float]) -> Clip:
    """Return a clip's figures: how far ``apart`` both are, and every measure that applies as ``[exact, other]``."""
    frames = psnr(*(outcome.frames[: exact.case.spec.frames] for outcome in (exact, other)))
    found = {m.name: [m.value(exact), m.value(other)] for m in MEASURES if m.applies(exact)}
    figures = {name: round(value, 5) for name, value in {**apart, "frames_psnr": frames}.items()}
    return {**figures, "measures": {name: [round(value, 5) for value in row] for name, row in found.items()}}


def latents_psnr(exact: torch.Tensor, other: torch.Tensor) -> float:
    """Return the PSNR in dB of latents, with the range of the exact ones as the peak; at most `MAX_PSNR`."""
    error = float((other - exact).double().square().mean())
    peak = float(exact.max() - exact.min())
    return MAX_PSNR if error == 0 else min(MAX_PSNR, 10 * math.log10(peak**2 / error))


def summarise(kind: TaskKind, clips: list[Clip], name: str) -> dict[str, Any]:
    """Summarise one task: every measure both ways, the other one under ``name``, and how far apart the clips are.

    A share is within the limit if it differs by `POINTS`, or by one case where that is more.
    """
    rows = {}
    for measure in MEASURES:
        values = [clip["measures"][measure.name] for clip in clips if measure.name in clip["measures"]]
        if measure.task == kind and values:
            rows[measure.name] = _row(measure, values, name)
    return {
        "cases": len(clips),
        "measures": rows,
        "latents_error": _spread([clip["latents_error"] for clip in clips], worst=max),
        "latents_psnr": _spread([clip["latents_psnr"] for clip in clips], worst=min),
        "frames_psnr": _spread([clip["frames_psnr"] for clip in clips], worst=min),
        "within": all(_within(row) for row in rows.values() if row["unit"] == "%"),
    }


def _within(row: dict[str, Any]) -> bool:
    return bool(abs(row["difference"]) <= max(POINTS, 100 / row["cases"] + 1e-3))


def _row(measure: Measure, values: list[list[float]], name: str) -> dict[str, Any]:
    unit = 100.0 if measure.unit == "%" else 1.0
    exact, other = (unit * statistics.fmean(side) for side in zip(*values, strict=True))
    row: dict[str, Any] = {
        "unit": measure.unit,
        "cases": len(values),
        "exact": round(exact, 4),
        name: round(other, 4),
        "difference": round(other - exact, 4),
    }
    if measure.unit == "%":
        row |= {"lost": sum(a > b for a, b in values), "won": sum(a < b for a, b in values)}
    return row


def _spread(values: list[float], worst: Any) -> dict[str, float]:
    return {"mean": round(statistics.fmean(values), 5), "worst": round(worst(values), 5)}


def spread_line(kind: str, task: dict[str, Any]) -> str:
    """Return a task's row: how far apart its clips are."""
    error, latents, frames = (task[name] for name in ("latents_error", "latents_psnr", "frames_psnr"))
    return (
        f"| {kind} | {task['cases']} | {error['mean']:.1%} ({error['worst']:.1%}) | {latents['mean']:.1f} dB "
        f"({latents['worst']:.1f}) | {frames['mean']:.1f} dB ({frames['worst']:.1f}) | "
        f"{'within' if task['within'] else 'beyond'} {POINTS:g} points |"
    )


SPREAD_HEAD = (
    "| task | cases | latents differ by (worst) | PSNR of latents (worst) | PSNR of frames (worst) | shares |",
    "|---|---|---|---|---|---|",
)


def measure_lines(kind: str, task: dict[str, Any], name: str, title: str) -> list[str]:
    """Return a task's table: every measure both ways. ``name``: as for `summarise`."""
    lines = ["", f"| {kind} | exact | {title} | difference | lost, won |", "|---|---|---|---|---|"]
    return [*lines, *(_line(measure, row, task["cases"], name) for measure, row in task["measures"].items())]


def _line(measure: str, row: dict[str, Any], cases: int, name: str) -> str:
    unit, digits = row["unit"], DIGITS[row["unit"]]
    of = "" if row["cases"] == cases else f" ({row['cases']} cases)"
    values = " | ".join(f"{row[key]:{sign}.{digits}f}" for key, sign in (("exact", ""), (name, "")))
    changed = f"{row['lost']}, {row['won']}" if unit == "%" else ""
    return f"| {measure}{of}, {unit} | {values} | {row['difference']:+.{digits}f} | {changed} |"


def clips_path(out: Path) -> Path:
    """Return where single clips are written."""
    stem = out.with_suffix("") if out.suffix == ".json" else out
    return stem.with_name(f"{stem.name}-clips.json")


def kept_clips(out: Path | None, measured: dict[str, Any]) -> dict[Any, Any]:
    """Return the clips that an earlier run with the same settings has written; empty if there are none."""
    if out is None or not clips_path(out).is_file():
        return {}
    earlier: dict[str, Any] = json.loads(clips_path(out).read_text())
    return dict(earlier["clips"]) if earlier.get("measured") == measured else {}
