"""What the client refuses by itself, and what it can be given."""

from __future__ import annotations

from typing import Any

import pytest

from serving.api.zoetrope.video.v1 import video_pb2
from serving.client import ClientError
from serving.client_types import create_request
from tests.serving.gateway.harness import Service, text_request


def test_fields_flat_or_as_a_task() -> None:
    wanted = text_request("a", frames=9, format=video_pb2.VIDEO_FORMAT_MKV, request_id="r", keep_latents=True)
    wanted.text_to_video.negative_prompt = "b"
    rest: dict[str, Any] = {
        "frames": 9,
        "container": "mkv",
        "request_id": "r",
        "keep_latents": True,
        "duration_seconds": None,
        "seed": None,
    }
    assert create_request({"prompt": "a", "negative_prompt": "b", **rest}) == wanted
    task = {"kind": "text_to_video", "prompt": "a", "negative_prompt": "b"}
    assert create_request({"task": task, **rest}) == wanted
    # An empty prompt is a task all the same, which the service refuses by name.
    assert create_request({"prompt": ""}).HasField("text_to_video")
    assert not create_request({}).HasField("text_to_video")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"frames": 2**31}, "frames: '2147483648' is not a possible value"),
        ({"seed": 2**63}, "seed: '9223372036854775808' is not a possible value"),
        ({"steps": 1.5}, "steps: '1.5' is not a possible value"),
        ({"prompt": "\udcff"}, "prompt: holds bytes that are not UTF-8"),
        ({"colour": "red"}, "colour: is not a known field"),
        ({"format": "gif"}, "format: is not a known field"),
        ({"container": "gif"}, "format: 'gif' is not one of mp4, mkv"),
        ({"task": {"kind": "dance", "prompt": "a"}}, "task: 'dance' is not known, give text_to_video"),
        ({"frames": "x", "fps": "y"}, "frames: 'x' is not a possible value; fps: 'y' is not a possible value"),
    ],
)
def test_values_that_no_message_can_hold(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ClientError) as caught:
        create_request({"prompt": "a", **fields})
    assert (caught.value.code, str(caught.value)) == ("INVALID_ARGUMENT", message)
    assert caught.value.violations


def test_errors_of_the_service_are_one_line_with_violations(service: Service) -> None:
    with pytest.raises(ClientError) as caught:
        service.client.create({"task": {"prompt": "a"}, "steps": 0}, seed=-1)
    error = caught.value
    assert error.code == "INVALID_ARGUMENT"
    assert {violation.field for violation in error.violations} == {"steps", "seed"}
    assert str(error) == error.message == "steps: 0 is not within 1 to 1000; seed: -1 is not within 0 to 2147483647"
    with pytest.raises(ClientError, match=r"^size: '４８０' is not one of [^\n]*$"):
        service.client.create(prompt="a", size="４８０")
