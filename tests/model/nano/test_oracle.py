"""The oracle sees what the generator drew, also through an autoencoder, a scaler, blur and noise."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from tests.model.nano.helpers import misjudged, pixels
from zoetrope.model.codecs.linear_autoencoder import LinearAutoencoder
from zoetrope.model.families.nano import NANO_CARD
from zoetrope.model.nano.oracle import judge, judge_pair
from zoetrope.model.nano.world import DIRECTION_NAMES, Scenes, paint, render, sample_pairs, sample_scenes

SIZES = tuple((height, width) for width, height in NANO_CARD["native_sizes"])
LARGE = ((64, 112), (112, 64), (80, 80))


def scenes_of(count: int, height: int, width: int, frames: int, seed: int = 31) -> Scenes:
    return sample_scenes(count, height, width, frames, torch.Generator().manual_seed(seed))


def errors(
    count: int, sizes: tuple[tuple[int, int], ...], frames: int, change: Callable[[torch.Tensor], torch.Tensor]
) -> list[str]:
    """What was misjudged over ``count`` clips of each size, sent through ``change`` [3, F, H, W] -> the same."""
    found = []
    for height, width in sizes:
        scenes = scenes_of(count, height, width, frames, seed=height + frames)
        for row, clip in enumerate(render(scenes, height, width, frames)):
            found += misjudged(judge(pixels(change(clip))), scenes, row)
    return found


@pytest.mark.parametrize("frames", [9, 17, 33])
def test_clean_clips_are_all_judged_right(frames: int) -> None:
    assert errors(12 if frames < 33 else 4, SIZES + LARGE, frames, lambda clip: clip) == []


def test_clips_that_went_through_the_autoencoder(autoencoder: LinearAutoencoder) -> None:
    def change(clip: torch.Tensor) -> torch.Tensor:
        return torch.cat(list(autoencoder.decode_stream(autoencoder.encode(clip))), dim=1)

    assert len(errors(12, SIZES, 17, change)) <= 1


def pair_errors(
    count: int, change: Callable[[torch.Tensor], torch.Tensor], swapped: bool = False
) -> tuple[list[str], list[str]]:
    """What was misjudged of the first and of the second shape, over ``count`` clips of each native size."""
    found: tuple[list[str], list[str]] = ([], [])
    for height, width in SIZES:
        shapes = sample_pairs(count, height, width, 17, torch.Generator().manual_seed(height))
        clips = paint(render(shapes[0], height, width, 17), shapes[1])
        for row, clip in enumerate(clips):
            direction = DIRECTION_NAMES[int(shapes[0].direction[row])]
            verdicts = judge_pair(pixels(change(clip)), direction)
            for number, verdict in enumerate(reversed(verdicts) if swapped else verdicts):
                found[number].extend(misjudged(verdict, shapes[number], row))
    return found


def test_two_shapes_are_judged_each_in_its_lane(autoencoder: LinearAutoencoder) -> None:
    def through(clip: torch.Tensor) -> torch.Tensor:
        return torch.cat(list(autoencoder.decode_stream(autoencoder.encode(clip))), dim=1)

    assert pair_errors(8, lambda clip: clip) == ([], [])
    first, second = pair_errors(8, through)
    assert len(first + second) <= 1
    first, second = pair_errors(8, lambda clip: clip, swapped=True)
    kinds = {error.split()[0] for error in first + second}
    assert kinds == {"color", "shape"}, "direction and background they share"


def test_one_shape_alone_leaves_the_other_lane_empty() -> None:
    scenes, _ = sample_pairs(20, 32, 32, 9, torch.Generator().manual_seed(1))
    for row, clip in enumerate(render(scenes, 32, 32, 9)):
        present, missing = judge_pair(pixels(clip), DIRECTION_NAMES[int(scenes.direction[row])])
        assert misjudged(present, scenes, row) == []
        assert (missing.color, missing.shape, missing.direction) == (None, None, None)


@pytest.mark.parametrize("direction", ["left", "up"])
def test_one_shape_across_both_lanes_is_not_two(direction: str) -> None:
    frames = np.roll(circle_along(0), (10, 20), axis=(1, 2))[:3]  # in the middle: each half sees half of it
    assert all(judge(half).color == "red" for half in np.split(frames, 2, axis=1))
    for verdict in judge_pair(frames, direction):
        assert (verdict.color, verdict.shape, verdict.direction) == (None, None, None)
        assert verdict.background == "white"


@pytest.mark.parametrize(("size", "direction"), [((8, 8), "north"), ((1, 8), "left"), ((8, 1), "up")])
def test_what_has_no_lanes_is_refused(size: tuple[int, int], direction: str) -> None:
    with pytest.raises(ValueError, match=r"direction is 'north'|two halves"):
        judge_pair(np.zeros((4, *size, 3), np.uint8), direction)


def test_soft_and_noisy_clips() -> None:
    generator = torch.Generator().manual_seed(3)

    def change(clip: torch.Tensor) -> torch.Tensor:
        soft = F.avg_pool2d(F.pad(clip, (2, 2, 2, 2), mode="replicate"), 5, 1)
        return soft + 0.15 * torch.randn(clip.shape, generator=generator)

    assert len(errors(8, LARGE, 9, change)) <= 1


def test_clips_scaled_up_to_480p() -> None:
    def change(clip: torch.Tensor) -> torch.Tensor:
        scale = 480 / min(clip.shape[2:])
        size = (round(clip.shape[3] * scale), round(clip.shape[2] * scale))
        frames = [Image.fromarray(f).resize(size, Image.Resampling.LANCZOS) for f in pixels(clip)]
        return torch.from_numpy(np.stack([np.asarray(f) for f in frames])).permute(3, 0, 1, 2) / 127.5 - 1

    assert errors(3, SIZES[:3], 9, change) == []


def test_centroids_are_in_pixels_of_the_judged_frames() -> None:
    scenes = scenes_of(6, 64, 112, 9).with_(shape=torch.zeros(6, dtype=torch.int64))  # a circle's is its centre
    for row, clip in enumerate(render(scenes, 64, 112, 9)):
        small = judge(pixels(clip))
        large = judge(pixels(clip).repeat(3, axis=1).repeat(3, axis=2))
        assert small.centroids.shape == (9, 2)
        assert np.abs(small.centroids[0] - [float(scenes.x[row]), float(scenes.y[row])]).max() < 0.5
        assert np.abs(large.centroids - 3 * small.centroids).max() < 1.5
        assert small.masks.shape == (9, 64, 112)


@pytest.mark.parametrize(("level", "name"), [(12, "black"), (115, "gray"), (240, "white")])
def test_an_empty_clip_has_a_background_and_nothing_else(level: int, name: str) -> None:
    verdict = judge(np.full((9, 64, 112, 3), level, np.uint8))
    assert (verdict.color, verdict.shape, verdict.direction, verdict.background) == (None, None, None, name)
    assert np.isnan(verdict.centroids).all()
    assert not verdict.masks.any()


@pytest.mark.parametrize("sigma", [10, 40, 200])
def test_noise_is_nothing(sigma: int) -> None:
    rng = np.random.default_rng(0)
    frames = (128 + sigma * rng.standard_normal((9, 64, 112, 3))).clip(0, 255).astype(np.uint8)
    verdict = judge(frames)
    assert (verdict.color, verdict.shape, verdict.direction) == (None, None, None)


def test_a_tinted_background_is_none_of_ours() -> None:
    frames = np.full((5, 32, 32, 3), (20, 60, 200), np.uint8)
    assert judge(frames).background is None


def test_a_shape_that_stands_still_has_no_direction() -> None:
    scenes = scenes_of(4, 64, 112, 9).with_(travel=torch.zeros(4))
    for row, clip in enumerate(render(scenes, 64, 112, 9)):
        verdict = judge(pixels(clip))
        assert verdict.direction is None
        assert [e.split()[0] for e in misjudged(verdict, scenes, row)] == ["direction"]
    assert judge(pixels(render(scenes, 64, 112, 1)[0])).direction is None


def circle_along(angle_degrees: float) -> npt.NDArray[np.uint8]:
    """A red disc on white that travels 40 pixels to the right, turned down by an angle."""
    y, x = np.mgrid[:100, :100] + 0.5
    frames = np.full((9, 100, 100, 3), 242, np.uint8)
    for step in range(9):
        way = 5 * step
        cx = 25 + way * math.cos(math.radians(angle_degrees))
        cy = 40 + way * math.sin(math.radians(angle_degrees))
        frames[step, (x - cx) ** 2 + (y - cy) ** 2 < 14**2] = (230, 26, 26)
    return frames


@pytest.mark.parametrize(("angle", "name"), [(0, "right"), (20, "right"), (40, None), (50, None), (90, "down")])
def test_a_slanted_way_counts_only_near_an_axis(angle: float, name: str | None) -> None:
    verdict = judge(circle_along(angle))
    assert (verdict.direction, verdict.color, verdict.shape) == (name, "red", "circle")


def test_a_shape_that_is_there_in_few_frames_does_not_count() -> None:
    frames = circle_along(0)
    frames[3:] = 242
    verdict = judge(frames)
    assert (verdict.color, verdict.shape, verdict.direction) == (None, None, None)
    assert np.isfinite(verdict.centroids[:3]).all()


def test_two_shapes_are_not_one() -> None:
    frames = circle_along(0)
    frames[:, 50:] = frames[:, :50].copy()
    assert judge(np.maximum(frames, 26)).shape is None


@pytest.mark.parametrize(
    "frames",
    [
        np.zeros((4, 8, 8, 3), np.float32),
        np.zeros((8, 8, 3), np.uint8),
        np.zeros((4, 8, 8, 4), np.uint8),
        np.zeros((0, 8, 8, 3), np.uint8),
    ],
)
def test_other_arrays_are_refused(frames: npt.NDArray[np.uint8]) -> None:
    with pytest.raises(ValueError, match="uint8"):
        judge(frames)


def test_the_smallest_clip_does_not_crash() -> None:
    assert judge(torch.zeros(1, 1, 1, 3, dtype=torch.uint8)).background == "black"
