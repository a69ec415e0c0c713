"""A service whose snapshots and files lie in a bucket: nothing of a running job is on the machine's own disk."""

from __future__ import annotations

import os
import shutil
import signal
from pathlib import Path

import pytest

from tests.fixtures.bucket import open_bucket
from tests.serving.gateway.harness import until
from zoetrope.serving.cli.service import ServiceProcess, serve_command
from zoetrope.serving.client import VideoClient

pytestmark = [pytest.mark.long, pytest.mark.timeout(400)]

READY_SECONDS = 180.0
STEPS = 120
REQUEST = {"prompt": "a red circle", "size": "40x24", "frames": 9, "seed": 3, "steps": STEPS}


def test_a_job_goes_on_from_its_snapshot_on_another_machine(tmp_path: Path, postgres: str) -> None:
    """The machine: its data folder is deleted between two services on one database and one bucket."""
    data = tmp_path / "data"
    with open_bucket() as bucket:
        settings = {
            "ZOETROPE_DATABASE": postgres,
            "ZOETROPE_ARTIFACT_STORE": bucket.url("files"),
            "ZOETROPE_SNAPSHOT_STORE": bucket.url("states"),
            "ZOETROPE_SNAPSHOT_STEPS": "5",
        }

        def start() -> ServiceProcess:
            return ServiceProcess(serve_command("nano", data), tmp_path / "log", {**os.environ, **settings})

        first = start()
        with VideoClient(first.wait_ready(READY_SECONDS).grpc) as client:
            name = client.create(dict(REQUEST))
            job = name.removeprefix("operations/")
            until(lambda: client.get(name).step >= 20, 120)
            os.kill(first.pid, signal.SIGKILL)
        first.stop()
        kept = bucket.keys(f"states/snapshots/{job}")
        assert kept and not (data / "snapshots").exists() and not (data / "artifacts").exists()
        shutil.rmtree(data)

        second = start()
        try:
            with VideoClient(second.wait_ready(READY_SECONDS).grpc) as client:
                # The first steps that are seen of the next attempt are those behind the snapshot.
                seen = next(
                    status for status in client.watch(name) if status.done or (status.attempt > 1 and status.step)
                )
                assert seen.step > 15
                end = client.wait(name)
                assert (end.state, end.attempt) == ("succeeded", 2), end.error
                client.download(name, tmp_path / "out.mp4")
            until(lambda: bucket.keys(f"states/snapshots/{job}") == [], 60)
            assert f"{job}/2/video.mp4" in bucket.keys("files/jobs")
            assert not (data / "snapshots").exists()
        finally:
            second.stop()
