"""Clients of gRPC that others wrote: grpc-js with proto-loader, and google-api-core's operations."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import Any

import pytest
from google.api_core import exceptions, operation, operations_v1, retry
from google.api_core.future import polling
from PIL import Image

from tests.node.run import run_node
from tests.serving.gateway.harness import Collector, Service, text_request, until
from tests.serving.jobs.harness import claim_oldest
from zoetrope.serving.api import generate
from zoetrope.serving.api.zoetrope.video.v1 import video_pb2
from zoetrope.serving.jobs.job import Job, JobFilter, Stage, State

OFTEN = retry.Retry(polling.RETRY_PREDICATE, initial=0.02, maximum=0.02, timeout=30.0)


def test_grpc_js(service: Service, tmp_path: Path) -> None:
    file = io.BytesIO()
    Image.new("RGB", (64, 64), "red").save(file, "PNG")
    env = {
        "TARGET": service.target,
        "PROTOS": str(generate.HERE),
        "PICTURE": base64.b64encode(file.getvalue()).decode(),
    }
    script = Collector(run_node("grpc", **env) for _ in range(1))
    job = until(lambda: script.ended or first_queued(service), 60)
    if not isinstance(job, Job):
        script.join()  # raises why it ended, or skips
    assert isinstance(job, Job)
    (claimed,) = claim_oldest(service.store, "test", 1, 60.0, 5, (job.model,))
    service.progress(claimed, Stage.DENOISING, 2)
    service.succeed(claimed, b"video" * 100_000, tmp_path)
    (said,) = script.join()
    assert (said["media"]["state"], said["media"]["mime_type"], said["media"]["kind"]) == (
        "MEDIA_STATE_READY",
        "image/png",
        "image",
    )
    code, details = said["refusal"]
    assert (code, details) == (3, "steps: 5000 must be from 1 to 1000")
    assert said["first"] == f"operations/{job.id}"
    assert (said["done"], said["last"]) == (True, "VIDEO_STATE_SUCCEEDED")
    assert (said["video"]["name"], said["video"]["mime_type"]) == (f"videos/{job.id}", "video/mp4")
    assert base64.b64decode(said["bytes"]) == b"video" * 100_000
    assert (said["cancelled"], said["gone"]) == (1, 5)
    assert said["listed"] == [said["second"], said["first"]]
    assert said["models"] == ["tiny"]


def first_queued(service: Service) -> Job | None:
    return next(iter(service.store.list("", page_size=1, where=JobFilter(states=(State.QUEUED,)))), None)


def future(service: Service, **fields: Any) -> Any:
    made = service.videos.CreateVideo(text_request(**fields))
    client = operations_v1.OperationsClient(service.channel)
    return operation.from_gapic(made, client, video_pb2.Video, metadata_type=video_pb2.VideoMetadata)


def test_an_operation_s_future(service: Service, tmp_path: Path) -> None:
    video = future(service, seed=7)
    assert (video.metadata.state, video.done()) == (video_pb2.VIDEO_STATE_QUEUED, False)
    results = Collector(video.result(polling=OFTEN) for _ in range(1))
    name = video.operation.name
    service.succeed(service.claim(name), b"video", tmp_path)
    (result,) = results.join()
    assert (result.name, result.seed) == (name.replace("operations/", "videos/"), 7)
    assert video.metadata.state == video_pb2.VIDEO_STATE_SUCCEEDED
    operations_v1.OperationsClient(service.channel).delete_operation(name)
    with pytest.raises(exceptions.NotFound):
        operations_v1.OperationsClient(service.channel).get_operation(name)


def test_cancelling_a_future(service: Service) -> None:
    video = future(service)
    assert video.cancel()
    with pytest.raises(exceptions.Cancelled):
        video.result(polling=OFTEN)
    assert video.cancelled()
    assert service.job(video.operation.name).state is State.CANCELLED


def test_listing_operations(service: Service) -> None:
    names = [service.client.create(prompt="x", labels={"of": "api-core"}) for _ in range(3)]
    listed = operations_v1.OperationsClient(service.channel).list_operations("operations", 'labels.of="api-core"')
    assert [item.name for item in listed] == names[::-1]
