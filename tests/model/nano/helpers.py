"""What the tests of nano share besides fixtures."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch

from zoetrope.model.nano.cases import Frames, NanoCase, pixels_of
from zoetrope.model.nano.oracle import OracleVerdict
from zoetrope.model.nano.prompts import words_of
from zoetrope.model.nano.world import BACKGROUNDS, COLORS, SHAPES, Scenes, shape_mask

PARTS = ("color", "shape", "direction", "background")
pixels = pixels_of


def misjudged(verdict: OracleVerdict, scenes: Scenes, row: int) -> list[str]:
    """One line for each attribute of the scene that the oracle did not see."""
    words = words_of(scenes, row)
    return [
        f"{part} {words[part]} seen as {getattr(verdict, part)}"
        for part in PARTS
        if getattr(verdict, part) != words[part]
    ]


def other(names: tuple[str, ...], name: str) -> str:
    """Another of the names."""
    return names[(names.index(name) + 1) % len(names)]


def redraw(
    case: NanoCase, *, color: str | None = None, background: str | None = None, shape: str | None = None
) -> Frames:
    """The ideal clip of a case with one shape, in which one thing is another; the motion stays."""
    (words,) = case.wanted
    back, front = np.full(3, BACKGROUNDS[words["background"]]), np.array(COLORS[words["color"]])
    alpha = ((case.ideal / 255 - back) @ (front - back) / np.square(front - back).sum()).clip(0, 1)
    if shape is not None:
        alpha = _reshape(alpha, shape)
    new_back = back if background is None else np.full(3, BACKGROUNDS[background])
    new_front = front if color is None else np.array(COLORS[color])
    frames = new_back + alpha[..., None] * (new_front - new_back)
    result: Frames = (frames * 255).round().astype(np.uint8)
    return result


def _reshape(alpha: npt.NDArray[np.float64], shape: str) -> npt.NDArray[np.float64]:
    """Coverage ``[F, H, W]`` of another shape of the same area in the same places."""
    total = alpha.sum((1, 2))
    x = np.arange(alpha.shape[2]) + 0.5 - ((alpha.sum(1) * (np.arange(alpha.shape[2]) + 0.5)).sum(1) / total)[:, None]
    y = np.arange(alpha.shape[1]) + 0.5 - ((alpha.sum(2) * (np.arange(alpha.shape[1]) + 0.5)).sum(1) / total)[:, None]
    dx, dy = torch.from_numpy(x), torch.from_numpy(y)
    kind = torch.full((len(alpha),), SHAPES.index(shape))
    # The triangle is smaller for its radius, and its centroid lies below its centre.
    factor, drop = {"circle": (3.14, 0.0), "square": (3.1, 0.0), "triangle": (1.96, 0.22)}[shape]
    radius = torch.from_numpy(np.sqrt(total / factor))
    dy = dy + (drop * radius)[:, None]
    mask: npt.NDArray[np.float64] = shape_mask(kind, radius, dx[:, None, None, :], dy[:, None, :, None])[:, 0].numpy()
    return mask
