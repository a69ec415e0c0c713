"""Summarise the clips of all options: what each gains, and how far its clips are from the exact ones."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping
from typing import Any

from zoetrope.benchmarks.quality.engine import ClipPair, Clips
from zoetrope.benchmarks.quality.options import FLOOR, Size, title_of
from zoetrope.benchmarks.quality.pairs import Clip, summarise
from zoetrope.benchmarks.quality.sampling import forwards_of
from zoetrope.benchmarks.quality.similarity import ssim, steadiness, vmaf
from zoetrope.model.nano.cases import Frames
from zoetrope.model.nano.measures import MEASURES
from zoetrope.model.nano.samples import TaskKind

NAME = "other"
SPREADS: dict[str, Callable[[list[float]], float]] = {
    "latents_error": max,
    "frames_psnr": min,
    "ssim": min,
    "vmaf": min,
}  # figures of a clip, and which is the worst


def figures_of(ffmpeg: str | None, keep: Callable[[str, ClipPair], None]) -> Callable[[str, ClipPair], dict[str, Any]]:
    """Return what computes a pair's figures beyond the oracle's. ``ffmpeg``: with libvmaf; None: there is no VMAF.
    ``keep`` is called with every pair."""

    def figures(name: str, pair: ClipPair) -> dict[str, Any]:
        keep(name, pair)
        exact, other = shown(pair)
        found: dict[str, Any] = {**forwards_of(name, pair), "seconds": [round(s, 5) for s in pair.seconds]}
        found["equal"] = pair.equal
        found["ssim"] = round(ssim(exact, other), 6)
        if ffmpeg is not None:
            found["vmaf"] = round(vmaf(ffmpeg, exact, other), 4)
        found["steadiness"] = [round(steadiness(exact), 6), round(steadiness(other), 6)]
        return found

    return figures


def shown(pair: ClipPair) -> tuple[Frames, Frames]:
    """Return the frames of the file, exact and other; the autoencoder may have made a few more."""
    frames = pair.exact_case.spec.frames
    return pair.exact_frames[:frames], pair.other_frames[:frames]


def summary_of(name: str, kinds: Mapping[TaskKind, list[Clip]], size: Size | None) -> dict[str, Any]:
    """Summarise an option's clips of all tasks; ``kinds`` has at least one clip."""
    every = [clip for clips in kinds.values() for clip in clips]
    tasks = {}
    for kind, clips in kinds.items():
        if clips:
            task = summarise(kind, clips, NAME)
            tasks[kind] = {**_figures(kind, clips), "within": task["within"], "measures": task["measures"]}
    rights = [right_of(kind, clip) for kind, clips in kinds.items() for clip in clips]
    return {
        "title": title_of(name),
        "floor": name in FLOOR,
        "clips": len(every),
        "gain": _gain(every, size),
        "seconds": _means(every, "seconds"),
        "right": _shares(rights),
        "lost": sum(a > b for a, b in rights),
        "won": sum(a < b for a, b in rights),
        "equal": sum(clip["equal"] for clip in every),
        "steadiness": _means(every, "steadiness"),
        **_spreads(every),
        "tasks": tasks,
    }


def right_of(kind: TaskKind, clip: Clip) -> tuple[bool, bool]:
    """Tell whether the oracle found everything right in the exact clip, and in the other one."""
    asked = [m.name for m in MEASURES if m.task == kind and m.unit == "%" and m.name in clip["measures"]]
    exact, other = (all(clip["measures"][name][side] == 1 for name in asked) for side in (0, 1))
    return exact, other


def record_of(
    clips: Clips, sizes: Mapping[str, Size | None], measured: dict[str, Any], runs: list[dict[str, Any]]
) -> dict[str, Any]:
    """Summarise all options that have clips. ``runs``: what made them, see `clips.earlier_runs`."""
    options = {name: summary_of(name, kinds, sizes.get(name)) for name, kinds in clips.items() if any(kinds.values())}
    return {"environment": runs[-1], "runs": runs, "measured": measured, "options": options}


def _figures(kind: TaskKind, clips: list[Clip]) -> dict[str, Any]:
    rights = [right_of(kind, clip) for clip in clips]
    return {
        "cases": len(clips),
        "right": _shares(rights),
        "lost": sum(a > b for a, b in rights),
        "won": sum(a < b for a, b in rights),
        "steadiness": _means(clips, "steadiness"),
        **_spreads(clips),
    }


def _gain(clips: list[Clip], size: Size | None) -> dict[str, Any] | None:
    """Return what an option saves: bytes, or forwards where it computes fewer."""
    if size is not None:
        return {"of": size.kind, "exact": size.exact, "other": size.other, "times": round(size.exact / size.other, 3)}
    exact, other = _means(clips, "forwards")
    if exact == other:
        return None
    return {"of": "forwards", "exact": exact, "other": other, "times": round(exact / other, 3)}


def _shares(rights: list[tuple[bool, bool]]) -> list[float]:
    return [round(100 * statistics.fmean(side), 3) for side in zip(*rights, strict=True)]


def _means(clips: list[Clip], name: str) -> list[float]:
    return [round(statistics.fmean(side), 5) for side in zip(*(clip[name] for clip in clips), strict=True)]


def _spreads(clips: list[Clip]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, worst in SPREADS.items():
        values = [clip[name] for clip in clips if name in clip]
        found[name] = {"mean": _short(statistics.fmean(values)), "worst": _short(worst(values))} if values else None
    return found


def _short(value: float) -> float:
    return float(f"{value:.6g}")
