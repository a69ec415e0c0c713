"""Measures of nano's clips, task by task, with targets.

A share counts the cases that the oracle (`model.nano.oracle`) finds right in the frames of the file. PSNR and IoU are
means over the cases: of each case's decibels, and of its mean IoU over the frames.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from zoetrope.model.nano.cases import Frames, NanoCase
from zoetrope.model.nano.oracle import OracleVerdict, judge, judge_pair
from zoetrope.model.nano.samples import TaskKind

PARTS = ("color", "background", "shape", "direction")
MAX_PSNR = 100.0  # dB, of equal pictures
SINGLE = ("one", "one_of_two")


@dataclass(frozen=True, eq=False)
class CaseOutcome:
    """A generated clip and what the oracle saw in it.

    Attributes:
        frames: ``[F, H, W, 3]`` uint8, all that the autoencoder gave back; those past the file's are not judged.
        verdicts: one for each shape that is wanted.
    """

    case: NanoCase
    frames: Frames
    verdicts: tuple[OracleVerdict, ...]

    def seen(self, part: str, number: int = 0) -> str | None:
        value: str | None = getattr(self.verdicts[number], part)
        return value

    def right(self, *parts: str) -> bool:
        """Tell whether every shape has these parts as wanted."""
        return all(self.seen(p, i) == wanted[p] for i, wanted in enumerate(self.case.wanted) for p in parts)


def examine(case: NanoCase, frames: Frames) -> CaseOutcome:
    """Judge a decoded clip; two shapes each in its lane."""
    shown = frames[: case.spec.frames]
    if len(case.wanted) == 2:
        return CaseOutcome(case, frames, judge_pair(shown, case.wanted[0]["direction"]))
    return CaseOutcome(case, frames, (judge(shown),))


@dataclass(frozen=True)
class Measure:
    """One row of the report.

    Attributes:
        value: of one case; right or wrong count as 1 and 0.
        target: None if the row is only informative.
        groups: of cases that count; empty: all of the task.
        part: the attribute that it measures, so that the report can list what was seen instead.
    """

    task: TaskKind
    name: str
    unit: Literal["%", "dB", "IoU"]
    value: Callable[[CaseOutcome], float]
    target: float | None = None
    groups: tuple[str, ...] = ()
    part: str | None = None

    def applies(self, outcome: CaseOutcome) -> bool:
        case = outcome.case
        return case.kind == self.task and (not self.groups or case.group in self.groups)


def psnr(one: Frames, other: Frames) -> float:
    """Return the PSNR in dB of pixels in 0..1; equal pictures have `MAX_PSNR`.

    Raises:
        ValueError: the shapes differ.
    """
    if one.shape != other.shape:
        raise ValueError(f"pictures of {one.shape} and {other.shape} cannot be compared")
    error = float(np.square((one.astype(np.float64) - other) / 255).mean())
    return MAX_PSNR if error == 0 else min(MAX_PSNR, -10 * math.log10(error))


def first_frame_psnr(outcome: CaseOutcome) -> float:
    """Compare the clip's first frame with the given picture."""
    picture = outcome.case.inputs.first
    if picture is None:
        raise ValueError(f"a case of {outcome.case.kind} has no first frame")
    return psnr(outcome.frames[0], picture.pixels)


def last_frame_psnr(outcome: CaseOutcome) -> float:
    """Compare the last frame that the model made with the given picture; the file may end a few frames earlier."""
    picture = outcome.case.inputs.last
    if picture is None:
        raise ValueError(f"a case of {outcome.case.kind} has no last frame")
    return psnr(outcome.frames[-1], picture.pixels)


def motion_iou(outcome: CaseOutcome) -> float:
    """Return the mean over the frames of the foreground's IoU with that of the given clip, as the oracle sees both.

    An edit by reference changes the shape: there the generator's own result, the source's motion with the new shape,
    replaces the source. A frame without foreground in either clip counts 0.
    """
    case = outcome.case
    if case.inputs.video is None:
        raise ValueError(f"a case of {case.kind} has no clip to follow")
    followed = case.ideal if case.group == "edit_object" else case.inputs.video.frames
    wanted = judge(followed[: case.spec.frames]).masks
    seen = outcome.verdicts[0].masks
    union = (wanted | seen).sum((1, 2))
    return float(((wanted & seen).sum((1, 2)) / np.maximum(union, 1)).mean())


def _right(*parts: str) -> Callable[[CaseOutcome], float]:
    return lambda outcome: float(outcome.right(*parts))


def _share(
    task: TaskKind, part: str, target: float | None = None, groups: tuple[str, ...] = (), name: str | None = None
) -> Measure:
    return Measure(task, name or part, "%", _right(part), target, groups, part)


def _shares(task: TaskKind, **targets: float | None) -> tuple[Measure, ...]:
    return tuple(_share(task, part, target) for part, target in targets.items())


MEASURES: tuple[Measure, ...] = (
    *_shares("text_to_video", color=95, background=95, shape=90, direction=90),
    Measure("text_to_video", "all four", "%", _right(*PARTS)),
    Measure("image_to_video", "first frame", "dB", first_frame_psnr, 28),
    *_shares("image_to_video", direction=90, color=None, background=None, shape=None),
    Measure("first_last_frame", "first frame", "dB", first_frame_psnr, 28),
    Measure("first_last_frame", "last frame", "dB", last_frame_psnr, 28),
    *_shares("first_last_frame", color=None, background=None, shape=None, direction=None),
    Measure("grid_to_video", "object of the panels", "%", _right("color", "shape"), 90),
    *(
        Measure("grid_to_video", f"object, {text}", "%", _right("color", "shape"), groups=(group,))
        for group, text in (("panels", "nine pictures"), ("sheet", "one sheet"))
    ),
    *_shares("grid_to_video", color=None, background=None, shape=None, direction=None),
    _share("reference_to_video", "color", 95, SINGLE, "color, one object meant"),
    _share("reference_to_video", "shape", 85, SINGLE, "shape, one object meant"),
    Measure("reference_to_video", "both present (colors, each in its lane)", "%", _right("color"), 80, ("both",)),
    Measure("reference_to_video", "both, shapes right too", "%", _right("color", "shape"), groups=("both",)),
    *(
        Measure("reference_to_video", f"color and shape, {text}", "%", _right("color", "shape"), groups=(group,))
        for group, text in (("one", "one picture"), ("one_of_two", "one of two pictures"))
    ),
    *_shares("reference_to_video", background=None, direction=None),
    _share("edit_video", "color", 95, ("edit_color",), "color edits obeyed"),
    _share("edit_video", "background", 95, ("edit_background",), "background edits obeyed"),
    Measure("edit_video", "edits by reference obeyed", "%", _right("color", "shape"), 95, ("edit_object",)),
    *(
        Measure("edit_video", f"motion kept, {text}", "IoU", motion_iou, 0.85, (group,))
        for group, text in (
            ("edit_color", "color edits"),
            ("edit_background", "background edits"),
            ("edit_object", "edits by reference"),
        )
    ),
    _share("edit_video", "color", None, ("edit_object",), "color, edits by reference"),
    _share("edit_video", "shape", None, ("edit_object",), "shape, edits by reference"),
    Measure("edit_video", "all as asked, the rest as it was", "%", _right(*PARTS)),
)
