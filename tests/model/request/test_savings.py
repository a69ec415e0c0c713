"""Quality and guidance interval of a request: the mask that its steps get, and what is refused."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from zoetrope.model.caching.levels import level_of
from zoetrope.model.caching.mask import high_noise_steps, step_mask
from zoetrope.model.caching.ratios import published_lists
from zoetrope.model.catalog.presets import find_model
from zoetrope.model.request.resolve import resolve
from zoetrope.model.request.specs import VideoSpec, segment_of
from zoetrope.model.request.tasks import InvalidRequest, ModelCard, parse_request

NANO = find_model("nano")
WAN = replace(NANO, name="wan", step_ratios=published_lists("wan2.1-t2v-14b"), default_steps=50)


def spec_of(card: ModelCard = NANO, **fields: Any) -> VideoSpec:
    task = {"kind": "text_to_video", "prompt": "a red circle"}
    return resolve(parse_request({"task": task, **fields}), card, 5)


def violations(card: ModelCard = NANO, **fields: Any) -> dict[str, str]:
    with pytest.raises(InvalidRequest) as caught:
        spec_of(card, **fields)
    return {violation.field: violation.description for violation in caught.value.violations}


def test_a_level_of_quality_becomes_a_mask() -> None:
    exact = spec_of(WAN)
    assert (exact.quality, exact.step_mask) == ("exact", "")
    fast = spec_of(WAN, quality="fast")
    assert (fast.quality, fast.step_mask) == ("fast", "##########....#....#....#....#....#...#..#..#.#.##")
    balanced = spec_of(WAN, quality="balanced", steps=30)
    assert len(balanced.step_mask) == 30 and balanced.step_mask.count("#") < 20
    assert segment_of(balanced, "a").step_mask == balanced.step_mask
    assert VideoSpec.from_dict(balanced.to_dict()) == balanced
    assert not fast.warnings


def test_two_experts_have_their_own_warm_ups() -> None:
    card = replace(
        WAN,
        boundary=0.875,
        default_flow_shift=12.0,
        default_steps=40,
        step_ratios=published_lists("wan2.2-t2v-a14b"),
    )
    assert spec_of(card, quality="balanced").step_mask == "##########..#..#..#..#..#.######.#.#.###"
    other = spec_of(card, quality="balanced", flow_shift=5.0)
    split = high_noise_steps(40, 5.0, 0.875)
    level = level_of("balanced", True)
    assert level is not None and split != 26
    assert other.step_mask == step_mask(card.step_ratios[0].values, 40, level, split)
    assert other.warnings == ("quality: the ratios of text_to_video were measured with flow_shift 12, this has 5.0",)


def test_few_steps_and_tasks_without_ratios_are_refused() -> None:
    assert violations(quality="fast", steps=8) == {"quality": "fast needs 9 or more steps, this has 8: give exact"}
    assert spec_of(quality="fast", steps=9).step_mask
    assert violations(replace(NANO, step_ratios=()), quality="balanced") == {
        "quality": "balanced needs ratios measured for text_to_video, nano has them for no task: give exact, or have "
        "zoetrope calibrate measure them"
    }
    only = tuple(one for one in NANO.step_ratios if one.kind == "edit_video")
    assert "nano has them for edit_video" in violations(replace(NANO, step_ratios=only), quality="fast")["quality"]
    with pytest.raises(InvalidRequest, match=r"quality: .*'best'|quality: .*exact"):
        parse_request({"task": {"kind": "text_to_video", "prompt": "p"}, "quality": "best"})


def test_all_that_is_wrong_is_told_at_once() -> None:
    assert violations(quality="fast", steps=0, guidance_start=2.0).keys() == {"steps", "guidance_start"}
    assert violations(quality="fast", steps=4, guidance=99.0).keys() == {"quality", "guidance"}


def test_steps_after_a_change_of_guidance_are_computed() -> None:
    mask = spec_of(WAN, quality="fast").step_mask
    spec = spec_of(WAN, quality="fast", guidance_start=0.24, guidance_end=0.66)
    assert (mask[12], mask[33]) == (".", ".")
    assert (spec.step_mask[12], spec.step_mask[33]) == ("#", "#")
    assert (segment_of(spec, "a").guidance_start, segment_of(spec, "a").guidance_end) == (0.24, 0.66)


@pytest.mark.parametrize(
    ("fields", "field", "said"),
    [
        ({"guidance_start": -0.1}, "guidance_start", "-0.1 must be from 0 to 1, a share of the steps"),
        ({"guidance_end": 1.5}, "guidance_end", "1.5 must be from 0 to 1, a share of the steps"),
        ({"guidance_end": float("nan")}, "guidance_end", "nan must be from 0 to 1, a share of the steps"),
        ({"guidance_start": 0.5, "guidance_end": 0.5}, "guidance_start", "0.5 must be below guidance_end, 0.5"),
        (
            {"guidance_start": 0.51, "guidance_end": 0.52},
            "guidance_end",
            "0.52 leaves none of 30 steps from guidance_start, 0.51, on",
        ),
    ],
)
def test_a_wrong_interval_of_guidance_is_refused(fields: dict[str, Any], field: str, said: str) -> None:
    assert violations(**fields) == {field: said}
