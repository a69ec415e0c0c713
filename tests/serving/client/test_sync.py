"""What the client refuses by itself, what it can be given, and what it tries again."""

from __future__ import annotations

import inspect
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.longrunning import operations_pb2

from tests.serving.gateway.harness import Service, text_request
from zoetrope.model.request.kinds import TASK_KINDS
from zoetrope.model.request.tasks import FirstLastFrame, TextToVideo, VideoRequest
from zoetrope.serving.api.zoetrope.video.v1 import account_pb2, engines_pb2, media_pb2, video_pb2
from zoetrope.serving.client import AsyncVideoClient, ClientError, MediaFile, VideoClient, Webhook, rpc
from zoetrope.serving.client.requests import INLINE_BYTES, draft, extension
from zoetrope.serving.client.retries import Backoff
from zoetrope.serving.client.rpc import Method


def message(fields: Any, **more: Any) -> video_pb2.CreateVideoRequest:
    return draft(fields, more).message


def test_fields_flat_or_as_a_task_or_typed() -> None:
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
    assert message({"prompt": "a", "negative_prompt": "b", **rest}) == wanted
    task = {"kind": "text_to_video", "prompt": "a", "negative_prompt": "b"}
    assert message({"task": task, **rest}) == wanted
    typed = TextToVideo(prompt="a", negative_prompt="b")
    assert message(typed, **rest) == message(None, task=typed, **rest) == wanted
    wanted.fit, wanted.quality = video_pb2.FIT_COVER, video_pb2.QUALITY_EXACT  # which a typed request always names
    wanted.guidance_start, wanted.guidance_end = 0.0, 1.0
    request = VideoRequest(task=typed, frames=9, container="mkv", keep_latents=True)
    assert message(request, request_id="r") == wanted
    # An empty prompt is a task all the same, which the service refuses by name.
    assert message({"prompt": ""}).HasField("text_to_video")
    assert not message({}).HasField("text_to_video")


def test_an_empty_negative_prompt_is_sent_and_a_missing_one_is_not() -> None:
    assert message({"prompt": "a", "negative_prompt": ""}).text_to_video.HasField("negative_prompt")
    assert extension("n", "p", {"negative_prompt": ""}).HasField("negative_prompt")
    for typed in (TextToVideo(prompt="a"), VideoRequest(task=TextToVideo(prompt="a")), {"prompt": "a"}):
        assert not message(typed).text_to_video.HasField("negative_prompt")
    assert not extension("n", "p", {"negative_prompt": None}).HasField("negative_prompt")


def test_a_request_id_is_made_up() -> None:
    made = {message({"prompt": "a"}).request_id for _ in range(3)} | {extension("n", "p", {}).request_id}
    assert len(made) == 4
    assert all(made)


def test_options() -> None:
    moment = datetime(2030, 1, 2, tzinfo=UTC)
    one = message(
        {"prompt": "a"}, labels={"a": "b"}, priority=3, deadline=moment, retention=90.5, webhook="http://x.example/"
    )
    two = message(
        {"prompt": "a"},
        labels={"a": "b"},
        priority=3,
        deadline=moment.timestamp(),
        retention=timedelta(seconds=90.5),
        webhook=Webhook("http://x.example/", ("output",)),
    )
    assert (dict(one.labels), one.priority, one.deadline.ToDatetime(UTC)) == ({"a": "b"}, 3, moment)
    assert (one.retention.ToTimedelta(), one.webhook.url) == (timedelta(seconds=90.5), "http://x.example/")
    assert list(two.webhook.events) == ["output"]
    two.request_id = one.request_id
    del two.webhook.events[:]
    assert one == two


def test_media_by_what_they_are() -> None:
    stored = MediaFile("media/b", True, 1, 1, "", "", "image/png", "image", 1, 1, 0, 0.0, False, 0.0, 0.0)
    sources = ["media/a", stored, "operations/vid_1", "https://x.example/a", "data:,x", b"few", Path("p"), "q.png"]
    made = draft({"task": {"kind": "reference_to_video", "prompt": "p", "references": [*sources, b"x" * 600_000]}}, {})
    media = made.message.reference_to_video.references
    assert [m.WhichOneof("source") for m in media[:6]] == ["name", "name", "video", "uri", "uri", "data"]
    assert [(u.field, u.source) for u in made.uploads[:2]] == [
        ("references.6", Path("p")),
        ("references.7", Path("q.png")),
    ]
    assert [len(bytes(u.source)) for u in made.uploads[2:]] == [600_000]
    made.uploads[0].media.name = "media/later"
    assert media[6].name == "media/later"
    typed = draft(FirstLastFrame(first_frame="a.png", last_frame="media/z"), {})
    assert typed.message.first_last_frame.last_frame.name == "media/z"
    assert [u.field for u in typed.uploads] == ["first_frame"]
    assert INLINE_BYTES * 9 < 8 << 20


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"frames": 2**31}, "frames: '2147483648' is not a valid value"),
        ({"seed": 2**63}, "seed: '9223372036854775808' is not a valid value"),
        ({"steps": 1.5}, "steps: '1.5' is not a valid value"),
        ({"prompt": "\udcff"}, "prompt: holds bytes that are not UTF-8"),
        ({"colour": "red"}, "colour: is not a known field"),
        ({"format": "gif"}, "format: is not a known field"),
        ({"container": "gif"}, "format: 'gif' is not one of mp4, mkv, png, webp, jpg"),
        ({"container": ["png"]}, "format: ['png'] is not one of mp4"),
        ({"fit": "stretch"}, "fit: 'stretch' is not one of cover, contain"),
        ({"flow_shift": "much"}, "flow_shift: 'much' is not a valid value"),
        ({"negative_prompt": 5}, "negative_prompt: '5' is not a valid value"),
        (
            {"task": {"kind": "dance", "prompt": "a"}},
            f"task: 'dance' is not one of {', '.join(TASK_KINDS)}",
        ),
        ({"task": {"prompt": "a", "image": "x.png"}}, "image: is not a known field of text_to_video"),
        ({"task": 7}, "task: 7 must be a task or its fields"),
        ({"task": {"kind": "edit_video", "video": 7}}, "video: 7 must be a file, bytes, a name or a URL"),
        ({"task": {"kind": "edit_video", "references": "x"}}, "references: 'x' must be a list"),
        ({"task": {"kind": "grid_to_video", "panels": [b""]}}, "panels.0: b'' must be a file"),
        ({"labels": {"a": 1}}, "labels: \"{'a': 1}\" is not a valid value"),
        ({"labels": "a"}, "labels: 'a' is not a valid value"),
        ({"deadline": "noon"}, "deadline: 'noon' is not a valid value"),
        ({"deadline": 1e300}, "deadline: '1e+300' is not a valid value"),
        ({"retention": float("nan")}, "retention: 'nan' is not a valid value"),
        ({"webhook": 5}, "webhook: 5 must be a URL or a Webhook"),
        ({"frames": "x", "fps": "y"}, "frames: 'x' is not a valid value; fps: 'y' is not a valid value"),
    ],
)
def test_values_that_no_message_can_hold(fields: dict[str, Any], text: str) -> None:
    with pytest.raises(ClientError) as caught:
        message({"prompt": "a", **fields})
    assert caught.value.code == "INVALID_ARGUMENT"
    assert str(caught.value).replace('"', "'").startswith(text.replace('"', "'"))
    assert caught.value.violations


def test_errors_of_the_service_are_one_line_with_violations(service: Service) -> None:
    with pytest.raises(ClientError) as caught:
        service.client.create({"task": {"prompt": "a"}, "steps": 0}, seed=-2)
    error = caught.value
    assert (error.code, error.reason, error.retry_seconds) == ("INVALID_ARGUMENT", "INVALID_REQUEST", None)
    assert {violation.field for violation in error.violations} == {"steps", "seed"}
    seed = "seed: -2 must be from 0 to 9223372036854775807, or -1 for a random seed"
    assert str(error) == error.message == f"steps: 0 must be from 1 to 1000; {seed}"
    with pytest.raises(ClientError, match=r"^size: '４８０' is not one of [^\n]*$"):
        service.client.create(prompt="a", size="４８０")


def test_both_clients_have_the_same_methods() -> None:
    def methods(kind: type) -> dict[str, list[tuple[str, Any, Any]]]:
        return {
            name: [(p.name, p.kind, p.default) for p in inspect.signature(method).parameters.values()]
            for name, method in vars(kind).items()
            if inspect.isfunction(method) and not name.startswith("_")
        }

    def plain(found: dict[str, list[tuple[str, Any, Any]]]) -> dict[str, list[tuple[str, Any]]]:
        return {name: [(p, kind) for p, kind, _ in parameters] for name, parameters in found.items()}

    assert plain(methods(VideoClient)) == plain(methods(AsyncVideoClient))
    one, two = (inspect.signature(kind.__init__).parameters for kind in (VideoClient, AsyncVideoClient))
    assert list(one.values()) == list(two.values())


def test_the_methods_of_the_table_exist() -> None:
    known = {
        f"{service.full_name}/{method.name}": method.output_type.full_name
        for module in (video_pb2, media_pb2, account_pb2, engines_pb2, operations_pb2)
        for service in module.DESCRIPTOR.services_by_name.values()
        for method in service.methods
    }
    methods = [value for value in vars(rpc).values() if isinstance(value, Method)]
    assert {method.path: method.answer.DESCRIPTOR.full_name for method in methods} == known


class Flaky(grpc.GenericRpcHandler):  # type: ignore[misc]  # grpc has no types
    """Answers every method with an empty message, but UNAVAILABLE the first two times."""

    def __init__(self) -> None:
        self.calls: Counter[str] = Counter()
        self.requests: set[bytes] = set()

    def service(self, details: Any) -> Any:
        def answer(request: bytes, context: Any) -> bytes:
            name = details.method.rpartition("/")[2]
            self.calls[name] += 1
            if name == "CreateVideo":
                self.requests.add(request)
            if self.calls[name] <= 2:
                context.abort(grpc.StatusCode.UNAVAILABLE, "not now")
            return b""

        return grpc.unary_unary_rpc_method_handler(answer)


def test_only_what_can_be_repeated_is_repeated() -> None:
    flaky = Flaky()
    server = grpc.server(ThreadPoolExecutor(2), handlers=[flaky])
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    with VideoClient(f"127.0.0.1:{port}") as client:
        assert client.models() == ()
        client.create(prompt="x")
        client.cancel("operations/x")
        for call in (client.delete, client.delete_media, client.replay_webhooks):
            with pytest.raises(ClientError, match="not now"):
                call("x")
    server.stop(0).wait()
    repeated = {"ListModels": 3, "CreateVideo": 3, "CancelOperation": 3}
    assert flaky.calls == {**repeated, "DeleteOperation": 1, "DeleteMedia": 1, "ReplayWebhooks": 1}
    (created,) = flaky.requests
    assert video_pb2.CreateVideoRequest.FromString(created).request_id, "a repeated create is the same job"


AWAY = ClientError("UNAVAILABLE", "away")
FULL = ClientError("RESOURCE_EXHAUSTED", "full", retry_seconds=10.0)
STOPPING = ClientError("UNAVAILABLE", "stopping", retry_seconds=5.0)


@pytest.mark.parametrize(
    ("away", "refused", "error", "least", "most"),
    [
        (30.0, 0.0, AWAY, 0.1, 0.1),
        (30.0, 0.0, STOPPING, 5.0, 6.0),
        (0.0, 20.0, STOPPING, 5.0, 6.0),
        (0.0, 20.0, FULL, 10.0, 12.0),
    ],
)
def test_the_pause_before_the_next_try(
    away: float, refused: float, error: ClientError, least: float, most: float
) -> None:
    assert least <= Backoff(away, refused).pause(error) <= most


@pytest.mark.parametrize(
    ("away", "refused", "error"),
    [
        (0.0, 20.0, AWAY),  # who knows whether it was done
        (4.0, 0.0, STOPPING),  # it says that it takes longer
        (30.0, 0.0, FULL),
        (30.0, 9.0, FULL),
        (30.0, 30.0, ClientError("RESOURCE_EXHAUSTED", "too large")),
        (30.0, 30.0, ClientError("INVALID_ARGUMENT", "x", retry_seconds=1.0)),
    ],
)
def test_what_is_not_tried_again(away: float, refused: float, error: ClientError) -> None:
    with pytest.raises(ClientError) as caught:
        Backoff(away, refused).pause(error)
    assert caught.value is error


def test_pauses_grow_and_begin_anew() -> None:
    backoff = Backoff(30.0, 0.0)
    pauses = [backoff.pause(AWAY) for _ in range(50)]
    assert pauses[0] == 0.1
    assert all(0.1 <= pause <= 1.0 for pause in pauses)
    assert max(pauses) > 0.3
    assert len(set(pauses)) > 20, "clients do not come back together"
    backoff.reset()
    assert backoff.pause(AWAY) == 0.1


@pytest.mark.parametrize("key", ["a b", "a\n", "ключ"])
def test_a_key_that_is_none_is_not_told(key: str) -> None:
    with pytest.raises(ClientError, match=r"^api_key: has characters that no key has$"):
        VideoClient("127.0.0.1:1", api_key=key)
