"""The generator of nano's world."""

from __future__ import annotations

from dataclasses import fields

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.draws import draws
from zoetrope.model.nano.world import (
    BACKGROUNDS,
    COLORS,
    DIRECTIONS,
    SHAPES,
    Scenes,
    coverage,
    paint,
    render,
    sample_pairs,
    sample_scenes,
    shape_mask,
)

SIZES = ((24, 40), (40, 24), (32, 32), (24, 32), (64, 112))


def draw(count: int, height: int, width: int, frames: int, seed: int) -> Scenes:
    return sample_scenes(count, height, width, frames, torch.Generator().manual_seed(seed))


@settings(max_examples=draws(20), deadline=None)
@given(st.sampled_from(SIZES), st.integers(1, 65), st.integers(0, 2**31))
def test_a_shape_stays_inside_the_frame(size: tuple[int, int], frames: int, seed: int) -> None:
    height, width = size
    scenes = draw(4, height, width, frames, seed)
    mask = coverage(scenes, height, width, frames)
    assert mask.shape == (4, frames, height, width)
    sides = (mask[:, :, 0], mask[:, :, -1], mask[..., 0], mask[..., -1])
    touched = torch.stack([side.sum(-1).amax(-1) for side in sides])  # [4, scenes], pixels in the worst frame
    triangle = scenes.shape == SHAPES.index("triangle")
    assert float(touched[:, ~triangle].sum()) < 1e-4  # of a pixel: the rounding of a distance
    assert bool((touched[:, triangle] < 2).all()), "the tips of its base may reach the outermost pixels"
    assert float(mask.amax((2, 3)).min()) == 1, "and is there in every frame"


@pytest.mark.parametrize("frames", [9, 17, 33])
def test_the_centroid_walks_straight_and_evenly(frames: int) -> None:
    scenes = draw(32, 64, 112, frames, 1)
    mask = coverage(scenes, 64, 112, frames).double()
    total = mask.sum((2, 3))
    x = (mask.sum(2) * (torch.arange(112) + 0.5)).sum(2) / total
    y = (mask.sum(3) * (torch.arange(64) + 0.5)).sum(2) / total
    vector = torch.tensor(list(DIRECTIONS.values()), dtype=torch.float64)[scenes.direction]
    step = vector * (scenes.travel / (frames - 1))[:, None]
    assert torch.allclose(x.diff(dim=1), step[:, :1].expand(-1, frames - 1), rtol=0, atol=0.1)
    assert torch.allclose(y.diff(dim=1), step[:, 1:].expand(-1, frames - 1), rtol=0, atol=0.1)


def test_a_clip_moves_far_enough_to_be_seen_and_slowly_enough_to_be_learnt() -> None:
    for frames in (9, 17, 33):
        travel = draw(500, 80, 80, frames, 2).travel
        assert float(travel.min()) >= 0.19 * 80
        assert float(travel.max()) <= 0.04 * 80 * (frames - 1) + 1e-4


def test_pixels_have_the_colours_of_the_scene() -> None:
    scenes = draw(64, 64, 112, 5, 3)
    clips = render(scenes, 64, 112, 5)
    assert clips.dtype == torch.float32
    assert clips.shape == (64, 3, 5, 64, 112)
    levels = torch.tensor(list(BACKGROUNDS.values()))[scenes.background] * 2 - 1
    colors = torch.tensor(list(COLORS.values()))[scenes.color] * 2 - 1
    assert torch.allclose(clips[:, :, 0, 0, 0], levels[:, None].expand(-1, 3), atol=1e-6)
    rows = torch.arange(64)
    centre = clips[rows, :, 0, scenes.y.long(), scenes.x.long()]
    assert torch.allclose(centre, colors, atol=1e-6)


def test_the_three_shapes_differ_and_scale() -> None:
    along = torch.arange(101) - 50.0
    kinds = torch.arange(len(SHAPES))

    def mask(radius: float) -> torch.Tensor:
        return shape_mask(kinds, torch.full((3,), radius), along[None, None, None], along[None, None, :, None])[:, 0]

    small, large = mask(15), mask(45)
    assert torch.allclose(large.sum((1, 2)) / small.sum((1, 2)), torch.full((3,), 9.0), rtol=0.05)
    circle, square, triangle = large
    assert torch.equal(circle, circle.T)
    assert torch.equal(square, square.flip(0))
    assert float(triangle[10:20].sum()) < float(triangle[70:80].sum()), "the triangle stands on its base"
    assert torch.equal(triangle, triangle.flip(1))


@settings(max_examples=draws(20), deadline=None)
@given(st.sampled_from(SIZES), st.integers(5, 33), st.integers(0, 2**31))
def test_two_shapes_move_alike_in_lanes_of_their_own(size: tuple[int, int], frames: int, seed: int) -> None:
    height, width = size
    first, second = sample_pairs(4, height, width, frames, torch.Generator().manual_seed(seed))
    for name in ("direction", "background", "travel", "radius"):
        assert torch.equal(getattr(first, name), getattr(second, name))
    masks = [coverage(scenes, height, width, frames) for scenes in (first, second)]
    for row in range(4):
        vertical = DIRECTIONS[list(DIRECTIONS)[int(first.direction[row])]][0] == 0
        for number, mask in enumerate(masks):
            lanes = mask[row].chunk(2, dim=2 if vertical else 1)
            assert float(lanes[1 - number].sum()) == 0, "the first is above or to the left, and none leaves its lane"
            assert float(lanes[number].amax((1, 2)).min()) == 1, "and it is there in every frame"
            sides = (mask[row, :, 0], mask[row, :, -1], mask[row, :, :, 0], mask[row, :, :, -1])
            assert max(float(side.sum(-1).amax()) for side in sides) < 2


def test_a_second_shape_is_painted_over_the_clip_of_the_first() -> None:
    first, second = sample_pairs(8, 32, 32, 5, torch.Generator().manual_seed(1))
    one, both = render(first, 32, 32, 5), paint(render(first, 32, 32, 5), second)
    outside = coverage(second, 32, 32, 5)[:, None].expand(-1, 3, -1, -1, -1) == 0
    assert torch.equal(one[outside], both[outside])
    rows = torch.arange(8)
    colors = torch.tensor(list(COLORS.values()))[second.color] * 2 - 1
    assert torch.allclose(both[rows, :, 0, second.y.long(), second.x.long()], colors, atol=1e-6)


def test_a_seed_means_the_same_scenes() -> None:
    one, again, other = draw(16, 64, 112, 9, 7), draw(16, 64, 112, 9, 7), draw(16, 64, 112, 9, 8)
    assert all(torch.equal(getattr(one, f.name), getattr(again, f.name)) for f in fields(Scenes))
    assert not torch.equal(one.x, other.x)


def test_every_attribute_occurs() -> None:
    scenes = draw(2000, 64, 112, 9, 9)
    for value, names in (
        (scenes.color, COLORS),
        (scenes.shape, SHAPES),
        (scenes.direction, DIRECTIONS),
        (scenes.background, BACKGROUNDS),
    ):
        share = torch.bincount(value, minlength=len(names)) / 2000
        assert float(share.min()) > 0.7 / len(names)


def test_rows_can_be_picked_and_changed() -> None:
    scenes = draw(6, 64, 112, 9, 10)
    part = scenes[torch.tensor([4, 1])]
    assert len(part) == 2
    assert torch.equal(part.radius, scenes.radius[[4, 1]])
    assert torch.equal(render(part, 64, 112, 9), render(scenes, 64, 112, 9)[[4, 1]])
    changed = part.with_(color=torch.tensor([0, 0]))
    assert torch.equal(changed.shape, part.shape)
    assert changed.color.tolist() == [0, 0]
