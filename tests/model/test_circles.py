"""What is round in a picture or clip is round in the file: every task of every family, for pictures of any ratio."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.fixtures.family_checkpoints import EVERY_MODEL, MODELS, card_in
from zoetrope.model.catalog.checkpoint_layout import read_transformers
from zoetrope.model.catalog.model_card import transformer_config
from zoetrope.model.codecs.image_encoder import ImageEncoder
from zoetrope.model.conditioning import Conditioner
from zoetrope.model.conditioning.bernini import BerniniConditioner
from zoetrope.model.conditioning.channels import ChannelsConditioner
from zoetrope.model.conditioning.first_latent import FirstLatentConditioner
from zoetrope.model.conditioning.streams import StreamsConditioner
from zoetrope.model.conditioning.vace import VaceConditioner
from zoetrope.model.media.inputs import GRID, Clip, Inputs, Picture
from zoetrope.model.media.resize import Frames, resize_cover
from zoetrope.model.request.kinds import TASK_KINDS
from zoetrope.model.request.resolve import resolve
from zoetrope.model.request.specs import VideoSpec
from zoetrope.model.request.tasks import MediaInfo, ModelCard, parse_request

LIMIT = 0.02
FRAMES = 5
TASKS: dict[str, dict[str, Any]] = {
    "text_to_video": {"prompt": "p"},
    "image_to_video": {"image": "a"},
    "first_last_frame": {"first_frame": "a", "last_frame": "b"},
    "grid_to_video": {"panels": ["a"] * 9},
    "reference_to_video": {"prompt": "p", "references": ["a"]},
    "edit_video": {"prompt": "p", "video": "v"},
}
# Width and height of what is given, and what is asked for.
CASES: tuple[tuple[int, int, dict[str, Any]], ...] = (
    (1500, 500, {"size": "480p"}),
    (403, 302, {}),
    (500, 1500, {"size": "480p", "ratio": "1:1"}),
    (640, 640, {"size": "854x480"}),
    (1000, 428, {"size": "480p", "ratio": "9:16", "fit": "contain"}),
)


class Seen:
    """An autoencoder that keeps the pixels it is given."""

    def __init__(self, card: ModelCard) -> None:
        self.z_dim, self.temporal, self.spatial = card.latent_channels, card.temporal, card.spatial
        self.streams = 1
        self.pixels: list[torch.Tensor] = []

    def encode(self, clip: torch.Tensor) -> torch.Tensor:
        self.pixels.append(clip.clone())
        _, frames, height, width = clip.shape
        return torch.zeros(self.z_dim, 1 + (frames - 1) // self.temporal, height // self.spatial, width // self.spatial)

    def decode_stream(self, latents: torch.Tensor, tiling: object = None) -> Any:
        raise AssertionError("nothing is decoded here")


class Blind(ImageEncoder):
    """CLIP's tokens have no say in shapes."""

    def __init__(self) -> None:
        pass

    def encode(self, pictures: Any) -> torch.Tensor:
        return torch.zeros(1, 1)


def conditioner_of(card: ModelCard, seen: Seen) -> Conditioner:
    config = transformer_config(read_transformers(Path(card.directory))[0])
    match card.conditioner:
        case "channels":
            return ChannelsConditioner(seen, config, Blind())
        case "first_latent":
            return FirstLatentConditioner(seen)
        case "vace":
            return VaceConditioner(seen, config)
        case "bernini":
            return BerniniConditioner(seen, config.patch_size[1])
    return StreamsConditioner(seen)


def disc(width: int, height: int) -> Frames:
    """Reddish on grey, in the middle, ``[H, W, 3]``; far from white and black, so that no filter's ringing is cut."""
    y, x = np.mgrid[:height, :width]
    radius = 0.25 * min(width, height)
    inside = np.hypot(x + 0.5 - width / 2, y + 0.5 - height / 2)
    share = np.clip(radius + 0.5 - inside, 0, 1)[..., None]
    made: Frames = (96 + share * np.array([80, -40, -40])).round().astype(np.uint8)
    return made


def inputs_of(kind: str, width: int, height: int) -> Inputs:
    picture, clip = Picture(disc(width, height)), Clip(np.repeat(disc(width, height)[None], FRAMES, axis=0), 8.0)
    match kind:
        case "image_to_video":
            return Inputs(first=picture)
        case "first_last_frame":
            return Inputs(first=picture, last=picture)
        case "grid_to_video":
            return Inputs(panels=(picture,) * GRID * GRID)
        case "reference_to_video":
            return Inputs(references=(picture,))
        case "edit_video":
            return Inputs(video=clip)
    return Inputs()


def spec_of(card: ModelCard, kind: str, width: int, height: int, wish: dict[str, Any]) -> VideoSpec:
    image = MediaInfo("image", width, height)
    media = {"image": image, "first_frame": image, "last_frame": image, "references.0": image}
    media |= {f"panels.{i}": image for i in range(9)}
    media["video"] = MediaInfo("clip", width, height, frames=40, fps=8.0)
    request = {"task": {"kind": kind, **TASKS[kind]}, "frames": FRAMES, **wish}
    return resolve(parse_request(request), card, 7, media)


def roundness(frame: Frames) -> float:
    """Width through height of the disc, from the second moments of what is red."""
    red = redness(frame)
    y, x = np.mgrid[: red.shape[0], : red.shape[1]]
    total = red.sum()
    spread = [math.sqrt((red * (axis - (red * axis).sum() / total) ** 2).sum() / total) for axis in (x, y)]
    return spread[0] / spread[1]


def redness(frame: Frames) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    return frame[..., 0].astype(float) - frame[..., 1]


def frames_of(pixels: torch.Tensor) -> Frames:
    made: Frames = ((pixels + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).permute(1, 2, 3, 0).numpy()
    return made


def discs_shown(seen: Seen, spec: VideoSpec) -> list[Frames]:
    """Every disc in what was encoded: those of the clip's own size as the file shows them, others as they are."""
    found = []
    for pixels in seen.pixels:
        for frame in frames_of(pixels):
            if redness(frame).max() < 60:
                continue  # a frame to be made
            height, width = frame.shape[:2]
            if (width, height) == (spec.native_width, spec.native_height):
                frame = resize_cover(frame[None], spec.width, spec.height)[0]
            tiled = spec.task.kind == "grid_to_video"
            rows = np.array_split(frame, GRID) if tiled else [frame]
            found += [tile for row in rows for tile in (np.array_split(row, GRID, axis=1) if tiled else [row])]
    return found


@pytest.mark.parametrize("name", EVERY_MODEL)
def test_circles_stay_round(name: str, checkpoints: Path) -> None:
    card = card_in(checkpoints, name)
    shown_kinds = [kind for kind in card.tasks if kind != "text_to_video"]
    for number, kind in enumerate(shown_kinds):
        cases = CASES if number == 0 else (CASES[number % len(CASES)], CASES[(number + 2) % len(CASES)])
        for width, height, wish in cases:
            spec = spec_of(card, kind, width, height, wish)
            seen = Seen(card)
            conditions = conditioner_of(card, seen).condition(
                spec, inputs_of(kind, width, height), torch.zeros(1, 8), None
            )
            assert conditions is not None
            shown = discs_shown(seen, spec)
            assert shown, f"{kind}: nothing of the {width}x{height} picture was encoded"
            for frame in shown[:3]:
                assert abs(roundness(frame) - 1) <= LIMIT, f"{kind} of {width}x{height} with {wish or 'no size'}"


def test_every_task_is_served_by_some_family(checkpoints: Path) -> None:
    assert {kind for name in MODELS for kind in card_in(checkpoints, name).tasks} == set(TASK_KINDS)
