"""Inputs of the Replicate API become tasks, or errors with the names that the client wrote."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.draws import draws
from tests.serving.gateway.harness import Service, running_service
from zoetrope.model.request.tasks import InvalidRequest, parse_request
from zoetrope.serving.gateway.http.replicate.catalogue import WAN_MODELS, OfferedModel
from zoetrope.serving.gateway.http.replicate.fields import ALIASES
from zoetrope.serving.gateway.http.replicate.forms import ANY
from zoetrope.serving.gateway.http.replicate.headers import cancel_after_seconds, trace_parent, wait_seconds
from zoetrope.serving.gateway.http.replicate.inputs import NOT_EXPANDED, translate
from zoetrope.serving.gateway.http.replicate.views import abridged, progress_bar

MODELS = {model.name.rpartition("-")[2]: model for model in WAN_MODELS}
P = {"prompt": "p"}
WORDS = {**P, "negative_prompt": None}


@pytest.mark.parametrize(
    ("name", "input", "task"),
    [
        ("t2v", {"negative_prompt": "n"}, {"kind": "text_to_video", "negative_prompt": "n"}),
        ("t2v", {"negative_prompt": ""}, {"kind": "text_to_video", "negative_prompt": ""}),
        ("t2v", {"negative_prompt": None}, {"kind": "text_to_video"}),
        ("i2v", {"first_frame": "a"}, {"kind": "image_to_video", "image": "a", "loop": False}),
        ("i2v", {"image": "a", "loop": 1, "last_frame": None}, {"kind": "image_to_video", "image": "a", "loop": True}),
        ("i2v", {"first_clip": "a"}, {"kind": "image_to_video", "clip": "a"}),
        ("i2v", {"first_clip": "a", "last_image": "b"}, {"kind": "image_to_video", "clip": "a", "last_frame": "b"}),
        ("i2v", {"image": "a", "last_image": "b"}, {"kind": "first_last_frame", "first_frame": "a", "last_frame": "b"}),
        ("i2v", {"images": ["a"]}, {"kind": "grid_to_video", "panels": ["a"]}),
        (
            "r2v",
            {"reference_images": ["a"], "reference_videos": ["b"], "first_frame": "c"},
            {"kind": "reference_to_video", "references": ["a", "b"], "first_frame": "c"},
        ),
        (
            "videoedit",
            {"video": "a", "reference_image": "b", "reference_images": ["c"], "audio_setting": "origin"},
            {"kind": "edit_video", "video": "a", "references": ["b", "c"], "keep_audio": True},
        ),
    ],
)
def test_tasks(name: str, input: dict[str, Any], task: dict[str, Any]) -> None:
    found = translate(MODELS[name], P | input, expands=False)
    assert found.data["task"] == WORDS | task
    assert parse_request(found.data).task.kind == task["kind"]


def test_settings() -> None:
    fields = {"aspect_ratio": "9:16", "duration": 4, "seed": 1, "num_inference_steps": 2, "guidance_scale": 3.5}
    fields |= {"frames_per_second": 8, "num_frames": 9, "guidance_scale_2": 1, "resolution": "480p", "audio": "a"}
    data = translate(MODELS["t2v"], P | fields, expands=False).data
    del data["task"]
    expected = {"size": "480p", "ratio": "9:16", "duration_seconds": 4, "seed": 1, "steps": 2, "guidance": 3.5}
    assert data == expected | {"fps": 8, "frames": 9, "guidance_low": 1, "audio": "a"}
    more = {"fit": "contain", "sample_shift": 8, "output_format": "webp", "seed": str(2**63 - 1), "size": "64*32"}
    data = translate(MODELS["t2v"], P | more, expands=False).data
    del data["task"]
    expected = {"fit": "contain", "flow_shift": 8, "container": "webp", "seed": 2**63 - 1, "size": "64*32"}
    assert data == expected
    assert "duration_seconds" not in translate(MODELS["videoedit"], P | {"video": "a", "duration": 0}, False).data


@pytest.mark.parametrize("alias", [name for name, known in ALIASES.items() if known == "enable_prompt_expansion"])
def test_expansion(alias: str) -> None:
    without = translate(MODELS["t2v"], P | {alias: True}, expands=False)
    assert (without.expand, without.warnings) == (False, (NOT_EXPANDED,))
    with_hook = translate(MODELS["t2v"], P | {alias: True}, expands=True)
    assert (with_hook.expand, with_hook.warnings) == (True, ())
    assert not translate(MODELS["t2v"], P, expands=True).expand


@pytest.mark.parametrize(
    ("input", "data"),
    [
        ({"resolution": "480P"}, {"size": "480p"}),
        ({"resolution": " 1080P"}, {"size": "1080p"}),
        ({"sample_steps": 30, "sample_guide_scale": 5}, {"size": "720p", "steps": 30, "guidance": 5}),
        ({"sample_shift": 8, "frame_num": 81}, {"size": "720p", "flow_shift": 8, "frames": 81}),
        ({"num_frames": 81, "frames_per_second": 16}, {"size": "720p", "frames": 81, "fps": 16}),
        ({"aspect_ratio": "9:16", "resolution": "720P"}, {"size": "720p", "ratio": "9:16"}),
        ({"max_area": "480x832", "image": "a"}, {"size": "480p"}),
        ({"max_area": "1280x720", "image": "a"}, {"size": "720p"}),
        ({"size": "832*480", "image": "a"}, {"size": "832*480"}),
        ({"duration_seconds": 2, "ratio": "1:1", "guidance_low": 3}, {"duration_seconds": 2, "guidance_low": 3}),
    ],
)
def test_names_of_earlier_versions(input: dict[str, Any], data: dict[str, Any]) -> None:
    found = translate(MODELS["i2v" if "image" in input else "t2v"], P | input, expands=False)
    assert data.items() <= found.data.items()
    assert found.warnings == ()


def test_what_changes_nothing_is_said() -> None:
    asked = {"watermark": True, "go_fast": True, "fast_mode": "Balanced", "disable_safety_checker": True}
    found = translate(MODELS["t2v"], P | asked | {"lora_scale": 1, "lora_scale_transformer": 0.5}, expands=False)
    assert [warning.partition(" ")[0] for warning in found.warnings] == [*asked, "lora_scale", "lora_scale_transformer"]
    assert set(found.data) == {"task", "size"}
    asks_nothing = {"watermark": False, "go_fast": False, "fast_mode": "Off", "lora_weights": "", "lora_scale": None}
    found = translate(MODELS["t2v"], P | asks_nothing | {"interpolate_output": False, "multi_shots": False}, False)
    assert (found.warnings, set(found.data)) == ((), {"task", "size"})


@pytest.mark.parametrize(
    ("input", "kind"),
    [
        ({}, "text_to_video"),
        ({"image": None, "video": "", "reference_images": []}, "text_to_video"),
        ({"image": "a"}, "image_to_video"),
        ({"first_clip": "a"}, "image_to_video"),
        ({"image": "a", "last_image": "b"}, "first_last_frame"),
        ({"images": ["a"]}, "grid_to_video"),
        ({"reference_images": ["a"], "first_frame": "b"}, "reference_to_video"),
        ({"video": "a", "reference_images": ["b"]}, "edit_video"),
    ],
)
def test_media_choose_the_task(input: dict[str, Any], kind: str) -> None:
    found = translate(ANY_MODEL, P | input, expands=False)
    assert found.data["task"]["kind"] == kind
    assert "size" not in found.data  # the served model's own


@pytest.mark.parametrize(
    ("name", "input", "field"),
    [
        ("t2v", {"resolution": "8k"}, "resolution"),
        ("t2v", {"seed": 1.5}, "seed"),
        ("t2v", {"seed": 2.0**60}, "seed"),
        ("t2v", {"seed": "seven"}, "seed"),
        ("t2v", {"shift": "much"}, "shift"),
        ("t2v", {"shift": 3, "flow_shift": 3}, "flow_shift"),
        ("t2v", {"fit": "stretch"}, "fit"),
        ("t2v", {"aspect_ratio": "2:1"}, "aspect_ratio"),
        ("t2v", {"output_format": "gif"}, "output_format"),
        ("t2v", {"steps": "many"}, "steps"),
        ("t2v", {"steps": 1, "num_inference_steps": 1}, "num_inference_steps"),
        ("t2v", {"watermark": "yes, please"}, "watermark"),
        ("t2v", {"go_fast": {}}, "go_fast"),
        ("t2v", {"go_faster": True}, "go_faster"),
        ("t2v", {"lora_weights": "https://example.com/a.safetensors"}, "lora_weights"),
        ("t2v", {"lora_weights_transformer_2": "owner/lora"}, "lora_weights_transformer_2"),
        ("t2v", {"interpolate_output": True}, "interpolate_output"),
        ("t2v", {"multi_shots": True}, "multi_shots"),
        ("t2v", {"image": "a"}, "image"),
        ("i2v", {"image": "a", "max_area": "640x480"}, "max_area"),
        ("t2v", {"prompt": None}, "prompt"),
        ("i2v", {}, "first_frame"),
        ("i2v", {"image": "a", "first_clip": "b"}, "first_clip"),
        ("i2v", {"last_image": "a", "images": ["b"]}, "last_image"),
        ("i2v", {"image": ""}, "image"),
        ("i2v", {"image": 5}, "image"),
        ("i2v", {"image": "a", "last_frame": "b", "loop": True}, "loop"),
        ("r2v", {}, "reference_images"),
        ("r2v", {"reference_images": ["a"], "shot_type": "multi"}, "shot_type"),
        ("videoedit", {}, "video"),
        ("videoedit", {"video": "a", "audio": "b"}, "audio"),
    ],
)
def test_refused(name: str, input: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        translate(MODELS[name], P | input, expands=False)
    assert [violation.field for violation in caught.value.violations] == [f"input.{field}"]


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with running_service(tmp_path_factory.mktemp("inputs"), model="nano") as service:
        yield service


@pytest.fixture(scope="module")
def web(gateway: Service) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=gateway.http) as client:
        yield client


@pytest.mark.parametrize(
    ("model", "input", "fields"),
    [
        ("t2v", {"guidance": 99, "fps": 0}, ["guidance", "fps"]),
        ("t2v", {"prompt": "", "duration": 99}, ["prompt", "duration"]),
        ("t2v", {"num_frames": 10**6, "seed": -2}, ["num_frames", "seed"]),
        ("t2v", {"seed": 2**63, "sample_shift": 0}, ["seed", "sample_shift"]),
        ("t2v", {"output_format": "png", "duration": 2}, ["output_format"]),
        ("t2v", {"sample_steps": 0, "size": "5*5"}, ["sample_steps", "size"]),
        ("i2v", {"image": "file:///etc/passwd"}, ["image"]),
        ("i2v", {"first_frame": "http://127.0.0.1:1/a.png"}, ["first_frame"]),
        ("i2v", {"image": "data:image/png;base64,AAAA"}, ["image"]),
        ("i2v", {"images": ["med_x", "med_y"]}, ["images"]),
        (
            "r2v",
            {"reference_images": ["ftp://x"], "reference_videos": ["no"]},
            ["reference_images.0", "reference_videos.0"],
        ),
        (
            "videoedit",
            {"video": "no", "reference_image": "x", "reference_images": ["y"]},
            ["video", "reference_image", "reference_images.0"],
        ),
    ],
)
def test_refused_by_the_service(web: httpx.Client, model: str, input: dict[str, Any], fields: list[str]) -> None:
    answer = web.post(f"/v1/models/wan-video/wan-2.7-{model}/predictions", json={"input": P | input})
    problem = answer.json()
    assert answer.status_code == problem["status"] == 422, problem
    assert {item["field"] for item in problem["invalid_fields"]} == {f"input.{field}" for field in fields}
    assert problem["title"] == "Input validation failed"
    assert all(item["field"] in problem["detail"] for item in problem["invalid_fields"])


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"{", 400),
        (b"[]", 400),
        (b'{"input": "\\ud800"}', 400),
        (b"[" * 100_000, 400),
        (b"{}", 422),
        (b'{"input": {}}', 422),
        (b'{"input": [], "model": "wan-video/wan-2.7-t2v"}', 422),
        (b'{"input": {}, "model": "a/b", "version": "c"}', 422),
        (b'{"input": {}, "model": "a/b"}', 404),
        (b'{"input": {}, "version": "a/b:c"}', 404),
        (b'{"input": {"prompt": "p", "seed": NaN}, "model": "wan-video/wan-2.7-t2v"}', 422),
        (b'{"input": {"prompt": "p", "fps": 1' + b"0" * 400 + b'}, "model": "wan-video/wan-2.7-t2v"}', 422),
        (b'{"input": {"prompt": "p"}, "model": "wan-video/wan-2.7-t2v", "colour": 1}', 422),
        (b'{"input": {"task": 5}, "model": "wan-video/nano"}', 422),
        (b'{"input": {"size": "480p"}, "model": "wan-video/nano"}', 422),
        (b" " * (13 << 20), 413),
    ],
    ids=range(16),
)
def test_bodies_that_are_refused(web: httpx.Client, body: bytes, status: int) -> None:
    answer = web.post("/v1/predictions", content=body)
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert {"type", "title", "detail", "status", "invalid_fields"} <= set(answer.json())


def test_wait() -> None:
    assert [wait_seconds(header) for header in (None, "", "respond-async", "wait", "Wait=5", "a, wait=60")] == [
        *(None, None, None),
        *(60, 5, 60),
    ]


@pytest.mark.parametrize("header", ["0", "61", "999999999"])
def test_wait_is_bounded(web: httpx.Client, header: str) -> None:
    body = {"input": P, "model": "wan-video/wan-2.7-t2v"}
    answer = web.post("/v1/predictions", json=body, headers={"prefer": f"wait={header}"})
    assert (answer.status_code, answer.json()["invalid_fields"][0]["field"]) == (422, "Prefer")


def test_cancel_after() -> None:
    headers = (None, "10", "10s", "2m", "1h", "1h1m1s", " 1H5S ")
    assert [cancel_after_seconds(header) for header in headers] == [None, 10, 10, 120, 3_600, 3_661, 3_605]


def test_trace_parent() -> None:
    good = f"00-{'a' * 32}-{'b' * 16}-01"
    assert [trace_parent(header) for header in (good, good + "\n", "x", "", None)] == [good, None, None, None, None]


@given(st.integers(0, 10_000), st.integers(0, 10_000))
def test_progress_is_what_the_client_reads(step: int, steps: int) -> None:
    from replicate.prediction import Prediction

    step = min(step, steps)
    found = Prediction.Progress.parse("a line\n" + progress_bar(step, steps) + "\n")
    assert found is not None
    assert (found.current, found.total) == (step, steps)
    assert found.percentage == (step * 100 // steps / 100 if steps else 1.0)


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text()
    | st.sampled_from(["data:,x", "http://a", "med_a"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
FIELDS = sorted({name for form in ANY for name in form.fields.model_fields} | set(ALIASES))
ANY_MODEL = OfferedModel("any", "", ANY, resolution=None)


@settings(max_examples=draws(150), deadline=None)
@given(
    st.sampled_from((*WAN_MODELS, ANY_MODEL)),
    st.dictionaries(st.sampled_from(FIELDS) | st.text(max_size=5), JSON, max_size=5),
)
def test_any_input_is_translated_or_refused(model: Any, input: dict[str, Any]) -> None:
    try:
        found = translate(model, input, expands=False)
    except InvalidRequest as error:
        assert all(violation.field.startswith("input.") for violation in error.violations)
    else:
        assert found.data["task"]["kind"] in model.tasks


@given(JSON)
def test_what_is_echoed_is_short(value: Any) -> None:
    def longest(found: Any) -> int:
        if isinstance(found, dict):
            return max(map(longest, found.values()), default=0)
        if isinstance(found, list):
            return max(map(longest, found), default=0)
        return len(found) if isinstance(found, str) else 0

    long = "data:a;base64," + "A" * 5_000
    assert longest(abridged([value, long, "x" * 5_000])) <= 1_003
