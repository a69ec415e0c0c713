"""google.longrunning.Operations over jobs."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.longrunning import operations_pb2

from tests.serving.gateway.harness import Collector, Service, failure, reason, until, violations
from zoetrope.serving.api.zoetrope.video.v1 import video_pb2
from zoetrope.serving.client import ClientError
from zoetrope.serving.jobs.job import Stage, State


def test_get_packs_metadata_and_video(service: Service, tmp_path: Path) -> None:
    name = service.client.create(prompt="a red circle", steps=4, seed=5, guidance=1.5, size="320x176")
    job = service.claim(name)
    service.progress(job, Stage.DENOISING, 2, eta_seconds=1.5)
    status = service.client.get(name)
    assert (status.name, status.state, status.step, status.steps) == (name, "denoising", 2, 4)
    assert (status.eta_seconds, status.attempt, status.done) == (1.5, 1, False)
    assert status.start_time == pytest.approx(job.started_at, abs=1e-5)
    assert status.end_time is None
    service.succeed(job, b"video", tmp_path)
    operation = service.operations.GetOperation(operations_pb2.GetOperationRequest(name=name))
    assert operation.done
    assert operation.metadata.type_url == "type.googleapis.com/zoetrope.video.v1.VideoMetadata"
    video = video_pb2.Video()
    assert operation.response.Unpack(video)
    assert (video.name, video.native_width, video.native_height) == (name.replace("operations/", "videos/"), 320, 176)
    assert (video.seed, video.steps, video.guidance, video.mime_type) == (5, 4, 1.5, "video/mp4")
    status = service.client.get(name)
    assert status.end_time is not None
    assert status.start_time is not None
    assert status.create_time <= status.start_time <= status.end_time


def test_queued_jobs_have_an_eta_once_one_has_run(service: Service, tmp_path: Path) -> None:
    service.make(b"video", tmp_path)
    each = service.store.recent_run_seconds(service.job(service.client.create(prompt="one")).model)
    assert each is not None
    second = service.client.create(prompt="two")
    assert service.client.get(second).queue_position == 1
    # The gateway looks the mean up about once a second.
    until(lambda: service.client.get(second).eta_seconds == pytest.approx(2 * each))


def test_failed_operation(service: Service) -> None:
    name = service.client.create(prompt="a red circle")
    job = service.claim(name)
    service.store.finish(
        job.id, job.lease_epoch, State.FAILED, error_code="RESOURCE_EXHAUSTED", error_message="out of memory"
    )
    status = service.client.get(name)
    assert (status.state, status.done, status.video) == ("failed", True, None)
    assert status.error is not None
    assert (status.error.code, str(status.error)) == ("RESOURCE_EXHAUSTED", "out of memory")


def test_cancel_queued_is_done_at_once(service: Service) -> None:
    name = service.client.create(prompt="a red circle")
    service.client.cancel(name)
    status = service.client.get(name)
    assert (status.state, status.done, status.cancel_requested) == ("cancelled", True, True)
    assert status.error is not None
    assert status.error.code == "CANCELLED"
    service.client.cancel(name)  # changes nothing
    assert service.client.get(name).state == "cancelled"


def test_cancel_running_is_a_flag_for_the_router(service: Service) -> None:
    name = service.client.create(prompt="a red circle")
    job = service.claim(name)
    service.client.cancel(name)
    status = service.client.get(name)
    assert (status.state, status.done, status.cancel_requested) == ("conditioning", False, True)
    assert service.store.heartbeat("test", [(job.id, job.lease_epoch)], 60.0) == {job.id: "cancel"}


def test_delete(service: Service, tmp_path: Path) -> None:
    name = service.client.create(prompt="a red circle", keep_latents=True)
    code, status = failure(lambda: service.operations.DeleteOperation(operations_pb2.DeleteOperationRequest(name=name)))
    assert (code, reason(status)) == ("FAILED_PRECONDITION", "NOT_DONE")
    job = service.claim(name)
    service.succeed(job, b"video", tmp_path, latents=b"latents")
    result: Any = service.job(name).result
    keys = [result["video"]["key"], result["latents"]["key"]]
    assert all(service.artifacts.exists(key) for key in keys)
    service.client.delete(name)
    assert not any(service.artifacts.exists(key) for key in keys)
    with pytest.raises(ClientError) as caught:
        service.client.get(name)
    assert caught.value.code == "NOT_FOUND"


def test_delete_that_was_interrupted_can_be_repeated(service: Service, tmp_path: Path) -> None:
    name = service.make(b"video", tmp_path)
    result: Any = service.job(name).result
    service.artifacts.delete([result["video"]["key"]])
    service.client.delete(name)
    assert service.store.get(name.removeprefix("operations/"), "") is None


def test_list_pages_and_filters(service: Service, tmp_path: Path) -> None:
    for job in service.store.list("", page_size=1_000):
        service.store.delete(job.id, "")
    done = [service.make(b"video", tmp_path) for _ in range(2)]
    cancelled = service.client.create(prompt="cancelled")
    service.client.cancel(cancelled)
    queued = [service.client.create(prompt=f"{i}") for i in range(4)]
    newest_first = [*reversed(queued), cancelled, *reversed(done)]

    pages, token = [], ""
    while True:
        page = service.client.list(page_size=3, page_token=token)
        pages.append([status.name for status in page.operations])
        # One that is new, or gone, while a client leafs through changes nothing else.
        service.client.create(prompt="new")
        token = page.next_page_token
        if not token:
            break
    assert pages == [newest_first[:3], newest_first[3:6], newest_first[6:]]

    def names(wanted: str) -> list[str]:
        return [status.name for status in service.client.list(filter=wanted).operations]

    assert names("done=true") == names(" DONE = True ") == [cancelled, *reversed(done)]
    assert names("state=succeeded") == list(reversed(done))
    assert names("state=cancelled") == [cancelled]
    assert names("state=running") == []
    assert set(queued) < set(names("done=false"))
    token = service.client.list(page_size=1, filter="done=true").next_page_token
    assert [s.name for s in service.client.list(1, token, "done=true").operations] == [done[1]]
    code, status = failure(
        lambda: service.operations.ListOperations(
            operations_pb2.ListOperationsRequest(page_token=token, filter="done=false")
        )
    )
    assert (code, list(violations(status))) == ("INVALID_ARGUMENT", ["page_token"])


def test_wait_ends_with_the_job(service: Service, tmp_path: Path) -> None:
    name = service.client.create(prompt="a red circle")
    waiting = Collector(service.client.wait(name) for _ in range(1))
    job = service.claim(name)
    assert not waiting.ended
    service.succeed(job, b"video", tmp_path)
    (status,) = waiting.join()
    assert status.state == "succeeded"
    assert service.client.wait(name).state == "succeeded"  # at once


def test_wait_honours_its_timeout_and_the_deadline(service: Service) -> None:
    name = service.client.create(prompt="a red circle")
    request = operations_pb2.WaitOperationRequest(name=name)

    def seconds(**options: Any) -> float:
        start = time.monotonic()
        assert not service.operations.WaitOperation(request, **options).done
        return time.monotonic() - start

    assert 0.4 < seconds(timeout=1.0) < 1.0  # the answer comes before the deadline
    request.timeout.FromMilliseconds(300)
    assert 0.3 <= seconds() < 5
    assert 0.3 <= seconds(timeout=60) < 5
    request.timeout.FromSeconds(60)
    assert seconds(timeout=1.0) < 1.0
    request.timeout.FromSeconds(0)
    assert seconds() < 5
    start = time.monotonic()
    assert service.client.wait(name, timeout_seconds=0.3).state == "queued"
    assert 0.3 <= time.monotonic() - start < 5
    request.timeout.FromSeconds(-1)
    code, status = failure(lambda: service.operations.WaitOperation(request))
    assert (code, list(violations(status))) == ("INVALID_ARGUMENT", ["timeout"])


def test_a_client_that_goes_away_does_no_harm(service: Service) -> None:
    name = service.client.create(prompt="a red circle")
    calls = [service.videos.WatchVideo(video_pb2.WatchVideoRequest(name=name)) for _ in range(5)]
    for call in calls:
        next(call)
        call.cancel()
    for call in calls:
        until(call.done)
        assert call.code() is grpc.StatusCode.CANCELLED
    assert service.client.get(name).state == "queued"
