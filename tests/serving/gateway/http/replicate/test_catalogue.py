"""Public names of Wan models stand for tasks of the served one."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from zoetrope.model.catalog.presets import find_model as find_card
from zoetrope.model.request.kinds import TASK_KINDS
from zoetrope.serving.config.served_models import ServedModels
from zoetrope.serving.gateway.http.replicate.catalogue import OfferedModel, find_model, offered_models
from zoetrope.serving.gateway.http.replicate.inputs import translate
from zoetrope.serving.gateway.http.replicate.views import model_schema, model_view, version_id

CARD = find_card("nano")
MODELS = ServedModels([CARD], ("wan-2.5-t2v", "acme/video-1"))


def find(name: str) -> OfferedModel:
    model = find_model(name, MODELS)
    assert model is not None, name
    assert model.id == name
    return model


@pytest.mark.parametrize(
    ("name", "kind", "size"),
    [
        ("wan-video/wan-2.2-t2v-fast", "text_to_video", "480p"),
        ("wan-video/wan-2.2-i2v-fast", "image_to_video", "480p"),
        ("wan-video/wan-2.2-i2v-a14b", "image_to_video", "480p"),
        ("wan-video/wan-2.2-t2v-480p", "text_to_video", "480p"),
        ("wan-video/wan-2.1-t2v-720p", "text_to_video", "720p"),
        ("wan-video/wan-2.6-t2v", "text_to_video", "720p"),
        ("wan-video/wan-2.5-i2v-fast", "image_to_video", "720p"),
        ("wan-video/wan2.6-i2v-flash", "image_to_video", "720p"),
        ("wavespeedai/wan-2.1-i2v-480p", "image_to_video", "480p"),
        ("wavespeedai/wan-2.1-t2v-720p", "text_to_video", "720p"),
        ("wan-video/wan-2.1-1.3b", "text_to_video", "480p"),
        ("wan-video/wan-2.2-5b-fast", "image_to_video", "480p"),
    ],
)
def test_public_names(name: str, kind: str, size: str) -> None:
    given: dict[str, Any] = {"prompt": "p", "num_frames": 81, "frames_per_second": 16, "go_fast": True}
    if kind == "image_to_video":
        given["image"] = "a"
    found = translate(find(name), given, expands=False)
    assert (found.data["task"]["kind"], found.data["size"]) == (kind, size)
    assert translate(find(name), given | {"resolution": "720P"}, expands=False).data["size"] == "720p"
    assert model_schema(find(name))["components"]["schemas"]["Input"]["properties"]["resolution"]["default"] == size


@pytest.mark.parametrize(
    "name",
    [
        *("wan-video/wan-2.2-s2v", "wan-video/wan-2.2-animate-replace", "wan-video/wan-2.2-t2v-i2v", "wan-video/wan"),
        *("someone/wan-2.1-t2v-480p", "wan-2.2-t2v-fast", "wan-video/wan-2.2-t2v-fast\n", "", "/", "wan-video/"),
    ],
)
def test_names_of_other_models_are_not_known(name: str) -> None:
    assert find_model(name, MODELS) is None


def test_only_tasks_that_are_served() -> None:
    models = ServedModels([replace(CARD, tasks=("text_to_video",))])
    assert find_model("wan-video/wan-2.2-t2v-fast", models) is not None
    assert find_model("wan-video/wan-2.2-i2v-fast", models) is None


def test_versions_differ() -> None:
    models = [*offered_models(MODELS), find("wan-video/wan-2.2-t2v-fast"), find("wavespeedai/wan-2.1-t2v-480p")]
    assert len({version_id(model, MODELS) for model in models}) == len(models)
    view = model_view(find("wavespeedai/wan-2.1-t2v-480p"), MODELS, "http://x")
    assert (view["owner"], view["name"]) == ("wavespeedai", "wan-2.1-t2v-480p")


def test_the_served_model_shows_all_its_fields() -> None:
    own, *others = (model for model in offered_models(MODELS) if model.served)
    assert [model.id for model in others] == ["wan-video/wan-2.5-t2v", "acme/video-1"]
    assert find("acme/video-1").forms == find("wan-video/wan-2.5-t2v").forms == own.forms
    assert own.tasks == set(TASK_KINDS)
    shown = model_schema(own)["components"]["schemas"]["Input"]
    assert {"prompt", "image", "task", "video", "images", "reference_images", "steps"} - set(shown["properties"]) == {
        "image"  # another name of first_frame, which is listed
    }
    assert "required" not in shown
