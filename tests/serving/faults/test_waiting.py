"""Storage that goes away under running jobs and comes back, in a real service: they wait, say so, and end well."""

from __future__ import annotations

import hashlib
import logging
import os
import subprocess
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import httpx
import pytest
from moto.server import ThreadedMotoServer

from tests.serving.gateway.harness import until
from tests.serving.gateway.http.samples import picture
from zoetrope.serving.cli.service import ServiceProcess, serve_command
from zoetrope.serving.client import VideoClient
from zoetrope.serving.jobs.db.errors import StoreError
from zoetrope.serving.jobs.job import Job
from zoetrope.serving.jobs.open import open_stores

pytestmark = [pytest.mark.long, pytest.mark.timeout(400)]

READY_SECONDS = 180.0
WAIT_SECONDS = 90.0
SHORT = {"size": "40x24", "frames": 1, "seed": 3}
DISK_BYTES = 80 << 20  # of which the artifact store leaves 64 MiB free


class Bucket:
    """An S3 that can go away; what it holds stays."""

    def __init__(self) -> None:
        logging.getLogger("werkzeug").setLevel(logging.ERROR)
        self._server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
        self._server.start()
        host, self._port = self._server.get_host_and_port()
        self.endpoint = f"http://{host}:{self._port}"
        httpx.put(f"{self.endpoint}/bucket").raise_for_status()

    @contextmanager
    def away(self) -> Iterator[None]:
        self._server.stop()
        yield
        self._server = ThreadedMotoServer(ip_address="127.0.0.1", port=self._port, verbose=False)
        self._server.start()

    def keys(self, prefix: str) -> list[str]:
        listing = httpx.get(f"{self.endpoint}/bucket?list-type=2&prefix={prefix}").text
        return [part.partition("</Key>")[0] for part in listing.split("<Key>")[1:]]

    def stop(self) -> None:
        self._server.stop()


@contextmanager
def running(directory: Path, data_dir: Path, **settings: str) -> Iterator[VideoClient]:
    variables = {f"ZOETROPE_{name.upper()}": value for name, value in settings.items()}
    process = ServiceProcess(serve_command("nano", data_dir), directory / "log", {**os.environ, **variables})
    try:
        with VideoClient(process.wait_ready(READY_SECONDS).grpc) as client:
            yield client
    finally:
        process.stop()


def job_of(data_dir: Path, name: str) -> Job | None:
    """The row; None while the database does not answer."""
    with suppress(StoreError), closing(open_stores(f"sqlite:///{data_dir / 'jobs.db'}")) as stores:
        return stores.jobs.get(name.removeprefix("operations/"), "")
    return None


def waits(data_dir: Path, name: str, notice: str) -> bool:
    job = job_of(data_dir, name)
    assert job is None or not job.state.final, job
    return job is not None and job.notice == notice


def check_done(client: VideoClient, name: str, path: Path) -> None:
    status = client.wait(name)
    assert (status.state, status.attempt) == ("succeeded", 1), status.error
    client.download(name, path)
    assert status.video is not None
    assert hashlib.sha256(path.read_bytes()).hexdigest() == status.video.sha256


def test_a_bucket_that_goes_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While a picture is to be read, and while a video is to be stored."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    data, bucket = tmp_path / "data", Bucket()
    unreachable = "waiting for storage: the artifact store cannot be reached"
    store = f"s3://bucket/all?endpoint={bucket.endpoint}"
    with closing_bucket(bucket), running(tmp_path, data, artifact_store=store) as client:
        image = client.upload(picture(400, 300))
        with bucket.away():
            request = {"task": {"kind": "image_to_video", "prompt": "moving left", "image": image.name}}
            reading = client.create({**request, **SHORT, "frames": 5, "steps": 1})
            storing = client.create({"prompt": "a red circle", **SHORT, "steps": 2})
            given_up = client.create({"prompt": "a blue circle", **SHORT, "steps": 2})
            for name in (reading, storing, given_up):
                until(lambda name=name: waits(data, name, unreachable), WAIT_SECONDS)  # type: ignore[misc]
            client.cancel(given_up)
            until(lambda: client.get(given_up).state == "cancelled", 3.0)
        check_done(client, reading, tmp_path / "reading.mp4")
        check_done(client, storing, tmp_path / "storing.mp4")
        for name, steps in ((reading, 1), (storing, 2)):
            folder = f"all/jobs/{name.removeprefix('operations/')}/"
            kept = sorted(key.rpartition("/")[2] for key in bucket.keys(folder))
            assert kept == [f"preview-{steps}.webp", "video.mp4"], "nothing is left of tries"


@contextmanager
def closing_bucket(bucket: Bucket) -> Iterator[None]:
    try:
        yield
    finally:
        bucket.stop()


@contextmanager
def small_disk(folder: Path, size: int) -> Iterator[None]:
    """A file system of its own."""
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    mounted = subprocess.run(command, capture_output=True, text=True, check=False)
    if mounted.returncode:
        pytest.skip(f"no file system can be mounted here: {mounted.stderr.strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


def fill(folder: Path) -> Path:
    filler = folder / "filler"
    with filler.open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(b"\1" * 4_096)
    return filler


def test_disks_that_are_full_and_freed(tmp_path: Path) -> None:
    """That of the files in the making, and that of the finished ones."""
    data = tmp_path / "data"
    data.mkdir()
    disks = {name: tmp_path / name for name in ("scratch", "artifacts")}
    with small_disk(disks["scratch"], 8 << 20), small_disk(disks["artifacts"], DISK_BYTES):
        for name, folder in disks.items():
            (data / name).symlink_to(folder)
        with running(tmp_path, data) as client:
            for disk, notice in (
                ("scratch", "disk space: the disk is full"),
                ("artifacts", "storage: its disk is full"),
            ):
                filler = fill(disks[disk])
                name = client.create({"prompt": "a red circle", **SHORT, "steps": 2})
                until(lambda name=name, notice=notice: waits(data, name, f"waiting for {notice}"), WAIT_SECONDS)  # type: ignore[misc]
                filler.unlink()
                check_done(client, name, tmp_path / f"{disk}.mp4")
                assert not list(disks["scratch"].iterdir())
