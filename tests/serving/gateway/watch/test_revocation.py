"""Calls that go on for long, of keys that are revoked meanwhile."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
from google.longrunning import operations_pb2

from tests.serving.gateway.harness import Collector, Service, failure, running_service, until
from tests.serving.jobs.harness import claim_oldest
from zoetrope.serving.api.zoetrope.video.v1 import video_pb2
from zoetrope.serving.client import VideoClient

SOON = 5.0  # seconds


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with running_service(tmp_path_factory.mktemp("gateway"), keys="required") as running:
        yield running


def new_key(service: Service) -> tuple[str, str, list[tuple[str, str]]]:
    """Its id, its secret, and what calls send."""
    key, secret = service.stores.keys.create("k", "us")
    return key.id, secret, [("authorization", f"Bearer {secret}")]


def test_watches_and_waits_end_with_their_key(service: Service) -> None:
    key_id, secret, metadata = new_key(service)
    other_id, _, others = new_key(service)  # of the same tenant
    with VideoClient(service.target, api_key=secret) as client:
        name = client.create(prompt="a red circle")
    asked = video_pb2.WatchVideoRequest(name=name)
    watch = Collector(service.videos.WatchVideo(asked, metadata=metadata))
    kept = Collector(service.videos.WatchVideo(asked, metadata=others))
    wait = service.operations.WaitOperation.future(operations_pb2.WaitOperationRequest(name=name), metadata=metadata)
    answers: list[httpx.Response] = []

    def post() -> None:
        headers = {"authorization": f"Bearer {secret}", "prefer": "wait=30"}
        body = {"version": "wan-video/wan-2.7-t2v", "input": {"prompt": "x"}}
        answers.append(httpx.post(f"{service.http}/v1/predictions", json=body, headers=headers, timeout=40))

    polls = threading.Thread(target=post)
    polls.start()
    until(lambda: watch.seen and kept.seen)
    until(lambda: len(service.store.list("us", page_size=9)) == 2)
    revoked = time.monotonic()
    service.stores.keys.revoke(key_id)
    code, status = failure(watch.join)
    assert (code, status.message) == ("UNAUTHENTICATED", "the API key was revoked")
    assert failure(lambda: wait.result(timeout=SOON))[0] == "UNAUTHENTICATED"
    polls.join(timeout=SOON)
    assert [answer.status_code for answer in answers] == [401]
    assert time.monotonic() - revoked < SOON
    assert not kept.ended
    service.stores.keys.revoke(other_id)
    assert failure(kept.join)[0] == "UNAUTHENTICATED"


def test_an_upload_ends_with_its_key(service: Service) -> None:
    key_id, _, metadata = new_key(service)

    async def upload() -> Any:
        from zoetrope.serving.api.zoetrope.video.v1 import media_pb2, media_pb2_grpc

        async with grpc.aio.insecure_channel(service.target) as channel:
            media: Any = media_pb2_grpc.MediaServiceStub(channel)  # type: ignore[no-untyped-call]
            announced = media_pb2.CreateMediaRequest(size_bytes=50 << 20, sha256="0" * 64)
            made = await media.CreateMedia(announced, metadata=metadata)
            call = media.WriteMedia(metadata=metadata)
            await call.write(media_pb2.WriteMediaRequest(name=made.name, data=b"x"))
            await asyncio.to_thread(service.stores.keys.revoke, key_id)
            return await asyncio.wait_for(call.code(), SOON)

    assert asyncio.run(upload()) is grpc.StatusCode.UNAUTHENTICATED


def test_downloads_end_with_their_key(service: Service, tmp_path: Path) -> None:
    """Of one that stands still nothing more is sent."""
    key_id, secret, metadata = new_key(service)
    with VideoClient(service.target, api_key=secret) as client:
        name = client.create(prompt="a red circle", priority=9)
    (job,) = claim_oldest(service.store, "test", 1, 60.0, 5, ("tiny",))
    assert job.id == name.removeprefix("operations/")
    service.succeed(job, bytes(50 << 20), tmp_path)
    headers = {"authorization": f"Bearer {secret}"}
    with httpx.stream("GET", f"{service.http}/v1/videos/{job.id}/content", headers=headers) as answer:
        chunks = answer.iter_raw(1_000)
        next(chunks)
        download = service.videos.DownloadVideo(video_pb2.DownloadVideoRequest(name=name), metadata=metadata)
        next(download)
        service.stores.keys.revoke(key_id)
        time.sleep(2.5)  # nothing tells that the gateway has looked
        assert failure(lambda: [*download])[0] == "UNAUTHENTICATED"
        with pytest.raises(httpx.RemoteProtocolError):
            list(chunks)
