"""Held-out cases: what a client could send, with what the clip has to show."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from tests.model.nano.conftest import CARD
from zoetrope.model.media.inputs import Inputs, Picture, compose_sheet
from zoetrope.model.nano.cases import GROUPS, NanoCase, held_out
from zoetrope.model.nano.measures import examine
from zoetrope.model.nano.prompts import MAX_TEXT_TOKENS, build_tokenizer
from zoetrope.model.nano.samples import TASKS, TaskKind
from zoetrope.model.request.specs import VideoSpec
from zoetrope.model.request.tasks import InvalidRequest, media_of


def media_count(inputs: Inputs) -> int:
    single = (inputs.first, inputs.last, inputs.video)
    return sum(x is not None for x in single) + len(inputs.panels) + len(inputs.references)


def same(one: NanoCase, two: NanoCase) -> bool:
    return one.spec == two.spec and one.wanted == two.wanted and np.array_equal(one.ideal, two.ideal)


@pytest.mark.parametrize("kind", TASKS)
def test_cases_follow_from_the_seed_and_cover_all_sizes_and_groups(kind: TaskKind) -> None:
    cases = held_out(kind, CARD, 20, 1)
    assert all(map(same, cases, held_out(kind, CARD, 20, 1)))
    assert not any(map(same, cases, held_out(kind, CARD, 20, 2)))
    sizes = {(c.group, c.spec.native_width, c.spec.native_height) for c in cases}
    assert sizes == {(group, *size) for group in GROUPS[kind] for size in CARD.native_sizes}
    assert len({c.spec.seed for c in cases}) == 20
    for case in cases:
        spec = case.spec
        assert (spec.width, spec.height) == (spec.native_width, spec.native_height), "nothing is scaled"
        frames = 17 if kind == "first_last_frame" else 16  # the last picture is the last frame
        assert (spec.frames, spec.model_frames, len(spec.spans)) == (frames, 17, 1)
        assert case.ideal.shape == (17, spec.height, spec.width, 3)
        assert spec.task.kind == case.kind == kind
        assert (spec.steps, spec.guidance) == (CARD.default_steps, CARD.default_guidance)
        assert len(media_of(spec.task)) == media_count(case.inputs)
        assert VideoSpec.from_dict(spec.to_dict()) == spec


@pytest.mark.parametrize("kind", TASKS)
def test_the_ideal_clip_shows_what_is_wanted_and_the_prompt_can_be_read(kind: TaskKind) -> None:
    tokenizer = build_tokenizer()
    for case in held_out(kind, CARD, 20, 3):
        assert examine(case, case.ideal).right("color", "background", "shape", "direction")
        ids = tokenizer(case.spec.prompt)["input_ids"]
        assert tokenizer.unk_token_id not in ids
        assert len(ids) <= MAX_TEXT_TOKENS
        if kind == "text_to_video":
            said = set(case.spec.prompt.replace(",", "").split())
            assert {v for k, v in case.wanted[0].items() if k != "a"} <= said


def test_frames_that_are_given_are_frames_of_the_ideal_clip() -> None:
    for case in held_out("first_last_frame", CARD, 5, 1):
        assert case.inputs.first is not None
        assert case.inputs.last is not None
        assert np.array_equal(case.inputs.first.pixels, case.ideal[0])
        assert np.array_equal(case.inputs.last.pixels, case.ideal[-1])
    for case in held_out("image_to_video", CARD, 5, 1):
        assert case.inputs.first is not None
        assert np.array_equal(case.inputs.first.pixels, case.ideal[0])


def test_a_grid_comes_as_nine_pictures_or_one_sheet() -> None:
    counts: Counter[int] = Counter()
    for case in held_out("grid_to_video", CARD, 10, 1):
        panels = case.inputs.panels
        counts[len(panels)] += 1
        sheet = compose_sheet([Picture(case.ideal[i]) for i in range(0, 17, 2)], case.spec.width, case.spec.height)
        given = panels[0] if len(panels) == 1 else compose_sheet(panels, case.spec.width, case.spec.height)
        assert np.array_equal(given.pixels, sheet.pixels)
    assert counts == {9: 5, 1: 5}


def test_references_are_meant_alone_or_together() -> None:
    cases = held_out("reference_to_video", CARD, 40, 1)
    assert Counter(c.group for c in cases) == {"both": 20, "one": 10, "one_of_two": 10}
    for case in cases:
        assert len(case.inputs.references) == (1 if case.group == "one" else 2)
        assert len(case.wanted) == (2 if case.group == "both" else 1)
        assert case.spec.prompt.count("image ") == len(case.wanted)


def test_edits_bring_the_clip_and_come_in_thirds() -> None:
    cases = held_out("edit_video", CARD, 30, 1)
    assert Counter(c.group for c in cases) == dict.fromkeys(GROUPS["edit_video"], 10)
    for case in cases:
        assert case.inputs.video is not None
        assert case.inputs.video.frames.shape == case.ideal.shape
        assert case.inputs.video.fps == CARD.fps
        assert not np.array_equal(case.inputs.video.frames, case.ideal)
        assert len(case.inputs.references) == (1 if case.group == "edit_object" else 0)


def test_limits_of_the_model_hold() -> None:
    with pytest.raises(InvalidRequest, match="steps"):
        held_out("text_to_video", CARD, 1, 1, steps=0)
    with pytest.raises(InvalidRequest, match="guidance"):
        held_out("edit_video", CARD, 1, 1, guidance=-1.0)
