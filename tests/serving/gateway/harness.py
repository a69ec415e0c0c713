"""A gateway process on a temporary data directory, and the router's part played by hand."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import grpc
import pytest
from google.longrunning import operations_pb2_grpc
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status

from tests.fixtures.transformer_shape import TRANSFORMER
from tests.serving.jobs.harness import claim_oldest
from zoetrope.serving.api.zoetrope.video.v1 import video_pb2, video_pb2_grpc
from zoetrope.serving.client import VideoClient
from zoetrope.serving.config.settings import Settings
from zoetrope.serving.jobs.job import EngineRow, Job, JobFilter, Result, Stage, State
from zoetrope.serving.jobs.open import Stores, open_stores
from zoetrope.serving.jobs.store import JobStore
from zoetrope.serving.storage.store import ArtifactStore, open_artifacts

ROOT = Path(__file__).parents[3]
MODEL = "tiny"  # 16 fps, at most 81 frames, denoises at any multiple of 16 pixels; Wan's own negative prompt
T = TypeVar("T")


def until(condition: Callable[[], T], seconds: float = 15.0) -> T:
    """What the condition gives once it is true."""
    end = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < end, f"not true after {seconds} s"
        time.sleep(0.01)
    return value


def write_checkpoint(directory: Path) -> Path:
    """The configuration files of a Wan checkpoint, which is all that a gateway reads of one."""
    configs = {
        "transformer/config.json": {
            "_class_name": "WanTransformer3DModel",
            **TRANSFORMER,
        },
        "vae/config.json": {"_class_name": "AutoencoderKLWan", "z_dim": 16},
        "text_encoder/config.json": {},
        "tokenizer/tokenizer_config.json": {},
        "scheduler/scheduler_config.json": {
            "_class_name": "UniPCMultistepScheduler",
            "prediction_type": "flow_prediction",
            "use_flow_sigmas": True,
            "flow_shift": 3.0,
        },
        "model_index.json": {},
    }
    for name, value in configs.items():
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_text(json.dumps(value))
    return directory


class GatewayProcess:
    """``python -m zoetrope.serving.gateway.main`` as the supervisor starts it."""

    def __init__(self, settings: Settings) -> None:
        self.errors = tempfile.TemporaryFile("a+")  # noqa: SIM115  # not a pipe: nobody reads it while the gateway runs
        self.process = subprocess.Popen(
            [sys.executable, "-m", "zoetrope.serving.gateway.main"],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.errors,
            env={**os.environ, "ZOETROPE_SETTINGS": settings.as_json()},
            text=True,
        )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise AssertionError(f"the gateway did not start (status {self.process.wait()}): {self.said()}")
        self.bound: dict[str, str] = json.loads(line)

    def said(self) -> str:
        """On stderr so far."""
        return os.pread(self.errors.fileno(), 1 << 26, 0).decode(errors="replace")

    def kill(self) -> None:
        """As if it had crashed."""
        with self.process:  # closes the pipes and waits
            self.process.kill()

    def stop(self) -> tuple[int, str]:
        """Exit status and stderr."""
        self.process.send_signal(signal.SIGTERM)
        self.process.communicate(timeout=20)
        return self.process.returncode, self.said()


@dataclass
class Service:
    """A gateway, the two stores it works on, and ways to talk to it."""

    settings: Settings
    gateway: GatewayProcess
    stores: Stores
    artifacts: ArtifactStore
    client: VideoClient
    channel: grpc.Channel
    videos: Any = field(init=False)
    operations: Any = field(init=False)

    def __post_init__(self) -> None:
        self.videos = video_pb2_grpc.VideoServiceStub(self.channel)  # type: ignore[no-untyped-call]
        self.operations = operations_pb2_grpc.OperationsStub(self.channel)

    @property
    def target(self) -> str:
        return self.gateway.bound["grpc"]

    @property
    def http(self) -> str:
        return "http://" + self.gateway.bound["http"]

    @property
    def store(self) -> JobStore:
        return self.stores.jobs

    def job(self, name: str) -> Job:
        job = self.store.get(name.removeprefix("operations/"), "")
        assert job is not None
        return job

    # The router's part.

    def claim(self, name: str) -> Job:
        """Take the job up. It is the only one that waits, for every test leaves the queue empty."""
        (job,) = claim_oldest(self.store, "test", 10, 60.0, 5, (MODEL,))
        assert job.id == name.removeprefix("operations/")
        return job

    def progress(self, job: Job, stage: Stage, step: int, eta_seconds: float | None = None) -> None:
        assert self.store.progress(job.id, job.lease_epoch, stage=stage, step=step, eta_seconds=eta_seconds)

    def succeed(self, job: Job, data: bytes, scratch: Path, latents: bytes | None = None) -> None:
        """Store the files and end the job."""
        keep = {}
        for name, content in (("video.mp4", data), ("latents.safetensors", latents)):
            if content is not None:
                path = scratch / name
                path.write_bytes(content)
                key = f"jobs/{job.id}/{job.lease_epoch}/{name}"
                mime_type = "video/mp4" if name == "video.mp4" else "application/octet-stream"
                keep[name] = self.artifacts.put_file(key, path, mime_type)
        result = Result(keep["video.mp4"], keep.get("latents.safetensors"), frames=33, width=832, height=480, fps=16)
        assert self.store.finish(job.id, job.lease_epoch, State.SUCCEEDED, result=result)

    def make(self, data: bytes, scratch: Path, latents: bytes | None = None, **fields: Any) -> str:
        """A job that succeeded."""
        name = self.client.create(prompt="a red circle", **fields)
        self.succeed(self.claim(name), data, scratch, latents)
        return name

    def empty_queue(self) -> None:
        """End what a test left unfinished."""
        for job in self.store.list("", page_size=1_000, where=JobFilter(states=(State.QUEUED, State.RUNNING))):
            self.store.request_cancel(job.id, "")
            if job.state is State.RUNNING:
                self.store.finish(job.id, job.lease_epoch, State.CANCELLED)


@contextlib.contextmanager
def running_service(directory: Path, **changes: Any) -> Iterator[Service]:
    model = write_checkpoint(directory / MODEL)
    base = {"model": str(model), "grpc": "127.0.0.1:0", "http": "127.0.0.1:0", "data_dir": directory / "data"}
    settings = Settings.model_validate({**base, **changes})
    gateway = GatewayProcess(settings)
    # As the supervisor does for a restart.
    settings = settings.model_copy(update=gateway.bound)
    with contextlib.ExitStack() as stack:
        client = stack.enter_context(VideoClient(gateway.bound["grpc"]))
        channel = stack.enter_context(grpc.insecure_channel(gateway.bound["grpc"]))
        stores = stack.enter_context(contextlib.closing(open_stores(settings.database_url)))
        service = Service(settings, gateway, stores, open_artifacts(settings.artifacts_url), client, channel)
        try:
            yield service
        finally:
            service.gateway.kill()


class Collector:
    """Follows an iterator in a thread, so that a test can act meanwhile."""

    def __init__(self, items: Iterator[Any]) -> None:
        self.seen: list[Any] = []
        self.times: list[float] = []
        self._end: queue.Queue[BaseException | None] = queue.Queue()
        threading.Thread(target=self._follow, args=(items,), daemon=True).start()

    @property
    def ended(self) -> bool:
        return not self._end.empty()

    def join(self) -> list[Any]:
        """All items, once the iterator has ended; raises what it raised."""
        error = self._end.get(timeout=30)
        if error is not None:
            raise error
        return self.seen

    def _follow(self, items: Iterator[Any]) -> None:
        try:
            for item in items:
                self.times.append(time.monotonic())
                self.seen.append(item)
        except BaseException as error:
            self._end.put(error)
        else:
            self._end.put(None)


def engine(seen_at: float, model: str = MODEL) -> EngineRow:
    return EngineRow(id="engine-0", model=model, gang_epoch=3, ranks=1, seen_at=seen_at)


def failure(call: Callable[[], object]) -> tuple[str, status_pb2.Status]:
    """Code and rich status of a call that is refused."""
    with pytest.raises(grpc.RpcError) as caught:
        call()
    status = rpc_status.from_call(caught.value)
    assert status is not None, f"{caught.value} has no details"
    assert "\n" not in status.message
    return caught.value.code().name, status


def detail(status: status_pb2.Status, kind: type[T]) -> T | None:
    """The detail of that type."""
    for item in status.details:
        message = kind()
        if item.Unpack(message):
            return message
    return None


def violations(status: status_pb2.Status) -> dict[str, str]:
    """Field -> description."""
    bad = detail(status, error_details_pb2.BadRequest)
    return {} if bad is None else {v.field: v.description for v in bad.field_violations}


def reason(status: status_pb2.Status) -> str:
    info: Any = detail(status, error_details_pb2.ErrorInfo)
    assert info is not None
    assert info.domain == "zoetrope"
    return str(info.reason)


def text_request(prompt: str = "a red circle", **fields: Any) -> video_pb2.CreateVideoRequest:
    return video_pb2.CreateVideoRequest(text_to_video=video_pb2.TextToVideo(prompt=prompt), **fields)
