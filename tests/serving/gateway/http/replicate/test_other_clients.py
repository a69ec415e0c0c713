"""Replicate's clients for Node, and of version 2 for Python, against a gateway that wants keys."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from tests.node.run import run_node
from tests.serving.gateway.harness import ROOT, Service, running_service, until
from tests.serving.gateway.http.replicate.kit import VIDEO, fail, router, succeed
from tests.serving.gateway.http.samples import clip, picture
from zoetrope.serving.jobs.job import Job, Stage, State
from zoetrope.serving.outbound import Guard
from zoetrope.serving.sweeper.sender import Sender

LOOPBACK = ("127.0.0.0/8",)


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    directory = tmp_path_factory.mktemp("clients")
    with running_service(directory, model="nano", keys="required", allow_networks=LOOPBACK) as service:
        yield service


def act(service: Service, job: Job) -> None:
    """End a job as its prompt says."""
    prompt = job.spec["task"]["prompt"]
    if prompt == "fail":
        fail(service, job)
    elif prompt == "hold":
        until(lambda: service.store.get_many([job.id])[job.id].cancel_requested)
        assert service.store.finish(job.id, job.lease_epoch, State.CANCELLED)
    else:
        service.progress(job, Stage.DENOISING, job.steps, 0.0)
        succeed(service, job)


@contextmanager
def webhooks(service: Service) -> Iterator[None]:
    """Deliver webhooks as the sweeper does."""
    done = threading.Event()

    async def send() -> None:
        sender = Sender(service.stores, Guard(allow=LOOPBACK), service.http)
        while not done.is_set():
            await sender.send_due()
            await asyncio.sleep(0.05)
        await sender.drain()

    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(lambda: asyncio.run(send()))
        try:
            yield
        finally:
            done.set()
            future.result(timeout=10)


def test_npm_replicate(service: Service, tmp_path: Path) -> None:
    token = service.stores.keys.create("ada", "ada")[1]
    path = tmp_path / "clip.mp4"
    path.write_bytes(clip(2.0))
    with router(service, act) as jobs, webhooks(service):
        seen = run_node("replicate", BASE_URL=service.http, TOKEN=token, CLIP=str(path), FOLDER=str(tmp_path))
    video = base64.b64encode(VIDEO).decode()

    assert (tmp_path / "run.mp4").read_bytes() == VIDEO
    assert seen["states"][-1] == "succeeded"
    assert seen["edited"] == seen["encoded"] == seen["versioned"] == seen["fetched"] == video
    assert seen["text"] == f"data:video/mp4;base64,{video}"
    assert seen["failed"]["message"] == "Prediction failed: the picture fell off the wall"
    edits = [job for job in jobs if job.spec["task"]["kind"] == "edit_video"]
    assert [job.spec["frames"] for job in edits] == [16, 16]  # the two seconds that were uploaded

    file = seen["file"]
    assert (file["made"]["size"], file["made"]["content_type"]) == (path.stat().st_size, "video/mp4")
    assert file["made"] == file["found"]
    assert file["made"] in file["listed"]
    assert file["deleted"]

    done = seen["done"]
    assert (done["status"], done["model"]) == ("succeeded", "wan-video/wan-2.2-t2v-fast")
    assert "go_fast changes nothing" in done["logs"]
    assert "output is the file itself" in done["logs"]
    assert seen["progress"]["percentage"] == 1
    assert seen["canceled"] == "canceled"
    listed = {item["id"]: item["output"] for item in seen["listed"]}
    assert list(listed) == [job.id for job in service.store.list("ada", page_size=100)][-len(listed) :]
    assert httpx.get(listed[done["id"]]).content == VIDEO  # without a key

    assert "nano" in seen["models"]
    assert seen["same"]
    assert seen["account"] == "ada"
    assert seen["webhook"] == {"right": True, "wrong": False, "same": True, "output": video}

    assert seen["vercel"] == video
    spec = jobs[-1].spec
    assert [spec[name] for name in ("width", "height", "frames", "fps", "seed", "steps")] == [832, 480, 16, 8, 3, 4]

    errors = seen["errors"]
    assert {name: error["status"] for name, error in errors.items()} == {
        **{"field": 422, "model": 404, "prediction": 404, "path": 404, "method": 405, "key": 401, "stream": None}
    }
    assert "input.fps: 999 must be" in errors["field"]["message"]
    assert "wan-video/nano" in errors["model"]["message"]


def test_replicate_2(service: Service, tmp_path: Path) -> None:
    beside = Path(sys.prefix) / "replicate-2"  # `make test` puts it there
    if not beside.is_dir():
        pytest.skip(f"replicate 2 is not at {beside}")
    path = tmp_path / "a.png"
    path.write_bytes(picture())
    env = {
        "PYTHONPATH": f"{beside}{os.pathsep}{ROOT}",
        "REPLICATE_BASE_URL": f"{service.http}/v1",  # version 1 adds the /v1 itself
        "REPLICATE_API_TOKEN": service.stores.keys.create("bob", "bob")[1],
        "REPLICATE_POLL_INTERVAL": "0.05",
        "TMPDIR": str(tmp_path),
    }
    with router(service, act):
        done = subprocess.run(
            [sys.executable, "-m", "tests.serving.gateway.http.replicate.replicate_2_async", str(path)],
            env={**os.environ, **env},
            capture_output=True,
            text=True,
            timeout=100,
            check=False,
        )
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout.splitlines()[-1])
    video = base64.b64encode(VIDEO).decode()
    assert seen["ran"] == seen["with_file"] == video
    assert seen["uploaded"] == path.stat().st_size
    assert httpx.get(seen["output"]).content == VIDEO  # without a key
    assert len(seen["listed"]) == 3
    assert seen["canceled"] == "canceled"
    assert "nano" in seen["models"]
    assert seen["refused"][0] == 422
    assert "input.fps: 999 must be" in seen["refused"][1]
    assert seen["used"] == [".mp4", video]
