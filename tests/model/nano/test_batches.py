"""Batches: their shares, their cost in tokens, and the conditions that the network sees."""

from __future__ import annotations

import random
from collections import Counter

import pytest
import torch

from tests.model.nano.conftest import Z_DIM
from zoetrope.model.codecs.linear_autoencoder import LinearAutoencoder
from zoetrope.model.conditioning.pixels import GRID_SCALE, shrink_sheet
from zoetrope.model.denoising.conditions import Conditions
from zoetrope.model.nano.batches import (
    EDIT_SHARES,
    FRAMES,
    OVERLAP,
    SIZES,
    TASK_SHARES,
    BatchKind,
    cells,
    choose,
    conditions_of,
    pick,
    sample,
)
from zoetrope.model.nano.layout import SPATIAL
from zoetrope.model.nano.samples import EDITS, TASKS, EditKind, Samples, TaskKind

TEXT = torch.zeros(2, 3, 16)


def build(
    autoencoder: LinearAutoencoder,
    task: TaskKind,
    *,
    frames: int = 9,
    edit: EditKind = "edit_color",
    references: int = 1,
    overlap: int = 0,
) -> tuple[BatchKind, Samples, torch.Tensor, list[Conditions]]:
    """Two rows of 24 x 32 with their latents and conditions."""
    kind = BatchKind(task, 24, 32, frames, edit, references)
    samples = sample(kind, 2, torch.Generator().manual_seed(1), random.Random(1))
    clean = autoencoder.encode_batch(samples.clips)
    return kind, samples, clean, conditions_of(samples, clean, TEXT, autoencoder.encode_batch, overlap)


def test_shares_are_shares() -> None:
    for shares in (TASK_SHARES, EDIT_SHARES, dict(SIZES), dict(FRAMES)):
        assert sum(shares.values()) == pytest.approx(1)
    assert set(TASK_SHARES) == set(TASKS)
    assert set(EDIT_SHARES) == set(EDITS)
    assert pick(random.Random(1), {"never": 0.0, "always": 1.0}) == "always"


def test_batches_come_by_their_shares_and_where_motion_matters_they_are_long() -> None:
    rng = random.Random(2)
    drawn = [choose(rng, SIZES, FRAMES) for _ in range(4000)]
    for task, share in TASK_SHARES.items():
        assert sum(k.task == task for k in drawn) / 4000 == pytest.approx(share, abs=0.03)
    sizes = Counter((k.height, k.width) for k in drawn)
    assert set(sizes) == {size for size, _ in SIZES}
    lengths = {task: {k.frames for k in drawn if k.task == task} for task in TASKS}
    assert lengths["text_to_video"] == lengths["reference_to_video"] == {1, 5, 9, 17}
    assert lengths["first_last_frame"] == lengths["grid_to_video"] == lengths["edit_video"] == {9, 17}
    again = random.Random(2)
    assert [choose(again, SIZES, FRAMES) for _ in range(20)] == drawn[:20]


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("frames", [9, 17])
def test_the_cost_of_a_row_is_what_the_network_sees(
    task: TaskKind, frames: int, autoencoder: LinearAutoencoder
) -> None:
    variants: tuple[tuple[EditKind, int], ...] = (("edit_color", 1), ("edit_object", 2))
    for edit, references in variants:
        kind, _, clean, conditions = build(autoencoder, task, frames=frames, edit=edit, references=references)
        sequence = conditions[0].sequence(clean[0], 500.0, TEXT[0])
        seen = sum(stream.latents[0].numel() for stream in sequence.streams)
        assert seen == cells(kind, SPATIAL, autoencoder.temporal)
        assert all(stream.latents.shape[0] == Z_DIM for stream in sequence.streams)


def test_words_alone_condition_nothing(autoencoder: LinearAutoencoder) -> None:
    _, _, clean, (row, _) = build(autoencoder, "text_to_video")
    assert (row.sources, row.known, row.known_frames, row.ending, row.negative) == ((), None, None, None, None)
    assert torch.equal(row.positive, TEXT[0])
    assert torch.equal(row.target(clean[0]), clean[0])


@pytest.mark.parametrize("overlap", [0, OVERLAP])
def test_a_first_frame_is_known_and_so_is_an_overlap(overlap: int, autoencoder: LinearAutoencoder) -> None:
    _, samples, clean, conditions = build(autoencoder, "image_to_video", overlap=overlap)
    assert samples.first_frame is not None
    still = autoencoder.encode_batch(samples.first_frame[:, :, None])
    for row, condition in enumerate(conditions):
        assert condition.known_frames is not None
        known = max(1, overlap)
        assert condition.known_frames.tolist() == [True] * known + [False] * (clean.shape[2] - known)
        target = condition.target(torch.zeros_like(clean[row]))
        assert torch.equal(target[:, :known], clean[row, :, :known])
        assert not target[:, known:].any()
        assert torch.allclose(target[:, :1], still[row], atol=1e-4), "the picture alone gives the same latents"


def test_a_last_frame_stands_behind_the_target(autoencoder: LinearAutoencoder) -> None:
    _, samples, clean, conditions = build(autoencoder, "first_last_frame")
    assert samples.last_frame is not None
    still = autoencoder.encode_batch(samples.last_frame[:, :, None])
    sequence = conditions[1].sequence(clean[1], 700.0, TEXT[1])
    (target,) = sequence.streams
    assert torch.equal(target.latents[:, -1:], still[1])
    assert target.timesteps.tolist() == [0.0] + [700.0] * (clean.shape[2] - 1) + [0.0]


def test_sources_come_in_order_and_clean(autoencoder: LinearAutoencoder) -> None:
    _, samples, clean, conditions = build(autoencoder, "edit_video", edit="edit_object")
    assert samples.source is not None
    assert samples.references is not None
    first, second = conditions[0].sources
    assert (first.source_id, second.source_id) == (1, 2)
    assert torch.equal(first.latents, autoencoder.encode_batch(samples.source)[0])
    assert torch.equal(second.latents, autoencoder.encode_batch(samples.references[:, 0, :, None])[0])
    *sources, target = conditions[0].sequence(clean[0], 900.0, TEXT[0]).streams
    assert all(not stream.timesteps.any() for stream in sources)
    assert set(target.timesteps.tolist()) == {900.0}


def test_references_count_on(autoencoder: LinearAutoencoder) -> None:
    _, _, _, conditions = build(autoencoder, "reference_to_video", references=2)
    assert [source.source_id for source in conditions[0].sources] == [1, 2]
    assert not torch.equal(conditions[0].sources[0].latents, conditions[0].sources[1].latents)


def test_a_sheet_is_seen_smaller_with_every_panel_in_its_place() -> None:
    sheet = torch.zeros(1, 3, 3 * 24, 3 * 32)
    for panel in range(9):
        row, column = divmod(panel, 3)
        sheet[:, :, row * 24 : row * 24 + 24, column * 32 : column * 32 + 32] = panel / 8
    small = shrink_sheet(sheet)
    assert small.shape == (1, 3, GRID_SCALE * 24, GRID_SCALE * 32)
    for panel in range(9):
        row, column = divmod(panel, 3)
        y, x = int((row + 0.5) * small.shape[2] / 3), int((column + 0.5) * small.shape[3] / 3)
        assert float(small[0, 0, y, x]) == pytest.approx(panel / 8, abs=1e-5)
