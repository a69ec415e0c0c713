"""Messages as orders, and jobs that an earlier version stored."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from tests.serving.gateway.harness import Service as Gateway
from tests.serving.gateway.harness import failure, text_request, violations
from zoetrope.model.catalog.presets import find_model
from zoetrope.model.request.specs import VideoSpec
from zoetrope.model.request.tasks import InvalidRequest, Violation
from zoetrope.serving.api.zoetrope.video.v1 import video_pb2
from zoetrope.serving.gateway.grpc.decode import extension_of, name_batch_fields, name_extension_fields, order_of
from zoetrope.serving.gateway.grpc.encode import formats_of, metadata, video_of
from zoetrope.serving.gateway.http.replicate.views import prediction
from zoetrope.serving.gateway.watch.outlook import Outlook
from zoetrope.serving.jobs.job import State

# As an earlier version stored it.
OLD_SPEC: dict[str, Any] = {
    "model": "nano",
    "task": {"prompt": "a red circle", "negative_prompt": "blur", "kind": "text_to_video"},
    "width": 832,
    "height": 480,
    "native_width": 40,
    "native_height": 24,
    "frames": 16,
    "fps": 8,
    "model_frames": 17,
    "latent_shape": [32, 5, 6, 10],
    "temporal": 4,
    "spans": [{"first": 0, "frames": 17, "known": 0}],
    "steps": 4,
    "guidance": 3.0,
    "guidance_low": None,
    "seed": 5,
    "container": "mp4",
    "keep_latents": False,
    "audio": None,
    "tiling": None,
}
NEW = {"fit": "contain", "flow_shift": 7.0, "guidance_low": 2.0}


def test_presence_of_the_negative_prompt() -> None:
    request = text_request()
    assert "negative_prompt" not in order_of(request).data["task"]
    request.text_to_video.negative_prompt = ""
    assert order_of(request).data["task"]["negative_prompt"] == ""


def test_times_that_are_none_are_named() -> None:
    request = text_request()
    request.deadline.seconds, request.retention.seconds = 4_000_000_000, 60
    for nanos, bad in ((0, []), (999_999_999, []), (-1, ["deadline", "retention"]), (10**9, ["deadline", "retention"])):
        request.deadline.nanos = request.retention.nanos = nanos
        assert [violation.field for violation in order_of(request).found] == [f"{field}.nanos" for field in bad]


def test_extensions_are_made_as_the_video_was() -> None:
    request = video_pb2.ExtendVideoRequest(name="operations/a")
    old = extension_of(request, "a", OLD_SPEC).data
    assert old["task"] == {
        "kind": "image_to_video",
        "prompt": "a red circle",
        "negative_prompt": "blur",
        "clip": "operations/a",
    }
    assert not {"fit", "flow_shift", "guidance_low"} & set(old)
    new = extension_of(request, "a", {**OLD_SPEC, **NEW}).data
    assert {name: new[name] for name in NEW} == NEW
    request.negative_prompt = ""
    request.guidance = 4.0
    changed = extension_of(request, "a", {**OLD_SPEC, **NEW}).data
    assert (changed["task"]["negative_prompt"], changed["guidance"]) == ("", 4.0)
    assert "guidance_low" not in changed, "the other expert follows what was asked for"


def test_fields_of_batches_and_extensions_have_the_protos_names() -> None:
    ours = ("requests.0.prompt", "requests.1.container", "requests", "requests.1.image")
    error = InvalidRequest(*(Violation(field, "x") for field in ours))
    named = name_batch_fields(error, ["text_to_video", "image_to_video"])
    fields = [violation.field for violation in named.violations]
    theirs = ["requests.0.text_to_video.prompt", "requests.1.format", "requests", "requests.1.image_to_video.image"]
    assert fields == theirs
    error = InvalidRequest(*(Violation(field, "x") for field in ("steps", "clip", "negative_prompt", "task")))
    fields = [violation.field for violation in name_extension_fields(error).violations]
    assert fields == ["steps", "name", "negative_prompt", "name"]


def test_a_batch_is_refused_by_the_protos_names(service: Gateway) -> None:
    requests = [text_request(""), text_request(format=video_pb2.VIDEO_FORMAT_PNG, frames=9)]
    batch = video_pb2.BatchCreateVideosRequest(requests=requests)
    code, status = failure(lambda: service.videos.BatchCreateVideos(batch))
    assert code == "INVALID_ARGUMENT"
    assert set(violations(status)) == {"requests.0.text_to_video.prompt", "requests.1.format"}


def test_jobs_of_an_earlier_version_are_shown(service: Gateway) -> None:
    """The row of a job that was stored without the newer fields."""
    name = service.client.create(prompt="a red circle")
    job = replace(
        service.job(name),
        spec=OLD_SPEC,
        state=State.SUCCEEDED,
        result={
            "video": {"key": "k", "size_bytes": 1, "sha256": "0", "mime_type": "video/mp4"},
            "latents": None,
            **{field: OLD_SPEC[field] for field in ("frames", "width", "height", "fps")},
        },
    )
    assert VideoSpec.from_dict(job.spec).fit == "cover"
    video = video_of(job)
    assert video is not None and not video.HasField("flow_shift")
    assert metadata(job, Outlook(0, None)).task == "text_to_video"
    shown = prediction(job, "http://x")
    assert shown["input"]["negative_prompt"] == "blur"
    assert not {"fit", "flow_shift"} & set(shown["input"])
    assert "guidance 3, seed 5" in shown["logs"]


@pytest.mark.parametrize(("tasks", "pictures"), [(("text_to_video",), True), (("first_last_frame",), False)])
def test_formats_of_a_model(tasks: tuple[str, ...], pictures: bool) -> None:
    assert ("png" in formats_of(replace(find_model("nano"), tasks=tasks))) == pictures
