"""Tokens beside a clip are counted as the conditioners make them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from zoetrope.model.catalog.presets import find_model
from zoetrope.model.request.resolve import resolve
from zoetrope.model.request.specs import VideoSpec, segment_of
from zoetrope.model.request.steps import branch_count
from zoetrope.model.request.tasks import MediaInfo, ModelCard, VideoRequest

NANO = find_model("nano")  # of tokens of 4 x 4 pixels and 4 frames
FRAME = 10 * 6
CLIP = MediaInfo("clip", 40, 24, frames=24, fps=8.0)
PICTURE = MediaInfo("image", 100, 50)


def spec_of(kind: str, card: ModelCard = NANO, media: dict[str, MediaInfo] | None = None, **task: Any) -> VideoSpec:
    fields = {"task": {"kind": kind, "prompt": "p", **task}, "size": "40x24", "frames": 17}
    return resolve(VideoRequest.model_validate(fields), card, 0, media or {})


@pytest.mark.parametrize(
    ("spec", "beside"),
    [
        (spec_of("text_to_video"), 0),
        (spec_of("image_to_video", image="a"), 0),
        (spec_of("image_to_video", image="a", loop=True), FRAME),
        (spec_of("first_last_frame", first_frame="a", last_frame="b"), FRAME),
        (spec_of("grid_to_video", panels=["a"]), 4 * FRAME),
        (spec_of("reference_to_video", references=["a"], media={"references.0": PICTURE}), 6 * 6),
        (spec_of("reference_to_video", references=["a"], media={"references.0": CLIP}), 5 * FRAME),
        (spec_of("edit_video", video="a", references=["b"], media={"video": CLIP}), 5 * FRAME + 6 * 6),
    ],
)
def test_sources_and_endings(spec: VideoSpec, beside: int) -> None:
    assert spec.beside == (beside,)
    assert segment_of(VideoSpec.from_dict(spec.to_dict()), "a").beside == beside


def test_each_segment_has_its_own_part_of_a_source() -> None:
    fields = {"task": {"kind": "image_to_video", "prompt": "p", "image": "a", "loop": True}, "frames": 29}
    spec = resolve(VideoRequest.model_validate(fields), NANO, 0)
    assert len(spec.spans) == 2 and spec.beside == (0, FRAME), "only the last one ends with a picture"


def test_guidance_of_bernini_has_more_branches() -> None:
    bernini = replace(NANO, conditioner="bernini")
    assert branch_count(spec_of("text_to_video", bernini)) == 2
    assert branch_count(spec_of("reference_to_video", bernini, references=["a"])) == 3
    edit = spec_of("edit_video", bernini, video="a", references=["b"], media={"video": CLIP})
    assert edit.branches == branch_count(edit) == 4
    assert branch_count(replace(edit, guidance=1.0)) == 4, "a chain is needed all the same"
    assert branch_count(replace(edit, branches=2, guidance=1.0)) == 1


def test_references_of_vace_are_frames_in_front() -> None:
    vace = replace(NANO, conditioner="vace", reference_clips=False)
    assert spec_of("reference_to_video", vace, references=["a", "b"]).beside == (2 * FRAME,)
    assert spec_of("grid_to_video", vace, panels=["a"]).beside == (FRAME,)
