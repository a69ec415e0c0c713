"""Compare nano's clips made in two ways, case by case: the oracle's scores of both, and how far apart they are."""

from __future__ import annotations

import math
import statistics
from typing import Any

import torch

from zoetrope.model.nano.measures import MAX_PSNR, MEASURES, CaseOutcome, Measure, psnr
from zoetrope.model.nano.samples import TaskKind

POINTS = 2.0  # that a share may differ
Clip = dict[str, Any]  # of one case: what `compare` returns


def compare(exact: CaseOutcome, other: CaseOutcome, apart: dict[str, float]) -> Clip:
    """Return a clip's figures: how far ``apart`` both are, and every measure that applies as ``[exact, other]``."""
    frames = psnr(*(outcome.frames[: exact.case.spec.frames] for outcome in (exact, other)))
    found = {m.name: [m.value(exact), m.value(other)] for m in MEASURES if m.applies(exact)}
    figures = {name: float(f"{value:.6g}") for name, value in {**apart, "frames_psnr": frames}.items()}
    return {**figures, "measures": {name: [round(value, 5) for value in row] for name, row in found.items()}}


def latents_apart(exact: torch.Tensor, other: torch.Tensor) -> dict[str, float]:
    """Return the relative error of latents ``[C, T, H, W]`` and their PSNR in dB."""
    return {
        "latents_error": float((other - exact).norm() / exact.norm()),
        "latents_psnr": latents_psnr(exact, other),
    }


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
