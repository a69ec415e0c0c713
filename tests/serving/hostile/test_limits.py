"""What the fuzzers and their authors found once, one test each."""

from __future__ import annotations

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from tests.serving.gateway.harness import failure, text_request, violations
from tests.serving.gateway.http.samples import picture
from tests.serving.gateway.http.test_timeouts import server
from tests.serving.hostile.kit import Target
from zoetrope.model.catalog.presets import find_model
from zoetrope.model.request.resolve import resolve
from zoetrope.model.request.tasks import InvalidRequest, MediaInfo, parse_request
from zoetrope.serving.api.zoetrope.video.v1 import media_pb2, video_pb2
from zoetrope.serving.gateway.http.transport import timeouts

YEAR = 366 * 86_400


IN_A_YEAR = pytest.param(int(time.time()) + YEAR, id="in a year")  # the same name in every process


@pytest.mark.parametrize("seconds", [0, -1, -(2**63), 2**63 - 1, 10**15, 253_402_300_799, IN_A_YEAR])
def test_deadlines_of_any_year(found: Target, seconds: int) -> None:
    """One too far ahead was stored once, and then no list of predictions could be written any more."""
    request = text_request(deadline=Timestamp(seconds=seconds))
    code, status = failure(lambda: found.service.videos.CreateVideo(request))
    assert (code, list(violations(status))) == ("INVALID_ARGUMENT", ["deadline"])
    fine = text_request(deadline=Timestamp(seconds=int(time.time()) + YEAR - 2 * 86_400))
    found.service.videos.CreateVideo(fine)
    for path in ("/v1/predictions", "/v1/videos", "/api/v1/tasks", "/dashboard/state"):
        assert found.web.get(path).status_code == 200


@pytest.mark.parametrize("count", [1, 10, 100])
@pytest.mark.parametrize("text", ["z", "é🐈" * 40, "\n" * 90])
def test_errors_fit_into_trailers(found: Target, count: int, text: str) -> None:
    """Clients take 8 KiB of trailers, and tell of nothing but their size where there are more."""
    labels = {f"!{i}{text}": "x" * 300 for i in range(20)}
    bad = video_pb2.CreateVideoRequest(size=text, ratio=text, steps=-1, fps=-1, guidance=-1, format=99, labels=labels)  # type: ignore[arg-type]
    request = video_pb2.BatchCreateVideosRequest(requests=[bad] * count)
    code, status = failure(lambda: found.service.videos.BatchCreateVideos(request))
    assert code == "INVALID_ARGUMENT"
    assert "requests.0.format" in violations(status)
    assert status.ByteSize() < 8_192 * 3 // 4
    code, status = failure(lambda: found.service.videos.CreateVideo(text_request(model=text * 10_000)))
    assert code == "NOT_FOUND"


MESSAGES = [b"\xff\xff\xff\x0a\xff", b"\x0a\x05ab", b"\x0a\x02\xff\xfe", b"\x08" + b"\xff" * 11, b"\x0b" * 200]


@pytest.mark.parametrize("sent", MESSAGES)
def test_messages_that_are_none(found: Target, sent: bytes) -> None:
    """Streams and the services of grpc itself, too."""
    channel = found.service.channel
    calls: dict[str, Any] = {
        "/zoetrope.video.v1.VideoService/CreateVideo": lambda path: channel.unary_unary(path)(sent, timeout=10),
        "/zoetrope.video.v1.VideoService/WatchVideo": lambda path: list(channel.unary_stream(path)(sent, timeout=10)),
        "/zoetrope.video.v1.MediaService/WriteMedia": lambda path: channel.stream_unary(path)(iter([sent]), timeout=10),
        "/grpc.health.v1.Health/Check": lambda path: channel.unary_unary(path)(sent, timeout=10),
        "/grpc.health.v1.Health/Watch": lambda path: list(channel.unary_stream(path)(sent, timeout=10)),
        "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo": lambda path: list(
            channel.stream_stream(path)(iter([sent]), timeout=10)
        ),
    }
    for path, call in calls.items():
        code, status = failure(lambda: call(path))  # noqa: B023
        assert (code, status.message) == ("INVALID_ARGUMENT", "the request is not a well-formed message"), path


def test_an_upload_that_breaks_in_the_middle(found: Target) -> None:
    """A message that is none behind one that is: what came before it counts no more than announced."""
    service, data = found.service, picture()
    media = service.client.upload(data)
    create = service.channel.unary_unary(
        "/zoetrope.video.v1.MediaService/CreateMedia", None, media_pb2.MediaFile.FromString
    )
    made = create(media_pb2.CreateMediaRequest(size_bytes=len(data), sha256=media.sha256).SerializeToString())
    first = media_pb2.WriteMediaRequest(name=made.name, data=data[:100]).SerializeToString()
    call = service.channel.stream_unary("/zoetrope.video.v1.MediaService/WriteMedia")
    code, _ = failure(lambda: call(iter([first, b"\xff\xff"]), timeout=10))
    assert code == "INVALID_ARGUMENT"
    state = service.client.get_media(made.name)
    assert state.received_bytes in (0, 100)


@pytest.mark.parametrize("field", ["guidance", "guidance_low", "duration_seconds"])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf"), 1e308, -1e308, 5e-324])
def test_numbers_that_are_none(found: Target, field: str, value: float) -> None:
    fields: dict[str, Any] = {field: value}
    request = text_request(**fields)
    if (field, value) == ("guidance", 5e-324) or (field, value) == ("duration_seconds", 5e-324):
        found.service.videos.CreateVideo(request)  # as good as none of it, or a single frame
        return
    code, status = failure(lambda: found.service.videos.CreateVideo(request))
    assert (code, list(violations(status))) == ("INVALID_ARGUMENT", [field])


EDIT = {"kind": "edit_video", "prompt": "x", "video": "v"}
SOURCE = {"video": MediaInfo("clip", 80, 48, 24, 8.0)}


@pytest.mark.parametrize("fields", [{"fps": 61}, {"fps": 2**31 - 1}, {"fps": -1}, {"fps": 0}])
def test_frame_rates_of_edits(fields: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest) as caught:
        resolve(parse_request({"task": EDIT, **fields}), find_model("nano"), 0, SOURCE)
    assert "fps" in [violation.field for violation in caught.value.violations]


@pytest.mark.parametrize("fields", [{"fps": 10**400}, {"fps": 10**308}, {"fps": 10**400, "duration_seconds": 1.0}])
def test_frame_rates_beyond_all_floats(fields: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest) as caught:
        resolve(parse_request({"task": EDIT, **fields}), find_model("nano"), 0, SOURCE)
    assert "fps" in [violation.field for violation in caught.value.violations]


def test_the_same_upload_twice_at_once(found: Target) -> None:
    """Of two posts with one key of a policy, one counts."""
    host = found.service.http
    policy = httpx.get(f"{host}/api/v1/uploads", params={"action": "getPolicy"}).json()["data"]

    def post(seed: int) -> int:
        files = {"file": ("a.png", picture(seed=seed))}
        answer = httpx.post(policy["upload_host"], data={"key": policy["upload_dir"] + "/a"}, files=files, timeout=30)
        found.check(answer.status_code, answer.headers, answer.content, "POST /api/v1/uploads")
        return answer.status_code

    with ThreadPoolExecutor(6) as pool:
        statuses = sorted(pool.map(post, range(6)))
    assert statuses == [200, *[409] * 5]


def test_uploads_to_one_address_at_once(found: Target) -> None:
    """Of several files for one upload address of fal's, one counts; the others found the database out of order."""
    rest = f"{found.service.http}/fal/rest"
    grants = [httpx.post(f"{rest}/storage/upload/initiate", json={}).json()["upload_url"] for _ in range(6)]

    def put(i: int) -> int:
        answer = httpx.put(grants[i // 6], content=picture(seed=i), timeout=30)
        found.check(answer.status_code, answer.headers, answer.content, "PUT /fal/rest/storage/upload")
        return answer.status_code

    with ThreadPoolExecutor(6) as pool:
        statuses = sorted(pool.map(put, range(36)))
    assert statuses == [200] * 6 + [400] * 30


@pytest.mark.parametrize("name", ["." * 100_000, "x" * 11_000_000])
def test_fields_with_names_without_end(found: Target, name: str) -> None:
    """What no form has is named by its first letters; the dots of one name kept everybody waiting for minutes."""
    host, given = found.service.http, {"prompt": "a", name: 1}
    bodies: dict[str, dict[str, Any]] = {
        "/zoetrope/nano": given,
        "/fal-ai/wan/v2.7/text-to-video": given,
        "/v1/videos": given,
        "/dashboard/jobs": given,
        "/v1/predictions": {"version": "wan-video/wan-2.2-t2v-fast", "input": given},
        "/api/v1/services/aigc/video-generation/video-synthesis": {"model": "wan2.5-t2v-preview", "input": given},
    }
    for path, body in bodies.items():
        answer = httpx.post(host + path, json=body, timeout=60)
        assert answer.status_code in (400, 422), answer.text[:500]
        found.check(answer.status_code, answer.headers, answer.content, f"POST {path}")
        assert len(answer.content) < 4_000, path
        assert answer.elapsed.total_seconds() < 5, path


def test_a_file_that_is_gone(found: Target) -> None:
    """Its bytes were deleted, its row not yet: an answer, not half of one."""
    service = found.service
    made = httpx.post(f"{service.http}/v1/files", files={"content": ("a.png", picture(seed=77))}).json()
    media = service.stores.media.get(made["id"], "")
    assert media is not None and media.key is not None
    service.artifacts.delete([media.key])
    assert httpx.get(f"{service.http}/v1/files/{made['id']}/download").status_code == 404


async def test_bodies_that_trickle(monkeypatch: pytest.MonkeyPatch) -> None:
    """No pause is long, and yet it would take for ever."""
    monkeypatch.setattr(timeouts, "GRACE_SECONDS", 0.3)
    async with server() as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 1000000\r\n\r\n")
        answer = asyncio.create_task(reader.read(4_096))
        started = time.monotonic()
        while not answer.done() and time.monotonic() - started < 10:
            writer.write(b"x")
            await asyncio.wait([answer], timeout=0.02)
        assert (await answer).startswith(b"HTTP/1.1 408")
        writer.close()
