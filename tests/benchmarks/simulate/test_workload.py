"""What a job means for a model: segments, tokens, and the steps that are computed."""

from __future__ import annotations

from typing import Any, Literal

import pytest

from tests.benchmarks.simulate.harness import PRESET, job
from zoetrope.benchmarks.simulate.trace import TraceError
from zoetrope.benchmarks.simulate.workload import SimSegment, preset_named, workload
from zoetrope.model.catalog.presets import find_model
from zoetrope.model.families.nano import NANO_SIZES
from zoetrope.model.request.resolve import resolve
from zoetrope.model.request.specs import segment_of
from zoetrope.model.request.tasks import MediaInfo, media_of, parse_request
from zoetrope.serving.router.pricing import load_of


def segments(model: str = PRESET, **fields: Any) -> tuple[SimSegment, ...]:
    return workload(preset_named(model), [job(0.0, **{"steps": 20, **fields})]).segments[0]


def test_tokens_are_those_of_the_clip_and_its_sources() -> None:
    clip = 26 * 15 * 13  # 832x480 in cells of 32 pixels, 49 frames in 13 latent ones
    assert segments() == (SimSegment(clip, 20, 2),)
    assert segments(branches=1) == (SimSegment(clip, 20, 1),)
    assert segments(task="edit_video") == (SimSegment(2 * clip, 20, 2),)
    assert segments(task="reference_to_video", references=2) == (SimSegment(clip + 2 * 15 * 15, 20, 2),)


def test_a_lower_quality_computes_fewer_steps_where_the_model_has_ratios() -> None:
    exact, fast = (segments("wan2.2-t2v-a14b", steps=40, quality=quality)[0].steps for quality in ("exact", "fast"))
    assert exact == 40 and 10 < fast < 35
    assert segments(steps=40, quality="fast")[0].steps == 40, "there are none for this model"


@pytest.mark.parametrize(
    "request_fields",
    [
        {"task": {"kind": "text_to_video", "prompt": "a"}, "duration_seconds": 2.0},
        {"task": {"kind": "text_to_video", "prompt": "a"}, "duration_seconds": 6.0},
        {"task": {"kind": "first_last_frame", "first_frame": "f", "last_frame": "l"}, "duration_seconds": 2.0},
        {"task": {"kind": "reference_to_video", "prompt": "a", "references": ["r", "s"]}, "duration_seconds": 2.0},
        {"task": {"kind": "grid_to_video", "panels": ["g"]}, "duration_seconds": 2.0},
        {"task": {"kind": "edit_video", "prompt": "a", "video": "v"}, "duration_seconds": 2.0},
    ],
)
def test_tokens_are_those_that_the_router_counts(request_fields: dict[str, Any]) -> None:
    card = find_model("nano")
    request = parse_request({"size": "{}x{}".format(*NANO_SIZES[0]), "steps": 12, **request_fields})
    kinds: dict[str, Literal["image", "clip"]] = {
        name: "clip" if name == "video" else "image" for name in media_of(request.task)
    }
    media = {
        name: MediaInfo(kind, *NANO_SIZES[0], frames=16 if kind == "clip" else 1, fps=8.0)
        for name, kind in kinds.items()
    }
    spec = resolve(request, card, 1, media)
    asked = job(0.0, 12, task=spec.task.kind, width=spec.width, height=spec.height, frames=spec.frames, references=2)
    found = workload(preset_named("nano"), [asked]).segments[0]
    real = [load_of(segment_of(spec, "", index), card) for index in range(len(spec.spans))]
    assert [(one.tokens, one.branches) for one in found] == [(load.tokens, load.branches) for load in real]


def test_an_unknown_model_is_refused() -> None:
    with pytest.raises(TraceError, match="model is 'wan9', must be one of wan2"):
        preset_named("wan9")
