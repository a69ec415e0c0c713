"""The data of all six tasks: targets, prompts and conditions belong together."""

from __future__ import annotations

import random
from dataclasses import fields
from itertools import pairwise
from typing import Literal

import pytest
import torch

from tests.model.nano.helpers import misjudged, pixels
from zoetrope.model.nano.oracle import judge, judge_pair
from zoetrope.model.nano.prompts import MAX_TEXT_TOKENS, build_tokenizer
from zoetrope.model.nano.samples import EDITS, TASKS, EditKind, Samples, TaskKind, draw, sheet_of
from zoetrope.model.nano.world import COLOR_NAMES, DIRECTION_NAMES, SHAPES, Scenes

CONDITIONS = {
    "text_to_video": set(),
    "image_to_video": {"first_frame"},
    "first_last_frame": {"first_frame", "last_frame"},
    "grid_to_video": {"grid"},
    "reference_to_video": {"references"},
    "edit_video": {"source"},
}
COUNT, HEIGHT, WIDTH, FRAMES = 8, 24, 40, 17  # nano's own size


def batch(kind: TaskKind, seed: int = 1, edit: EditKind | None = "edit_color", count: int = COUNT) -> Samples:
    generator = torch.Generator().manual_seed(seed)
    return draw(kind, count, HEIGHT, WIDTH, FRAMES, generator, random.Random(seed), edit=edit)


@pytest.mark.parametrize("kind", TASKS)
def test_a_batch_has_its_conditions_and_a_right_target(kind: TaskKind) -> None:
    samples = batch(kind)
    given = {
        name
        for name in ("first_frame", "last_frame", "grid", "references", "source")
        if getattr(samples, name) is not None
    }
    assert given == CONDITIONS[kind]
    assert samples.kind == kind
    assert samples.clips.shape == (COUNT, 3, FRAMES, HEIGHT, WIDTH)
    assert len(samples.prompts) == len(samples.scenes) == COUNT
    for row, clip in enumerate(samples.clips):
        if samples.second is None:
            assert misjudged(judge(pixels(clip)), samples.scenes, row) == []
            continue
        verdicts = judge_pair(pixels(clip), DIRECTION_NAMES[int(samples.scenes.direction[row])])
        for verdict, scenes in zip(verdicts, (samples.scenes, samples.second), strict=True):
            assert misjudged(verdict, scenes, row) == []


@pytest.mark.parametrize("kind", TASKS)
def test_the_two_seeds_decide_everything(kind: TaskKind) -> None:
    one, again, other = batch(kind), batch(kind), batch(kind, seed=2)
    for field in fields(Samples):
        left, right = getattr(one, field.name), getattr(again, field.name)
        if isinstance(left, Scenes):
            assert all(torch.equal(getattr(left, f.name), getattr(right, f.name)) for f in fields(Scenes))
        elif isinstance(left, torch.Tensor):
            assert torch.equal(left, right)
        else:
            assert left == right
    assert not torch.equal(one.clips, other.clips)


@pytest.mark.parametrize("kind", TASKS)
def test_prompts_use_known_words_and_fit(kind: TaskKind) -> None:
    tokenizer = build_tokenizer()
    for seed in range(3):
        for prompt in batch(kind, seed, edit=None, count=16).prompts:
            ids = tokenizer(prompt)["input_ids"]
            assert tokenizer.unk_token_id not in ids, prompt
            assert len(ids) <= MAX_TEXT_TOKENS


def test_anchor_frames_are_frames_of_the_target() -> None:
    samples = batch("first_last_frame")
    assert samples.first_frame is not None
    assert samples.last_frame is not None
    assert torch.equal(samples.first_frame, samples.clips[:, :, 0])
    assert torch.equal(samples.last_frame, samples.clips[:, :, -1])


@pytest.mark.parametrize(
    ("frames", "index"), [(9, list(range(9))), (33, list(range(0, 33, 4))), (17, list(range(0, 17, 2)))]
)
def test_a_grid_has_nine_evenly_spaced_frames_row_by_row(frames: int, index: list[int]) -> None:
    clips = torch.randn(2, 3, frames, 8, 16)
    sheet = sheet_of(clips)
    assert sheet.shape == (2, 3, 24, 48)
    for panel, frame in enumerate(index):
        top, left = panel // 3 * 8, panel % 3 * 16
        assert torch.equal(sheet[:, :, top : top + 8, left : left + 16], clips[:, :, frame])


def looks(image: torch.Tensor) -> tuple[str | None, str | None, str | None]:
    verdict = judge(pixels(image[:, None]))
    return verdict.color, verdict.shape, verdict.background


def reference_samples(number: Literal[1, 2], pair: bool, seed: int = 3) -> Samples:
    """Twenty-four rows, which all mean both objects or all mean one."""
    generator, rng = torch.Generator().manual_seed(seed), random.Random(seed)
    while True:
        samples = draw("reference_to_video", 24, 32, 40, 5, generator, rng, references=number)
        if (samples.second is not None) == pair:
            return samples


@pytest.mark.parametrize(("number", "pair"), [(1, False), (2, False), (2, True)])
def test_a_reference_prompt_names_the_images_that_the_target_shows(number: Literal[1, 2], pair: bool) -> None:
    samples = reference_samples(number, pair)
    assert samples.references is not None
    assert samples.references.shape == (24, number, 3, 32, 32)
    shown = [samples.scenes] if samples.second is None else [samples.scenes, samples.second]
    meant = set()
    for row, prompt in enumerate(samples.prompts):
        seen = [looks(image) for image in samples.references[row]]
        assert all(background == "gray" for _, _, background in seen)
        words = prompt.replace(",", "").split()
        named = [int(after) - 1 for word, after in pairwise(words) if word == "image"]
        assert len(named) == len(shown)
        meant.add(tuple(named))
        for image, scenes in zip(named, shown, strict=True):
            assert seen[image][:2] == (COLOR_NAMES[int(scenes.color[row])], SHAPES[int(scenes.shape[row])])
        assert not set(words) & {*COLOR_NAMES, *SHAPES}, "the prompt must not tell what the image shows"
    assert meant == ({(0, 1)} if pair else {(image,) for image in range(number)})


def test_two_references_mean_both_more_often_than_one() -> None:
    generator, rng = torch.Generator().manual_seed(5), random.Random(5)
    drawn = [draw("reference_to_video", 1, 24, 24, 5, generator, rng, references=2).second for _ in range(100)]
    assert 60 <= sum(second is not None for second in drawn) <= 80


def test_the_scale_of_a_reference_says_nothing_about_the_clip() -> None:
    samples = draw(
        "reference_to_video", 200, 64, 64, 5, torch.Generator().manual_seed(4), random.Random(4), references=1
    )
    assert samples.references is not None
    gray = samples.references[:, 0, :, :1, :1]
    area = ((samples.references[:, 0] - gray).abs().amax(1) > 0.3).sum((1, 2)).float()
    circles = samples.scenes.shape == 0
    both = torch.stack([area[circles], samples.scenes.radius[circles]])
    assert abs(float(torch.corrcoef(both)[0, 1])) < 0.3


@pytest.mark.parametrize("edit", EDITS)
def test_an_edit_changes_what_it_says_and_keeps_the_rest(edit: EditKind) -> None:
    samples = batch("edit_video", seed=5, edit=edit, count=16)
    assert samples.source is not None
    assert (samples.references is not None) == (edit == "edit_object")
    changed = {"edit_color": {"color"}, "edit_background": {"background"}, "edit_object": {"color", "shape"}}[edit]
    for row, clip in enumerate(samples.source):
        before, after = judge(pixels(clip)), judge(pixels(samples.clips[row]))
        differ = {
            part
            for part in ("color", "shape", "direction", "background")
            if getattr(before, part) != getattr(after, part)
        }
        assert differ - {"color"} == changed - {"color"}
        assert "color" not in differ or "color" in changed
        assert edit != "edit_color" or "color" in differ
        words = samples.prompts[row].replace(",", "").split()
        if edit == "edit_color":
            assert after.color in words
        elif edit == "edit_background":
            assert after.background in words
        elif samples.references is not None:
            assert looks(samples.references[row, 0])[:2] == (after.color, after.shape)
            assert "image" in words
            assert after.shape not in words
    moved = samples.source - samples.clips
    assert bool((moved.abs().amax((1, 2, 3, 4)) > 0.3).all())


def test_the_kind_of_an_edit_is_drawn_where_none_is_given() -> None:
    rng = random.Random(6)
    generator = torch.Generator().manual_seed(6)
    with_reference = [draw("edit_video", 1, 32, 32, 5, generator, rng).references is not None for _ in range(30)]
    assert 3 <= sum(with_reference) <= 20
