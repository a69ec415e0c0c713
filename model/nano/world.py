"""nano's world: one coloured shape that moves across a plain background, drawn for a whole batch at once."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import torch

COLORS: dict[str, tuple[float, float, float]] = {
    "red": (0.90, 0.10, 0.10),
    "green": (0.10, 0.70, 0.15),
    "blue": (0.12, 0.22, 0.95),
    "yellow": (0.97, 0.88, 0.10),
    "orange": (1.00, 0.52, 0.05),
    "purple": (0.55, 0.10, 0.75),
    "cyan": (0.10, 0.85, 0.90),
    "pink": (1.00, 0.50, 0.75),
}
SHAPES = ("circle", "square", "triangle")
DIRECTIONS: dict[str, tuple[float, float]] = {
    "left": (-1.0, 0.0),
    "right": (1.0, 0.0),
    "up": (0.0, -1.0),
    "down": (0.0, 1.0),
}
BACKGROUNDS: dict[str, float] = {"black": 0.05, "gray": 0.45, "white": 0.95}

COLOR_NAMES = tuple(COLORS)
DIRECTION_NAMES = tuple(DIRECTIONS)
BACKGROUND_NAMES = tuple(BACKGROUNDS)


@dataclass(frozen=True)
class Scenes:
    """A batch of scenes. Lengths are in units of the shorter side of the frame; ``x`` and ``y`` are in pixels."""

    color: torch.Tensor  # [B] int64
    shape: torch.Tensor  # [B] int64
    direction: torch.Tensor  # [B] int64
    background: torch.Tensor  # [B] int64
    radius: torch.Tensor  # [B] float32, pixels
    x: torch.Tensor  # [B] float32, centre in the first frame, pixels
    y: torch.Tensor  # [B]
    travel: torch.Tensor  # [B] float32, pixels covered between the first and the last frame

    def __len__(self) -> int:
        return self.color.shape[0]

    def __getitem__(self, rows: torch.Tensor | slice) -> Scenes:
        return Scenes(**{f.name: getattr(self, f.name)[rows] for f in fields(self)})

    def with_(self, **changes: torch.Tensor) -> Scenes:
        return replace(self, **changes)


def sample_scenes(count: int, height: int, width: int, frames: int, generator: torch.Generator) -> Scenes:
    """Sample scenes whose shape stays inside the frame for the whole clip.

    The speed is 2.5 to 4 % of the shorter side per frame, less if the clip is too long for that.
    """

    def integers(high: int) -> torch.Tensor:
        return torch.randint(high, (count,), generator=generator)

    def uniform(low: float, high: float) -> torch.Tensor:
        return low + (high - low) * torch.rand(count, generator=generator)

    side = min(height, width)
    direction = integers(len(DIRECTIONS))
    radius = uniform(0.19, 0.26) * side
    vector = torch.tensor(list(DIRECTIONS.values()))[direction]
    size = torch.tensor([width, height], dtype=torch.float32)
    low = (radius + 1)[:, None].expand(-1, 2)
    high = size - low
    room = ((high - low) * vector.abs()).sum(1)
    travel = torch.minimum(uniform(0.025, 0.04) * side * (frames - 1), room)
    shift = travel[:, None] * vector
    start_low = low - shift.clamp_max(0)
    start_high = high - shift.clamp_min(0)
    start = start_low + (start_high - start_low) * torch.rand(count, 2, generator=generator)
    return Scenes(
        color=integers(len(COLORS)),
        shape=integers(len(SHAPES)),
        direction=direction,
        background=integers(len(BACKGROUNDS)),
        radius=radius,
        x=start[:, 0],
        y=start[:, 1],
        travel=travel,
    )


def coverage(scenes: Scenes, height: int, width: int, frames: int) -> torch.Tensor:
    """Return how much of every pixel the shape covers, ``[B, frames, height, width]`` in 0..1, antialiased."""
    device = scenes.x.device
    vector = torch.tensor(list(DIRECTIONS.values()), device=device)[scenes.direction]
    time = torch.linspace(0, 1, frames, device=device) if frames > 1 else torch.zeros(1, device=device)
    cx = scenes.x[:, None] + vector[:, :1] * scenes.travel[:, None] * time
    cy = scenes.y[:, None] + vector[:, 1:] * scenes.travel[:, None] * time
    dx = torch.arange(width, device=device) + 0.5 - cx[..., None]  # [B, F, W]
    dy = torch.arange(height, device=device) + 0.5 - cy[..., None]  # [B, F, H]
    return shape_mask(scenes.shape, scenes.radius, dx[..., None, :], dy[..., :, None])


def shape_mask(shape: torch.Tensor, radius: torch.Tensor, dx: torch.Tensor, dy: torch.Tensor) -> torch.Tensor:
    """Return the coverage from distances to the centre: ``dx`` [B, F, 1, W], ``dy`` [B, F, H, 1] -> [B, F, H, W]."""
    r = radius[:, None, None, None]
    kind = shape[:, None, None, None]
    circle = r - (dx * dx + dy * dy).sqrt()
    square = 0.88 * r - torch.maximum(dx.abs(), dy.abs())
    triangle = torch.minimum(0.85 * r - dy, (dy + r - 1.75 * dx.abs()) * 0.5)
    inside = torch.where(kind == 0, circle, torch.where(kind == 1, square, triangle))
    return (inside + 0.5).clamp(0, 1)


def render(scenes: Scenes, height: int, width: int, frames: int) -> torch.Tensor:
    """Render clips ``[B, 3, frames, height, width]`` float32 in -1..1."""
    background = torch.tensor(list(BACKGROUNDS.values()), device=scenes.x.device)[scenes.background]
    empty = (background * 2 - 1)[:, None, None, None, None].expand(-1, 3, frames, height, width)
    return paint(empty, scenes)


def paint(clips: torch.Tensor, scenes: Scenes) -> torch.Tensor:
    """Paint the shapes of ``scenes`` over clips ``[B, 3, F, H, W]``; the scenes' backgrounds are not used."""
    frames, height, width = clips.shape[2:]
    mask = coverage(scenes, height, width, frames)[:, None]
    color = torch.tensor(list(COLORS.values()), device=mask.device)[scenes.color][:, :, None, None, None]
    return clips * (1 - mask) + (color * 2 - 1) * mask


def sample_pairs(count: int, height: int, width: int, frames: int, generator: torch.Generator) -> tuple[Scenes, Scenes]:
    """Sample two shapes that move side by side, the first above or to the left of the second, each in its own lane.

    Both have the direction, background and travel of the first.
    """
    first = sample_scenes(count, height, width, frames, generator)
    side = min(height, width)
    vector = torch.tensor(list(DIRECTIONS.values()))[first.direction]
    along = vector.abs() > 0  # [B, 2], the axis of the movement
    radius = (0.15 + 0.05 * torch.rand(count, generator=generator)) * side
    size = torch.tensor([width, height], dtype=torch.float32).expand(count, 2)
    margin = (radius + 1)[:, None]
    travel = torch.minimum(first.travel, ((size - 2 * margin) * along).sum(1))
    shift = travel[:, None] * vector
    places = []
    for lane in (0.25, 0.75):
        low, high = margin - shift.clamp_max(0), size - margin - shift.clamp_min(0)
        anywhere = low + (high - low) * torch.rand(count, 2, generator=generator)
        places.append(torch.where(along, anywhere, lane * size))
    other = sample_scenes(count, height, width, frames, generator)
    first = first.with_(radius=radius, travel=travel, x=places[0][:, 0], y=places[0][:, 1])
    return first, first.with_(color=other.color, shape=other.shape, x=places[1][:, 0], y=places[1][:, 1])
