"""What the clients and benchmarks of vLLM-Omni, SGLang-Diffusion and LiteLLM send beside OpenAI's own fields."""

from __future__ import annotations

import base64
import json
import time
from typing import Any

import httpx
import pytest

from tests.serving.gateway.harness import Service, engine, until
from tests.serving.gateway.http.samples import clip, picture
from tests.serving.jobs.harness import claim_oldest
from tests.serving.peer_clients import OmniRequest, aiperf_create, omni_request
from zoetrope.serving.jobs.job import Artifact, Result, State

PROMPT = "Random prompt 0 for benchmarking diffusion models"
ADDRESS = "data:image/png;base64," + base64.b64encode(picture()).decode()


def taken(answer: httpx.Response) -> dict[str, Any]:
    assert answer.status_code == 200, answer.text
    video: dict[str, Any] = answer.json()
    return video


def spec(service: Service, video: dict[str, Any]) -> dict[str, Any]:
    return service.job(video["id"]).spec


def test_health_is_readiness(service: Service, web: httpx.Client) -> None:
    assert web.get("/health").status_code == 503
    service.store.put_engine(engine(time.time(), "nano"))
    until(lambda: web.get("/health").status_code == 200)
    assert web.get("/health").json() == web.get("/readyz").json()


def test_model_info_names_no_path(web: httpx.Client) -> None:
    info = web.get("/v1/model_info").json()
    assert (info["model_path"], info["task_type"]) == ("nano", "TI2V"), "what it names can be given as a model"
    assert info["supported_task_types"] == ["T2V", "I2V", "V2V"]


def test_what_sglangs_benchmark_sends(service: Service, web: httpx.Client) -> None:
    body = {"model": "nano", "prompt": PROMPT, "num_outputs_per_prompt": 1, "size": "64x48", "num_frames": 9}
    video = taken(web.post("/v1/videos", json={**body, "num_inference_steps": 1, "fps": 8, "seed": 3}))
    assert (video["size"], spec(service, video)["frames"], video["warnings"]) == ("64x48", 9, [])
    form = {
        **{key: str(value) for key, value in body.items()},
        "fps": "8",
        "extra_body": '{"seed": 5, "fps": 4, "num_frames": 9}',
    }
    upload = {"input_reference": ("dummy_image.jpg", picture(100, 100), "application/octet-stream")}
    video = taken(web.post("/v1/videos", data=form, files=upload))
    made = spec(service, video)
    assert (made["task"]["kind"], made["seed"], made["fps"]) == ("image_to_video", 5, 8)
    assert video["warnings"] == ["extra_body.fps: not used, for fps stands beside it"]


WARM_UP = OmniRequest(PROMPT, 854, 480, num_frames=1, num_inference_steps=1, seed=42, fps=16)


def test_what_vllm_omnis_benchmark_sends(service: Service, web: httpx.Client) -> None:
    fields = WARM_UP.fields()
    parts = {name: (None, text) for name, text in fields.items()}
    for sent in (web.post("/v1/videos", data=fields), web.post("/v1/videos", files=parts)):
        made = spec(service, taken(sent))
        assert (made["width"], made["height"], made["frames"], made["seed"]) == (854, 480, 1, 42)


def test_vllm_omnis_benchmark_from_create_to_delete(service: Service, web: httpx.Client) -> None:
    """Its client, and an engine that ends the job between two polls."""
    pictured = OmniRequest(PROMPT, num_frames=9, picture=("dummy_image.jpg", picture(100, 100), "image/jpeg"))
    for request, kind in ((WARM_UP, "text_to_video"), (pictured, "image_to_video")):
        seen: list[str] = []

        def end(seen: list[str] = seen) -> None:
            (job,) = claim_oldest(service.store, "test", 10, 60.0, 5, ("nano",))
            seen.append(job.spec["task"]["kind"])
            stored: Artifact = service.artifacts.put_bytes(f"jobs/{job.id}/1/video.mp4", b"a file", "video/mp4")
            timings = {"denoising": 2.25}
            result = Result(stored, None, 9, 64, 48, 8, timings)
            assert service.store.finish(job.id, job.lease_epoch, State.SUCCEEDED, result=result)

        outcome = omni_request(web, request, end)
        assert (outcome.error, seen, outcome.content) == ("", [kind], b"a file")
        assert outcome.created["status"] == "queued" and outcome.polled["stage_durations"] == {"denoising": 2.25}
        assert web.get(f"/v1/videos/{outcome.created['id']}").status_code == 404, "it deletes what it has measured"


def test_vllm_omnis_benchmark_is_told_what_fails(service: Service, web: httpx.Client) -> None:
    outcome = omni_request(web, OmniRequest(PROMPT, extra_body={"enable_teacache": True}))
    assert outcome.error.startswith("HTTP 400") and "enable_teacache" in outcome.error

    def fail() -> None:
        (job,) = claim_oldest(service.store, "test", 10, 60.0, 5, ("nano",))
        service.store.finish(
            job.id, job.lease_epoch, State.FAILED, error_code="RESOURCE_EXHAUSTED", error_message="out of memory"
        )

    outcome = omni_request(web, OmniRequest(PROMPT, num_frames=9), fail)
    assert outcome.error.startswith("Video job failed") and "out of memory" in outcome.error


@pytest.mark.parametrize("seconds", [1, 1.0, "1", "1.0"])
def test_what_aiperf_sends(service: Service, web: httpx.Client, seconds: Any) -> None:
    """By its documents ``--extra-inputs seconds:1``, which it sends in a form; JSON may have a number or a text."""
    made = taken(web.post("/v1/videos", json={"prompt": PROMPT, "model": "nano", "size": "64x48", "seconds": seconds}))
    assert (made["seconds"], made["size"]) == ("1", "64x48")
    sent = aiperf_create(web, "nano", PROMPT, size="64x48", seconds=seconds, num_inference_steps=2)
    assert spec(service, taken(sent)) == {**spec(service, made), "steps": 2, "seed": spec(service, taken(sent))["seed"]}


def test_models_are_listed_as_clients_read_them(web: httpx.Client) -> None:
    """vLLM-Omni's and AIPerf's clients take the first; OpenAI's SDK reads every field."""
    listed = web.get("/v1/models").json()
    assert listed["object"] == "list"
    assert listed["data"][0] == {"id": "nano", "object": "model", "created": 0, "owned_by": "zoetrope"}


def test_what_a_completed_video_tells(service: Service, web: httpx.Client) -> None:
    video = taken(web.post("/v1/videos", json={"prompt": PROMPT, "num_frames": 9}))
    assert (video["inference_time_s"], video["stage_durations"], video["num_outputs"]) == (None, {}, None)
    (job,) = claim_oldest(service.store, "test", 10, 60.0, 5, ("nano",))
    stored: Artifact = service.artifacts.put_bytes(f"jobs/{job.id}/1/video.mp4", b"1", "video/mp4")
    timings = {"conditioning": 0.5, "denoising": 2.25, "decoding": 0.75, "encoding": 0.25}
    assert service.store.finish(
        job.id, job.lease_epoch, State.SUCCEEDED, result=Result(stored, None, 9, 64, 48, 8, timings)
    )
    done = web.get(f"/v1/videos/{video['id']}").json()
    kept = service.job(video["id"])
    assert kept.started_at is not None and kept.finished_at is not None
    assert done["stage_durations"] == timings
    assert done["inference_time_s"] == pytest.approx(kept.finished_at - kept.started_at, abs=0.001)
    assert done["num_outputs"] == 1, "SGLang's benchmark counts them"
    assert "peak_memory_mb" not in done, "nobody measures it"


WITHOUT_EFFECT = {
    "true_cfg_scale": 4.0,
    "generator_device": "cuda",
    "user": "ann",
    "metadata": {"a": "b"},
    "response_format": "b64_json",
    "frame_interpolation_exp": 1,
    "quality": "lossless",
}
USUAL: dict[str, Any] = {
    "enable_teacache": False,
    "enable_frame_interpolation": False,
    "enable_upscaling": "False",
    "output_quality": "default",
    "return_stage_metrics": True,
    "lora": None,
    "diffusers_kwargs": {},
    "boundary_ratio": None,
    "generate_sound": False,
    "n": 1,
}


def test_fields_without_effect_are_taken_and_told(service: Service, web: httpx.Client) -> None:
    video = taken(web.post("/v1/videos", json={"prompt": PROMPT, **WITHOUT_EFFECT, **USUAL}))
    told = {warning.partition(":")[0] for warning in video["warnings"]}
    assert told == set(WITHOUT_EFFECT)
    assert list(service.job(video["id"]).warnings) == video["warnings"], "every API shows them"
    form = {name: value if isinstance(value, str) else json.dumps(value) for name, value in WITHOUT_EFFECT.items()}
    assert taken(web.post("/v1/videos", data={"prompt": PROMPT, **form}))["warnings"] == video["warnings"]
    edited = web.post("/v1/videos/edits", data={"prompt": "x", "user": "ann"}, files={"video": ("a.mp4", clip(2.0))})
    assert [warning.partition(":")[0] for warning in taken(edited)["warnings"]] == ["user"]


def test_an_inert_field_makes_no_other_request(web: httpx.Client) -> None:
    headers = {"Idempotency-Key": "same"}
    first = taken(web.post("/v1/videos", json={"prompt": PROMPT}, headers=headers))
    again = taken(web.post("/v1/videos", json={"prompt": PROMPT, "user": "ann"}, headers=headers))
    assert again["id"] == first["id"]


@pytest.mark.parametrize(
    ("fields", "param", "says"),
    [
        ({"lora": {"name": "a", "path": "/a"}}, "lora", "named in loras"),
        ({"enable_teacache": True}, "enable_teacache", "steps are reused by quality=balanced"),
        ({"enable_frame_interpolation": True}, "enable_frame_interpolation", "more fps"),
        ({"enable_upscaling": "true"}, "enable_upscaling", "'true' given"),
        ({"characters": [{"id": "char_1"}]}, "characters", "input_reference"),
        ({"output_path": "/tmp/x"}, "output_path", "stored by the service"),
        ({"output_quality": "maximum"}, "output_quality", "'maximum' given"),
        ({"n": 2}, "n", "2 given, but a job makes one video"),
        ({"num_outputs_per_prompt": 4}, "num_outputs_per_prompt", "one request for each"),
        ({"boundary_ratio": 0.9}, "boundary_ratio", "nano has no two noise experts"),
        ({"max_sequence_length": 4096}, "max_sequence_length", "4096 given, but nano reads"),
        ({"generate_sound": True}, "generate_audio", "makes no sound"),
        ({"enhance_prompt": True}, "enhance_prompt", "expands no prompts"),
        ({"aspect_ratio": "7:1"}, "aspect_ratio", "'7:1' is not one of"),
        ({"duration": 1, "seconds": 1}, "duration", "the same"),
        ({"extra_body": {"fancy": 1}}, "extra_body.fancy", "is not a known field"),
        ({"extra_params": {"enable_teacache": True}}, "enable_teacache", "steps are reused by quality=balanced"),
        ({"extra_body": [1]}, "extra_body", "must be a JSON object"),
        ({"extra_body": "{"}, "extra_body", "well-formed"),
        ({"extra_body": '{}, "text": {"seed": 1}'}, "extra_body", "well-formed"),
        ({"extra_params": '{"a": ' + "[" * 50 + "]" * 50 + "}"}, "extra_params", "nested more than"),
        ({"image_reference": {"file_id": "med_none"}}, "image_reference.0", "is not a known file"),
        ({"image_reference": {}}, "image_reference.0", "give either image_url or file_id"),
        ({"video_reference": {"video_url": "file:///a"}}, "video_reference.0.video_url", "http, https or data"),
    ],
)
def test_what_is_not_built_is_refused_by_name(web: httpx.Client, fields: dict[str, Any], param: str, says: str) -> None:
    answer = web.post("/v1/videos", json={"prompt": PROMPT, **fields})
    assert answer.status_code in (400, 404), answer.text
    error = answer.json()["error"]
    assert error["param"] == param and says in error["message"]
    form = {name: value if isinstance(value, str) else json.dumps(value) for name, value in fields.items()}
    assert web.post("/v1/videos", data={"prompt": PROMPT, **form}).json()["error"]["param"] == param


def test_a_form_holds_no_more_json_than_a_body_may(web: httpx.Client) -> None:
    text = '{"seed": [' + "1," * 30_000 + "1]}"
    answer = web.post("/v1/videos", data={"prompt": PROMPT, "extra_params": text})
    error = answer.json()["error"]
    assert (answer.status_code, error["param"]) == (400, "extra_params")
    assert "more than 20000 commas" in error["message"]


def test_nested_fields_count_as_if_given_beside_them(service: Service, web: httpx.Client) -> None:
    nested = {"extra_params": {"flow_shift": 4.0, "video_params": {"num_frames": 9, "fps": 4}}, "seed": 7}
    for sent in (
        web.post("/v1/videos", json={"prompt": PROMPT, "extra_body": nested}),
        web.post("/v1/videos", json={"prompt": PROMPT, "extra_body": json.dumps(nested)}),
        web.post("/v1/videos", data={"prompt": PROMPT, "extra_body": json.dumps(nested)}),
    ):
        made = spec(service, taken(sent))
        assert (made["flow_shift"], made["frames"], made["fps"], made["seed"]) == (4.0, 9, 4, 7)


def test_a_ratio_and_a_duration(service: Service, web: httpx.Client) -> None:
    made = spec(service, taken(web.post("/v1/videos", json={"prompt": PROMPT, "aspect_ratio": "1:1", "duration": 1})))
    assert made["width"] == made["height"] and made["frames"] == made["fps"]


def test_the_ways_to_give_a_picture(service: Service, web: httpx.Client) -> None:
    known = web.post("/v1/files", files={"file": ("a.png", picture())}, data={"purpose": "vision"}).json()["id"]
    for given in (
        {"image_reference": {"image_url": ADDRESS}},
        {"image_reference": [{"type": "image_url", "image_url": {"url": ADDRESS}}]},
        {"input_references": [{"file_id": known}]},
        {"input_reference": known},
    ):
        for sent in (
            web.post("/v1/videos", json={"prompt": PROMPT, **given}),
            web.post(
                "/v1/videos",
                data={"prompt": PROMPT, **{k: v if isinstance(v, str) else json.dumps(v) for k, v in given.items()}},
            ),
        ):
            assert spec(service, taken(sent))["task"]["kind"] == "image_to_video"


def test_a_clip_by_its_id_is_a_reference(service: Service, web: httpx.Client) -> None:
    known = web.post("/v1/files", files={"file": ("a.mp4", clip())}).json()["id"]
    address = "data:video/mp4;base64," + base64.b64encode(clip(seed=1)).decode()
    for given in (
        {"input_reference": known},
        {"video_reference": {"file_id": known}},
        {"video_reference": {"video_url": address}},
        {"video_url": address},
    ):
        task = spec(service, taken(web.post("/v1/videos", json={"prompt": PROMPT, **given})))["task"]
        assert (task["kind"], len(task["references"])) == ("reference_to_video", 1)
