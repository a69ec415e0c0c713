"""Recognise from pixels what a clip of nano's world shows: the judge of generated clips, independent of the model.

All thresholds are fractions (of the colour range, of the shorter side), so that the size of the clip does not matter.
Large clips are shrunk first: the world has no detail that a shorter side of `WORKING_SIDE` pixels would lose.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F

from zoetrope.model.nano.world import BACKGROUNDS, COLORS, DIRECTIONS, SHAPES, shape_mask

WORKING_SIDE = 96
MIN_CONTRAST = 0.2  # distance in RGB below which there is no foreground; the closest pair of the world is 0.47 apart
MAX_COLOR_ERROR = 0.35
MAX_BACKGROUND_ERROR = 0.25
MAX_BACKGROUND_CHROMA = 0.25
MAX_BORDER_SPREAD = 0.12  # median absolute deviation; noise has 0.25
MIN_AREA = 0.01  # of the squared shorter side; the smallest shape of the world has 0.04
MAX_AREA = 0.6  # of the frame
MIN_OBJECT_IOU = 0.4  # below it the foreground is not a single object; scattered pixels reach 0.33
MIN_IOU = 0.6
MIN_TRAVEL = 0.05  # of the shorter side
MAX_SLANT = 0.6  # travel across / travel along


@dataclass(frozen=True)
class OracleVerdict:
    """What was recognised; None if the clip does not show it clearly.

    Attributes:
        centroids: ``[F, 2]`` float64, x and y of the foreground in pixels of the judged frames, NaN where a frame
            has none.
        masks: ``[F, h, w]`` bool, the foreground at the working size (the frames' own where the shorter side fits
            `WORKING_SIDE`).
        shape_iou: for each shape, the mean IoU of the fitted shape with the foreground.
    """

    color: str | None
    shape: str | None
    direction: str | None
    background: str | None
    centroids: npt.NDArray[np.float64]
    masks: npt.NDArray[np.bool_]
    shape_iou: dict[str, float]


def judge(frames: torch.Tensor | npt.NDArray[np.uint8]) -> OracleVerdict:
    """Judge a clip ``[F, H, W, 3]`` uint8.

    Raises:
        ValueError: the array has another shape or dtype, or no frames.
    """
    video = torch.as_tensor(frames)
    if video.ndim != 4 or video.shape[-1] != 3 or video.dtype != torch.uint8 or 0 in video.shape:
        raise ValueError(f"frames must be uint8 [F, H, W, 3], got {video.dtype} {tuple(video.shape)}")
    height, width = video.shape[1:3]
    pixels = _shrink(video.permute(0, 3, 1, 2).float() / 255)
    side = min(pixels.shape[2:])

    border = _border(pixels)
    back = border.median(1).values  # [3]
    spread = float((border - back[:, None]).abs().median())
    background = _name_background(back) if spread <= MAX_BORDER_SPREAD else None

    alpha, object_color = _foreground(pixels, back, spread)
    masks = alpha > 0.5
    area = masks.sum((1, 2))
    present = (area >= MIN_AREA * side * side) & (area <= MAX_AREA * masks[0].numel())
    centroids = _centroids(masks)
    centroids[~present] = torch.nan
    scale = torch.tensor([width / pixels.shape[3], height / pixels.shape[2]], dtype=torch.float64)

    color, shape, direction, iou = None, None, None, dict.fromkeys(SHAPES, 0.0)
    if int(present.sum()) * 2 >= len(pixels):
        iou = _shape_iou(alpha[present], masks[present], centroids[present])
        best = max(iou, key=lambda name: iou[name])
        if iou[best] >= MIN_OBJECT_IOU:
            color = _name_color(object_color)
            shape = best if iou[best] >= MIN_IOU else None
            direction = _direction(centroids, side)
    return OracleVerdict(
        color=color,
        shape=shape,
        direction=direction,
        background=background,
        centroids=(centroids * scale).numpy(),
        masks=masks.numpy(),
        shape_iou=iou,
    )


def judge_pair(frames: torch.Tensor | npt.NDArray[np.uint8], direction: str) -> tuple[OracleVerdict, OracleVerdict]:
    """Judge a clip ``[F, H, W, 3]`` uint8 of two shapes that move side by side, each half of the frame alone.

    A foreground across the seam in most frames is a single object, so neither is recognised.

    Args:
        direction: of the requested movement. Lanes run along it: the halves are the upper and the lower one for a
            horizontal movement, else the left and the right one, in this order.

    Raises:
        ValueError: as `judge`; frames that have no two halves; no such direction.
    """
    video = torch.as_tensor(frames)
    if direction not in DIRECTIONS:
        raise ValueError(f"direction is {direction!r}, must be one of {', '.join(DIRECTIONS)}")
    axis = 1 if DIRECTIONS[direction][1] == 0 else 2  # across the movement
    if video.ndim != 4 or video.shape[axis] < 2:
        raise ValueError(f"frames must be uint8 [F, H, W, 3] with two halves, got {video.dtype} {tuple(video.shape)}")
    half = video.shape[axis] // 2  # a middle line belongs to neither
    first, second = judge(video.narrow(axis, 0, half)), judge(video.narrow(axis, video.shape[axis] - half, half))
    touching = torch.from_numpy(first.masks).select(axis, -1) & torch.from_numpy(second.masks).select(axis, 0)
    if int(touching.any(1).sum()) * 2 > len(video):
        first, second = (replace(v, color=None, shape=None, direction=None) for v in (first, second))
    return first, second


def _shrink(pixels: torch.Tensor) -> torch.Tensor:
    """Shrink ``[F, 3, H, W]`` to a shorter side of at most `WORKING_SIDE`, averaging areas."""
    height, width = pixels.shape[2:]
    factor = min(height, width) / WORKING_SIDE
    if factor <= 1:
        return pixels
    return F.interpolate(pixels, (round(height / factor), round(width / factor)), mode="area")


def _border(pixels: torch.Tensor) -> torch.Tensor:
    """Return all pixels of a frame's rim, ``[3, n]``; the rim is 3 % of the shorter side wide."""
    rim = max(1, round(0.03 * min(pixels.shape[2:])))
    parts = (pixels[:, :, :rim], pixels[:, :, -rim:], pixels[:, :, :, :rim], pixels[:, :, :, -rim:])
    return torch.cat([p.transpose(0, 1).flatten(1) for p in parts], dim=1)


def _foreground(pixels: torch.Tensor, back: torch.Tensor, spread: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Return how much of each pixel is foreground, ``[F, h, w]`` in 0..1, and the foreground's colour ``[3]``.

    A pixel on a soft edge is a mix of the two colours: its share is its projection on the line between them.
    """
    offset = pixels - back[:, None, None]
    distance = offset.square().sum(1).sqrt()
    peak = float(distance.flatten().topk(distance.numel() // 100 + 1).values[-1])  # past one per cent of stray pixels
    if peak < MIN_CONTRAST or spread > MAX_BORDER_SPREAD:
        return torch.zeros_like(distance), back
    solid = distance > 0.6 * peak
    inside = _erode(solid)
    core = inside if bool(inside.any()) else solid
    color = pixels.transpose(0, 1)[:, core].median(1).values
    line = color - back
    share = (offset * line[:, None, None]).sum(1) / line.square().sum().clamp_min(1e-6)
    return share.clamp(0, 1), color


def _erode(mask: torch.Tensor) -> torch.Tensor:
    """Return the pixels whose 3 x 3 neighbourhood is in the mask ``[F, h, w]``."""
    padded = F.pad((~mask).float()[:, None], (1, 1, 1, 1), value=1.0)
    return F.max_pool2d(padded, 3, stride=1)[:, 0] == 0


def _centroids(masks: torch.Tensor) -> torch.Tensor:
    """Return the centroids of masks ``[F, h, w]`` as ``[F, 2]`` float64; NaN for an empty mask."""
    weight = masks.double()
    height, width = masks.shape[1:]
    total = weight.sum((1, 2))
    x = (weight.sum(1) * (torch.arange(width) + 0.5)).sum(1) / total
    y = (weight.sum(2) * (torch.arange(height) + 0.5)).sum(1) / total
    return torch.stack([x, y], dim=1)


def _name_color(color: torch.Tensor) -> str | None:
    errors = {name: float((color - torch.tensor(rgb)).norm()) for name, rgb in COLORS.items()}
    name = min(errors, key=lambda n: errors[n])
    return name if errors[name] <= MAX_COLOR_ERROR else None


def _name_background(color: torch.Tensor) -> str | None:
    luminance = float(color @ torch.tensor([0.2126, 0.7152, 0.0722]))
    errors = {name: abs(level - luminance) for name, level in BACKGROUNDS.items()}
    name = min(errors, key=lambda n: errors[n])
    chroma = float(color.max() - color.min())
    return name if errors[name] <= MAX_BACKGROUND_ERROR and chroma <= MAX_BACKGROUND_CHROMA else None


@lru_cache(maxsize=1)
def _unit_shapes() -> tuple[tuple[float, float], ...]:
    """Measure, for each shape of radius 1, its area and how far its centroid is below its centre."""
    radius, size = 100.0, 320
    along = torch.arange(size) + 0.5 - size / 2
    kinds = torch.arange(len(SHAPES))
    mask = shape_mask(kinds, torch.full((len(SHAPES),), radius), along[None, None, None], along[None, None, :, None])
    area = mask.sum((1, 2, 3))
    drop = (mask.sum((1, 3)) * along).sum(1) / area
    return tuple((float(a) / radius**2, float(d) / radius) for a, d in zip(area, drop, strict=True))


def _shape_iou(alpha: torch.Tensor, masks: torch.Tensor, centroids: torch.Tensor) -> dict[str, float]:
    """Return the mean soft IoU of the foreground with each shape of the same centroid and area."""
    frames, height, width = alpha.shape
    area = masks.sum((1, 2)).double()
    weight = ((alpha - 0.25) * 2).clamp(0, 1)  # neither soft edges nor ripples around them count
    result = {}
    for index, (unit_area, unit_drop) in enumerate(_unit_shapes()):
        radius = (area / unit_area).sqrt()
        cx, cy = centroids[:, 0], centroids[:, 1] - unit_drop * radius
        dx = torch.arange(width) + 0.5 - cx[:, None]
        dy = torch.arange(height) + 0.5 - cy[:, None]
        kind = torch.full((frames,), index)
        fit = shape_mask(kind, radius, dx[:, None, None, :], dy[:, None, :, None])[:, 0]
        union = torch.maximum(weight, fit).sum((1, 2)).clamp_min(1e-6)
        result[SHAPES[index]] = float((torch.minimum(weight, fit).sum((1, 2)) / union).mean())
    return result


def _direction(centroids: torch.Tensor, side: int) -> str | None:
    """Return the direction from the mean centroid of the first quarter of the frames to that of the last."""
    quarter = max(1, len(centroids) // 4)
    x, y = (centroids[-quarter:].nanmean(0) - centroids[:quarter].nanmean(0)).tolist()
    along, across = max(abs(x), abs(y)), min(abs(x), abs(y))
    if not along >= MIN_TRAVEL * side or across > MAX_SLANT * along:  # `not` catches NaN
        return None
    return max(DIRECTIONS, key=lambda name: DIRECTIONS[name][0] * x + DIRECTIONS[name][1] * y)
