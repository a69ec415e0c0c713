"""Ways that only change how a model samples: levels of quality, an interval of guidance."""

from __future__ import annotations

from typing import Any

from zoetrope.benchmarks.quality.engine import ClipPair
from zoetrope.model.request.steps import forwards

INTERVAL = "guidance-"  # in the name of a variant: guidance-0.1-0.5
LEVELS = ("balanced", "fast")


def options_of(variant: str) -> dict[str, Any]:
    """Return the fields of a variant's requests. Raises ValueError for a name that is not one."""
    if variant in LEVELS:
        return {"quality": variant}
    start, dash, end = variant.removeprefix(INTERVAL).partition("-")
    if variant.startswith(INTERVAL) and dash:
        return {"guidance_start": float(start), "guidance_end": float(end)}
    raise ValueError(f"{variant!r} is neither balanced, fast nor {INTERVAL}START-END")


def forwards_of(_way: str, pair: ClipPair) -> dict[str, Any]:
    """Return the forwards of a pair's requests, and the mask of the other one's steps."""
    counts = [forwards(case.spec) for case in (pair.exact_case, pair.other_case)]
    return {"forwards": counts, "step_mask": pair.other_case.spec.step_mask}
