"""What a conditioner would refuse is refused when the request is examined."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from zoetrope.model.catalog.presets import find_model
from zoetrope.model.families import FAMILIES
from zoetrope.model.request.media_rules import MAX_DECODED_BYTES, media_violations
from zoetrope.model.request.resolve import resolve
from zoetrope.model.request.tasks import InvalidRequest, MediaInfo, ModelCard, parse_request
from zoetrope.serving.media.streams import MAX_CLIP_BYTES

CARD = replace(find_model("nano"), max_references=5)
STILL = MediaInfo("image", 64, 48)


def clip(seconds: float, width: int = 64, height: int = 48) -> MediaInfo:
    return MediaInfo("clip", width, height, round(seconds * 20), 20.0)


def of_family(conditioner: str) -> ModelCard:
    """A card with what a family with that conditioner can take."""
    family = next(family for family in FAMILIES if family.conditioner == conditioner)
    return replace(CARD, ends_with_frame=family.ends_with_frame, reference_clips=family.reference_clips)


def faults(task: dict[str, Any], media: dict[str, MediaInfo], card: ModelCard = CARD, **fields: Any) -> dict[str, str]:
    request = parse_request({"task": task, **fields})
    try:
        resolve(request, card, 0, media)
    except InvalidRequest as error:
        return {violation.field: violation.description for violation in error.violations}
    return {}


LOOP = {"kind": "image_to_video", "image": "1", "loop": True}
CONTINUED = {"kind": "image_to_video", "clip": "1"}
ENDING = {**CONTINUED, "last_frame": "2"}
REFERENCES = {"kind": "reference_to_video", "prompt": "p", "references": ["1", "2"]}
EDIT = {"kind": "edit_video", "prompt": "p", "video": "1", "references": ["2"]}


@pytest.mark.parametrize("conditioner", ["streams", "channels", "vace", "first_latent", "bernini"])
def test_a_loop_needs_a_family_that_can_end_with_a_frame(conditioner: str) -> None:
    card = of_family(conditioner)
    found = faults(LOOP, {"image": STILL}, card)
    assert found == (
        {"loop": "true, but nano cannot end with a given frame"} if conditioner in ("first_latent", "bernini") else {}
    )
    assert faults({**LOOP, "loop": False}, {"image": STILL}, card) == {}
    found = faults(ENDING, {"clip": clip(2), "last_frame": STILL}, card)
    assert found == (
        {"last_frame": "is given, but nano cannot end with a given frame"}
        if conditioner in ("first_latent", "bernini")
        else {}
    )


def test_a_clip_is_no_last_frame() -> None:
    assert faults(ENDING, {"clip": clip(2), "last_frame": clip(2)})["last_frame"].endswith("give a picture")


@pytest.mark.parametrize(("task", "field"), [(REFERENCES, "references.1"), (EDIT, "references.0")])
def test_vace_takes_pictures_as_references(task: dict[str, Any], field: str) -> None:
    media = {"references.0": STILL, "video": clip(4), field: clip(4)}
    media = {name: info for name, info in media.items() if task is EDIT or name != "video"}
    found = faults(task, media, of_family("vace"))
    assert found == {field: "is a clip of 80 frames, but nano takes only pictures as references"}
    assert faults(task, media) == {}


@pytest.mark.parametrize(
    ("task", "field", "longest"),
    [(CONTINUED, "clip", 15), (REFERENCES, "references.0", 10), (EDIT, "references.0", 10)],
)
def test_clips_have_a_longest_length(task: dict[str, Any], field: str, longest: int) -> None:
    beside = {"video": clip(4)} if task is EDIT else {}
    assert faults(task, {**beside, field: clip(longest)}) == {}
    found = faults(task, {**beside, field: clip(longest + 1)})
    assert found == {field: f"lasts {longest + 1:.2f} s, at most {longest} s are allowed"}


def test_whatever_we_make_can_be_gone_on_from() -> None:
    spec = resolve(parse_request({"task": {**LOOP}, "duration_seconds": 15.0}), CARD, 0)
    assert spec.frames == 121
    assert faults(CONTINUED, {"clip": MediaInfo("clip", 40, 24, spec.frames, float(spec.fps))}) == {}


def test_a_clip_whose_frames_take_too_much_memory_is_refused() -> None:
    assert faults(CONTINUED, {"clip": clip(15, 1920, 1080)}, fps=24) == {}
    found = faults(CONTINUED, {"clip": clip(15, 1920, 1080)}, fps=60, duration_seconds=1)
    assert f"at most {MAX_DECODED_BYTES}" in found["clip"]
    assert MAX_DECODED_BYTES == MAX_CLIP_BYTES, "what a reader refuses"


def test_what_was_not_examined_is_not_judged() -> None:
    task = parse_request({"task": REFERENCES}).task
    assert list(media_violations(task, of_family("vace"), {}, 8)) == []
