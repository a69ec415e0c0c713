"""What the fields of fal's Wan apps become."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.serving.gateway.harness import Service
from tests.serving.gateway.http.fal.kit import EDIT, I2V, PROMPT, R2V, T2V, WEB, data, post, refused, spec_of
from tests.serving.gateway.http.samples import clip, picture, sound
from zoetrope.serving.gateway.http.fal.fields import ALIASES, INERT, REFUSED, FalInput
from zoetrope.serving.gateway.http.fal.views import LIFECYCLE, PRIORITY, TIMEOUT

PICTURE, OTHER = data(picture()), data(picture(seed=1))
CLIP = data(clip(), "video/mp4")
# What fal's own pages for Wan 2.2 A14B give as an example of all fields.
A14B = {
    "num_frames": 17,
    "frames_per_second": 16,
    "negative_prompt": "",
    "resolution": "480p",
    "aspect_ratio": "1:1",
    "num_inference_steps": 12,
    "enable_safety_checker": True,
    "enable_prompt_expansion": False,
    "acceleration": "regular",
    "guidance_scale": 3.5,
    "shift": 5,
    "interpolator_model": "film",
    "num_interpolated_frames": 0,
    "adjust_fps_for_interpolation": True,
    "video_quality": "high",
    "video_write_mode": "balanced",
    "loras": [],
    "seed": None,
}


def test_all_fields_of_an_app(service: Service) -> None:
    spec = spec_of(service, "fal-ai/wan/v2.2-a14b/text-to-video/lora", **A14B)
    wanted = {"frames": 17, "fps": 16, "width": 624, "height": 624, "steps": 12, "guidance": 3.5, "flow_shift": 5.0}
    assert {name: spec[name] for name in wanted} == wanted
    assert spec["task"]["negative_prompt"] == ""
    said = [line.partition(" changes nothing")[0] for line in spec["warnings"] if "changes nothing" in line]
    assert said == ["enable_safety_checker", "acceleration"]


@pytest.mark.parametrize(
    ("app", "fields", "kind", "media"),
    [
        ("wan/v2.6/text-to-video", {"duration": "1"}, "text_to_video", 0),
        ("fal-ai/wan-t2v", {}, "text_to_video", 0),
        ("fal-ai/wan-25-preview/text-to-video", {"audio_url": data(sound(), "audio/wav")}, "text_to_video", 1),
        ("fal-ai/wan/v2.2-A14B/image-to-video", {"image_url": PICTURE}, "image_to_video", 1),
        ("fal-ai/wan-i2v", {"image_url": PICTURE, "guide_scale": 2, "aspect_ratio": "auto"}, "image_to_video", 1),
        (I2V, {"image_url": PICTURE, "end_image_url": OTHER}, "first_last_frame", 2),
        (I2V, {"video_url": CLIP, "duration": "3"}, "image_to_video", 1),
        (I2V, {"video_url": CLIP, "end_image_url": PICTURE, "duration": "3"}, "image_to_video", 2),
        (I2V, {"image_url": PICTURE, "loop": True, "duration": "2s"}, "image_to_video", 1),
        ("fal-ai/wan-flf2v", {"start_image_url": PICTURE, "end_image_url": OTHER}, "first_last_frame", 2),
        (R2V, {"reference_image_urls": [PICTURE], "reference_video_urls": [CLIP]}, "reference_to_video", 2),
        ("wan/v2.6/reference-to-video", {"video_urls": [CLIP]}, "reference_to_video", 1),
        (EDIT, {"video_url": CLIP, "duration": "0", "reference_image_url": PICTURE}, "edit_video", 2),
        ("fal-ai/wan-vace-apps/video-edit", {"video_url": CLIP, "resolution": "auto"}, "edit_video", 1),
        ("fal-ai/wan-vace-14b", {"ref_image_urls": [PICTURE, OTHER]}, "reference_to_video", 2),
        ("fal-ai/wan-vace", {"first_frame_url": PICTURE, "last_frame_url": OTHER}, "first_last_frame", 2),
        ("zoetrope/nano", {"prompt": None, "task": {"kind": "text_to_video", "prompt": "a"}}, "text_to_video", 0),
        ("zoetrope/nano", {}, "text_to_video", 0),
        ("zoetrope/nano", {"image_url": PICTURE, "end_image_url": OTHER}, "first_last_frame", 2),
        ("zoetrope/nano", {"reference_video_urls": [CLIP]}, "reference_to_video", 1),
        ("zoetrope/nano", {"video_url": CLIP}, "edit_video", 1),
    ],
)
def test_apps(service: Service, app: str, fields: dict[str, Any], kind: str, media: int) -> None:
    given = {name: value for name, value in {**PROMPT, **fields}.items() if value is not None}
    answer = post(service, app, given)
    assert answer.status_code == 200, answer.text
    job = service.job(answer.json()["request_id"])
    assert (job.spec["task"]["kind"], len(job.media)) == (kind, media)
    assert job.origin == {"api": "fal", "app": app}


def test_what_is_missing_or_misplaced(service: Service) -> None:
    assert refused(service, T2V, prompt="") == {"body.prompt": "is missing"}
    assert set(refused(service, I2V)) == {"body.image_url"}
    assert set(refused(service, I2V, image_url=PICTURE, video_url=CLIP)) == {"body.image_url"}
    assert set(refused(service, I2V, video_url=CLIP, loop=True)) == {"body.loop"}
    assert set(refused(service, "fal-ai/wan-flf2v", end_image_url=PICTURE)) == {"body.start_image_url"}
    assert set(refused(service, R2V)) == {"body.reference_image_urls"}
    assert set(refused(service, EDIT)) == {"body.video_url"}
    assert set(refused(service, "fal-ai/wan-vace", video_url=CLIP)) >= {"body.video_url"}
    found = refused(service, T2V, image_url=PICTURE, loop=True)
    assert found["body.image_url"] == f"is not taken by '{T2V}', which takes audio_url"
    assert set(found) == {"body.image_url", "body.loop"}
    assert refused(service, I2V, image_url="file.png")["body.image_url"].endswith("must be an http, https or data URL")
    assert set(refused(service, R2V, reference_image_urls=[PICTURE, "x"])) == {"body.reference_image_urls.1"}


def test_fields_are_named_as_they_were_given(service: Service) -> None:
    found = refused(service, "fal-ai/wan-i2v", image_url=PICTURE, guide_scale=99, num_frames=10**6, fps=999)
    assert set(found) == {"body.guide_scale", "body.num_frames", "body.fps"}
    found = refused(service, T2V, resolution="580p", seeed=1, duration="long", num_frames="many")
    assert set(found) == {"body.seeed", "body.duration", "body.num_frames"}
    assert refused(service, T2V, resolution="580p") == {
        "body.resolution": "'580p' is not one of 480p, 720p, 1080p, auto"
    }
    found = refused(service, "wan/v2.6/reference-to-video", video_urls=[data(b"x", "video/mp4")])
    assert set(found) == {"body.video_urls.0"}
    found = refused(service, T2V, guidance_scale=1, guide_scale=2)
    assert found == {"body.guide_scale": "means the same as guidance_scale, give one of them"}
    answer = post(service, "zoetrope/nano", {"task": {"kind": "text_to_video", "prompt": "x" * 6_000}, "steps": 0})
    assert {".".join(item["loc"]) for item in answer.json()["detail"]} == {"body.task.prompt", "body.steps"}


def test_what_would_change_the_video_is_refused_by_name(service: Service) -> None:
    asked: dict[str, Any] = dict.fromkeys(REFUSED, True)
    asked |= {"num_interpolated_frames": 1, "strength": 0.9}
    names = list(asked)
    found: dict[str, str] = {}
    for some in (names[:8], names[8:]):  # an error lists ten
        found |= refused(service, T2V, **{name: asked[name] for name in some})
    assert set(found) == {f"body.{name}" for name in REFUSED}
    assert found["body.num_interpolated_frames"] == "1 is not served: no frames are interpolated here; give 0"
    fine = {name: one.fine[0] for name, one in REFUSED.items() if one.fine}
    assert spec_of(service, T2V, **fine)["warnings"] == spec_of(service, T2V)["warnings"]


def test_what_changes_nothing_is_said(service: Service) -> None:
    spoken = {name for name, one in INERT.items() if one.silent is not None}
    warnings = spec_of(service, T2V, **dict.fromkeys(INERT, "other"), enable_prompt_expansion=True)["warnings"]
    said = [line.partition(" changes nothing")[0] for line in warnings if "changes nothing" in line]
    assert set(said) == spoken | {"enable_prompt_expansion"}
    headers = {PRIORITY: "low", TIMEOUT: "30", "X-Fal-Runner-Hint": "h", LIFECYCLE: json.dumps({"initial_acl": {}})}
    answer = post(service, T2V, PROMPT, **headers)
    warnings = list(service.job(answer.json()["request_id"]).warnings)
    assert sum("changes nothing" in line for line in warnings) == 4
    logs = WEB.get(answer.json()["status_url"], params={"logs": "1"}).json()["logs"]
    assert [line["message"] for line in logs if line["level"] == "WARN"] == warnings


def test_names_of_fields_are_told_apart() -> None:
    assert not set(INERT) & set(REFUSED)
    known = set(FalInput.model_fields)
    assert not known & (set(INERT) | set(REFUSED) | set(ALIASES))
    assert set(ALIASES.values()) <= known


def test_headers(service: Service) -> None:
    made = post(service, T2V, PROMPT, **{LIFECYCLE: json.dumps({"expiration_duration_seconds": 3_600})}).json()
    assert service.job(made["request_id"]).retention_seconds == 3_600
    for name, values in {
        PRIORITY: ("high", ""),
        TIMEOUT: ("soon", "-1", "nan", "inf", ""),
        LIFECYCLE: ("x", "[]", "[" * 3_000, '{"expiration_duration_seconds": "1h"}', json.dumps({"x": "a" * 5_000})),
    }.items():
        for value in values:
            answer = post(service, T2V, PROMPT, **{name: value})
            assert answer.status_code == 422, (name, value, answer.text)
            assert answer.json()["detail"][0]["loc"] == ["header", name]
    for seconds in (0, -1, 1e300, 10**400):
        answer = post(service, T2V, PROMPT, **{LIFECYCLE: json.dumps({"expiration_duration_seconds": seconds})})
        assert (answer.status_code, answer.json()["detail"][0]["loc"]) == (422, ["header", LIFECYCLE])
    for url in ("ftp://x", "http://127.0.0.1/hook"):
        answer = post(service, f"{T2V}?fal_webhook={url}", PROMPT)
        assert (answer.status_code, answer.json()["detail"][0]["loc"]) == (422, ["query", "fal_webhook"])


def test_a_request_that_is_repeated(service: Service) -> None:
    first, again = (post(service, T2V, PROMPT, **{"Idempotency-Key": "k"}) for _ in range(2))
    assert first.json()["request_id"] == again.json()["request_id"]
    other = post(service, T2V, {"prompt": "other"}, **{"Idempotency-Key": "k"})
    assert (other.status_code, other.json()["detail"][0]["loc"]) == (422, ["header", "Idempotency-Key"])


NAMES = st.sampled_from([*FalInput.model_fields, *ALIASES, *INERT, *REFUSED, "task", "size", "²", "a.b", "0", ""])
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20) | st.sampled_from(["data:,", "5s"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
APPS = st.sampled_from(
    [T2V, I2V, R2V, EDIT, "fal-ai/wan-flf2v", "fal-ai/wan-vace", "zoetrope/nano", "wan/a//b", "zoetrope/"]
)


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], derandomize=True)
@given(app=APPS, body=st.dictionaries(NAMES, VALUES, max_size=6), run=st.booleans())
def test_whatever_comes_gets_a_clear_answer(service: Service, app: str, body: dict[str, Any], run: bool) -> None:
    """Never an internal error, and each refusal names what is wrong."""
    answer = WEB.post(
        f"{service.http}/{app}", content=json.dumps(body), headers={"X-Fal-Queue-Priority": "x"} if run else {}
    )
    if answer.status_code == 200:
        service.empty_queue()
        return
    found = answer.json()
    assert answer.status_code in (404, 422), answer.text
    assert found["message"]
    if answer.status_code == 422:
        assert all(item["msg"] and item["loc"][0] in ("body", "header") for item in found["detail"])
