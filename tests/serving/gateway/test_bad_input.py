"""Every bad input names its field, its value and its limit, and stores nothing."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
from google.longrunning import operations_pb2
from google.rpc import error_details_pb2

from tests.serving.gateway.harness import Service, detail, failure, reason, running_service, text_request, violations
from zoetrope.serving.api.zoetrope.video.v1 import video_pb2
from zoetrope.serving.client import ClientError

PROMPT = "text_to_video.prompt"
BAD: list[tuple[str, dict[str, Any], str, str]] = [
    ("duration 0", {"duration_seconds": 0}, "duration_seconds", "0.0 must be above 0 and at most 5.062"),
    ("duration 16", {"duration_seconds": 16}, "duration_seconds", "16.0 must be above 0 and at most 5.062"),
    ("duration -1", {"duration_seconds": -1}, "duration_seconds", "must be above 0"),
    ("duration NaN", {"duration_seconds": math.nan}, "duration_seconds", "nan must be above 0"),
    ("duration infinite", {"duration_seconds": math.inf}, "duration_seconds", "inf must be above 0"),
    ("frames 0", {"frames": 0}, "frames", "0 must be from 1 to 81"),
    ("frames too many", {"frames": 82}, "frames", "82 must be from 1 to 81"),
    ("frames and duration", {"frames": 8, "duration_seconds": 1}, "frames", "cannot be combined with duration_seconds"),
    ("prompt empty", {"prompt": ""}, PROMPT, "is empty"),
    ("prompt blank", {"prompt": " \n "}, PROMPT, "is empty"),
    ("prompt long", {"prompt": "x" * 5_001}, PROMPT, "has 5001 characters, at most 5000"),
    ("prompt control", {"prompt": "a\x07b"}, PROMPT, "control character U+0007"),
    ("prompt nul", {"prompt": "a\0b"}, PROMPT, "control character U+0000"),
    ("size unknown", {"size": "481p"}, "size", "'481p' is not one of 480p, 720p, 1080p or WIDTHxHEIGHT"),
    ("size odd digits", {"size": "４８０p"}, "size", "is not one of 480p"),
    ("size odd side", {"size": "101x64"}, "size", "101x64 has an odd side, sides must be even"),
    ("size too large", {"size": "4096x64"}, "size", "must have sides from 24 to 1920"),
    ("ratio unknown", {"ratio": "2:1"}, "ratio", "'2:1' is not one of 16:9"),
    ("ratio of one's own", {"ratio": "854:480"}, "ratio", "'854:480' is not one of 16:9"),
    ("seed -2", {"seed": -2}, "seed", "-2 must be from 0 to 9223372036854775807, or -1 for a random seed"),
    ("seed -2^63", {"seed": -(2**63)}, "seed", "-9223372036854775808 must be from 0"),
    ("flow shift 0", {"flow_shift": 0}, "flow_shift", "0.0 must be from 0.01 to 100"),
    ("flow shift 101", {"flow_shift": 101}, "flow_shift", "101.0 must be from 0.01 to 100"),
    ("flow shift NaN", {"flow_shift": math.nan}, "flow_shift", "nan must be from 0.01"),
    ("fit unknown", {"fit": 9}, "fit", "9 is not a known way, give COVER or CONTAIN"),
    ("picture of frames", {"format": 3, "frames": 2}, "format", "png holds one frame, but 2 are asked for"),
    ("picture of seconds", {"format": 5, "duration_seconds": 2}, "format", "jpg holds one frame, but 32 are asked for"),
    ("steps 0", {"steps": 0}, "steps", "0 must be from 1 to 1000"),
    ("steps 1001", {"steps": 1_001}, "steps", "1001 must be from 1 to 1000"),
    ("guidance NaN", {"guidance": math.nan}, "guidance", "nan must be from 0 to 30"),
    ("fps 0", {"fps": 0}, "fps", "0 must be from 1 to 60"),
    ("format unknown", {"format": 99}, "format", "99 must be one of MP4, MKV, PNG, WEBP, JPG"),
    ("request id long", {"request_id": "r" * 129}, "request_id", "has 129 characters, at most 128"),
]


@pytest.mark.parametrize(("fields", "field", "description"), [case[1:] for case in BAD], ids=[case[0] for case in BAD])
def test_bad_field(service: Service, fields: dict[str, Any], field: str, description: str) -> None:
    request = text_request(**fields)
    code, status = failure(lambda: service.videos.CreateVideo(request))
    assert code == "INVALID_ARGUMENT"
    assert reason(status) == "INVALID_REQUEST"
    assert list(violations(status)) == [field]
    assert description in violations(status)[field]
    assert status.message == f"{field}: {violations(status)[field]}"
    assert service.store.list("", page_size=1) == []


def test_negative_prompt_long(service: Service) -> None:
    request = text_request()
    request.text_to_video.negative_prompt = "x" * 501
    code, status = failure(lambda: service.videos.CreateVideo(request))
    assert (code, list(violations(status))) == ("INVALID_ARGUMENT", ["text_to_video.negative_prompt"])


def test_all_violations_at_once(service: Service) -> None:
    fields: dict[str, Any] = {"size": "big", "seed": -2, "steps": 0, "frames": 0, "format": 7, "guidance": -1}
    request = video_pb2.CreateVideoRequest(request_id="r" * 129, **fields)
    code, status = failure(lambda: service.videos.CreateVideo(request))
    assert code == "INVALID_ARGUMENT"
    assert set(violations(status)) == {"request_id", "task", "size", "seed", "steps", "frames", "format", "guidance"}
    assert violations(status)["task"] == "is not set; tiny serves text_to_video"


def test_unknown_model(service: Service) -> None:
    code, status = failure(lambda: service.videos.CreateVideo(text_request(model="wan9\n")))
    assert (code, reason(status)) == ("NOT_FOUND", "UNKNOWN_MODEL")
    assert violations(status) == {"model": "'wan9\\n' is not served here; served: tiny"}


@pytest.mark.parametrize("name", ["operations/vid_none", "vid_none", "", "operations/", "jobs/x", "x" * 10_000, "é\n"])
def test_unknown_operation(service: Service, name: str) -> None:
    calls = [
        lambda: service.operations.GetOperation(operations_pb2.GetOperationRequest(name=name)),
        lambda: service.operations.WaitOperation(operations_pb2.WaitOperationRequest(name=name)),
        lambda: service.operations.CancelOperation(operations_pb2.CancelOperationRequest(name=name)),
        lambda: service.operations.DeleteOperation(operations_pb2.DeleteOperationRequest(name=name)),
        lambda: list(service.videos.WatchVideo(video_pb2.WatchVideoRequest(name=name))),
        lambda: list(service.videos.DownloadVideo(video_pb2.DownloadVideoRequest(name=name))),
    ]
    for call in calls:
        code, status = failure(call)
        assert (code, reason(status), list(violations(status))) == ("NOT_FOUND", "UNKNOWN_OPERATION", ["name"])


def test_download_before_the_end(service: Service) -> None:
    name = service.client.create(prompt="a red circle")
    request = video_pb2.DownloadVideoRequest(name=name)
    code, status = failure(lambda: list(service.videos.DownloadVideo(request)))
    assert (code, reason(status)) == ("FAILED_PRECONDITION", "NOT_SUCCEEDED")
    assert "QUEUED" in status.message
    service.claim(name)
    _, status = failure(lambda: list(service.videos.DownloadVideo(request)))
    assert "CONDITIONING" in status.message
    service.empty_queue()
    code, status = failure(lambda: list(service.videos.DownloadVideo(request)))
    assert code == "FAILED_PRECONDITION"
    assert status.message.endswith("its state is CANCELLED")


def test_bad_download(service: Service, tmp_path: Path) -> None:
    name = service.make(b"0123456789", tmp_path)

    def download(**fields: Any) -> Any:
        request = video_pb2.DownloadVideoRequest(name=name, **fields)
        return failure(lambda: list(service.videos.DownloadVideo(request)))

    code, status = download(offset=-1)
    assert (code, violations(status)) == ("INVALID_ARGUMENT", {"offset": "-1 is negative"})
    code, status = download(offset=11)
    assert (code, reason(status)) == ("OUT_OF_RANGE", "OFFSET_BEYOND_END")
    code, status = download(artifact=9)
    assert (code, list(violations(status))) == ("INVALID_ARGUMENT", ["artifact"])
    code, status = download(artifact=video_pb2.VIDEO_ARTIFACT_LATENTS)
    assert (code, reason(status)) == ("FAILED_PRECONDITION", "LATENTS_NOT_KEPT")
    service.artifacts.delete([service.job(name).result["video"]["key"]])  # type: ignore[index]
    code, status = download()
    assert (code, reason(status)) == ("NOT_FOUND", "FILE_GONE")


def test_message_too_large(service: Service) -> None:
    with pytest.raises(ClientError) as caught:
        service.client.create(prompt="x" * (9 << 20))
    assert caught.value.code == "RESOURCE_EXHAUSTED"


def test_bad_list(service: Service) -> None:
    def refused(**fields: Any) -> dict[str, str]:
        request = operations_pb2.ListOperationsRequest(**fields)
        code, status = failure(lambda: service.operations.ListOperations(request))
        assert code == "INVALID_ARGUMENT"
        return violations(status)

    assert refused(page_size=-1) == {"page_size": "-1 is negative"}
    for wrong in ("colour=red", "state=purple", "done", "state=queued OR state=failed", "state>queued", "a" * 3_000):
        assert "filter" in refused(filter=wrong)
    assert "known are done=, state=" in refused(filter="colour=red")["filter"]
    assert "is no time such as 2026" in refused(filter="create_time>=yesterday")["filter"]
    assert list(refused(name="projects/x")) == ["name"]
    for token in ("x", "é", "e30=", "bnVsbA==", "WzEsIDIsIDNd", "W05hTiwgImEiLCAiIl0="):
        assert list(refused(page_token=token)) == ["page_token"]


@pytest.mark.integration
def test_queue_full(tmp_path: Path) -> None:
    with running_service(tmp_path, max_queued=2) as service:
        first = service.client.create(prompt="one", request_id="first")
        service.client.create(prompt="two")
        code, status = failure(lambda: service.videos.CreateVideo(text_request()))
        assert (code, reason(status)) == ("RESOURCE_EXHAUSTED", "QUEUE_FULL")
        retry: Any = detail(status, error_details_pb2.RetryInfo)
        assert retry.retry_delay.seconds > 0
        assert service.client.create(prompt="one", request_id="first") == first  # a replay is no new job
