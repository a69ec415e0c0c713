"""`zoetrope sweeper`: a sweeper without a supervisor."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from queue import SimpleQueue

import httpx

from tests.serving.gateway.harness import ROOT, until
from tests.serving.jobs.harness import LIMITS, new_job
from tests.serving.outbound.receiver import Answer, receiving
from zoetrope.cluster.snapshots.objects import SnapshotObjects
from zoetrope.serving.jobs.job import JobFilter, JobWebhook, State
from zoetrope.serving.jobs.open import Stores, open_stores
from zoetrope.serving.storage.store import open_artifacts


@contextlib.contextmanager
def sweeping(data: Path, *options: str) -> Iterator[subprocess.Popen[str]]:
    """A sweeper that has said that it works; its stdin is empty, as in a container."""
    process = subprocess.Popen(
        [sys.executable, "-m", "zoetrope.serving.cli", "sweeper", "--data-dir", str(data), *options],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "ZOETROPE_ALLOW_NETWORKS": "127.0.0.1"},
        text=True,
    )
    with process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            yield process
        finally:
            process.kill()


def free_address() -> str:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return f"127.0.0.1:{taken.getsockname()[1]}"


def test_it_works_alone_until_it_is_told_to_stop(tmp_path: Path) -> None:
    told: SimpleQueue[bytes] = SimpleQueue()

    def take(headers: dict[str, str], body: bytes) -> Answer:
        told.put(body)
        return Answer()

    address = free_address()
    data = tmp_path / "data"
    snapshots = SnapshotObjects(str(tmp_path / "elsewhere"))
    options = ("--management", address, "--snapshot-store", str(tmp_path / "elsewhere"))
    with receiving(take) as url, sweeping(data, *options) as process:
        with contextlib.closing(open_stores(f"sqlite:///{data}/jobs.db")) as stores:
            artifacts = open_artifacts(str(data / "artifacts"))
            cancel_one(stores, url)
            artifacts.put_bytes("jobs/a/1/video.mp4", b"bytes", "video/mp4")
            snapshots.objects.put("snapshots/a/0000/0000000001-000003", [b"bytes"])
            assert b"video." in told.get(timeout=30)
            until(lambda: stores.jobs.list("", page_size=1, where=JobFilter()) == [], 30)
            until(lambda: artifacts.below("jobs") == [] and snapshots.jobs() == set(), 30)
        assert httpx.get(f"http://{address}/livez").text == "ok\n"
        assert httpx.get(f"http://{address}/readyz").text == "ok\n"
        assert "zoetrope_sweeps_total" in httpx.get(f"http://{address}/metrics").text
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
        assert process.stderr is not None and "Traceback" not in process.stderr.read()


def cancel_one(stores: Stores, url: str) -> None:
    """A job that ends at once, and is to be deleted then."""
    spec = {"task": {"kind": "text_to_video"}}
    hook = JobWebhook(url, ("completed",))
    job = stores.jobs.create(new_job("a", spec=spec, retention_seconds=0.1, webhook=hook), LIMITS)
    ended = stores.jobs.request_cancel(job.id, job.owner)
    assert ended is not None and ended.state is State.CANCELLED
