"""Two models behind one endpoint and one engine: jobs go to their model, loaded on demand, and none is lost."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from tests.fixtures.random_checkpoints import write_i2v
from tests.serving.gateway.harness import until
from zoetrope.model.catalog.presets import find_model
from zoetrope.model.pipeline import LocalPipeline
from zoetrope.model.request.resolve import resolve
from zoetrope.model.request.tasks import ModelCard, parse_request
from zoetrope.serving.cli.service import Addresses, ServiceProcess, serve_command
from zoetrope.serving.client import ClientError, VideoClient
from zoetrope.serving.media.task_inputs import examine, load

pytestmark = [pytest.mark.long, pytest.mark.timeout(1_800)]

READY_SECONDS = 600.0
JOB_SECONDS = 600.0
SEED = 7
SHARED_ERROR = 1e-5  # of latents whose steps were shared with another job's
WORDS: dict[str, Any] = {"prompt": "a red circle moving right", "duration_seconds": 1.0, "steps": 4}


@dataclass(frozen=True)
class Endpoint:
    """The service, and what it was given."""

    process: ServiceProcess
    addresses: Addresses
    client: VideoClient
    tiny: ModelCard
    picture: Path

    def words(self, **changes: Any) -> dict[str, Any]:
        """A request for nano."""
        return {**WORDS, "seed": SEED, "keep_latents": True, **changes}

    def moving(self, **changes: Any) -> dict[str, Any]:
        """A request that only the other model can make, as nano is not asked for."""
        task = {"kind": "image_to_video", "prompt": "it moves", "image": str(self.picture)}
        fields = {"model": "sora-2", "size": "96x64", "frames": 9, "steps": 4, "seed": SEED, "keep_latents": True}
        return {"task": task, **fields, **changes}

    def engines(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = httpx.get(f"http://{self.addresses.http}/dashboard/state", timeout=30).json()[
            "engines"
        ]
        return found

    def processes(self, name: str) -> list[psutil.Process]:
        found = []
        for process in psutil.Process(self.process.pid).children(recursive=True):
            with contextlib.suppress(psutil.Error):
                if name in " ".join(process.cmdline()):
                    found.append(process)
        return found

    def latents(self, name: str, path: Path) -> torch.Tensor:
        self.client.download(name, path, artifact="latents")
        return load_file(path)["latents"]


@pytest.fixture(scope="module")
def endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Endpoint]:
    directory = tmp_path_factory.mktemp("two-models")
    write_i2v(directory / "tiny-i2v")
    picture = directory / "picture.png"
    pixels = np.random.default_rng(SEED).integers(0, 255, (64, 96, 3), np.uint8)
    Image.fromarray(pixels).save(picture)
    command = [*serve_command("nano", directory / "data"), "--model", str(directory / "tiny-i2v")]
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "GOMP_"))}
    environment["ZOETROPE_SERVED_MODEL_NAME"] = "sora-2=tiny-i2v"
    process = ServiceProcess(command, directory / "log", environment)
    try:
        addresses = process.wait_ready(READY_SECONDS)
        with VideoClient(addresses.grpc) as client:
            yield Endpoint(process, addresses, client, find_model(str(directory / "tiny-i2v")), picture)
    finally:
        process.stop()


def alone(card: ModelCard, request: dict[str, Any]) -> torch.Tensor:
    """What a model makes of a request where it is the only one."""
    fields = dict(request)
    fields.pop("model", None)
    if "prompt" in fields:
        fields["task"] = {"kind": "text_to_video", "prompt": fields.pop("prompt")}
    parsed = parse_request(fields)
    media = examine(parsed.task)
    spec = resolve(parsed, card, 0, media)
    (latents,) = LocalPipeline.load(card).run(spec, load(spec, card, media))
    return latents


def test_tasks_are_routed_and_models_loaded_on_demand(endpoint: Endpoint, tmp_path: Path) -> None:
    client = endpoint.client
    assert [(model.name, model.aliases) for model in client.models()] == [("nano", ()), ("tiny-i2v", ("sora-2",))]
    asked = [endpoint.words(), endpoint.moving(), endpoint.words(steps=6), endpoint.moving(steps=3)]
    names = [client.create(request) for request in asked]
    statuses = [client.wait(name, JOB_SECONDS) for name in names]
    assert [(s.state, s.model) for s in statuses] == 2 * [("succeeded", "nano"), ("succeeded", "tiny-i2v")]
    for name, request in zip(names, asked, strict=True):
        card = endpoint.tiny if "task" in request else find_model("nano")
        made = endpoint.latents(name, tmp_path / "latents.safetensors")
        assert (made - alone(card, request)).abs().max() <= SHARED_ERROR, request


def test_a_request_that_names_no_model_goes_to_the_first_that_has_its_task(endpoint: Endpoint) -> None:
    name = endpoint.client.create(endpoint.moving(model="", steps=1))
    assert endpoint.client.get(name).model == "nano"
    endpoint.client.cancel(name)


def test_a_model_that_is_not_served_is_refused(endpoint: Endpoint) -> None:
    with pytest.raises(ClientError, match="'wan9' is not served here; served: nano, tiny-i2v, sora-2"):
        endpoint.client.create(endpoint.words(model="wan9"))


@pytest.mark.parametrize("killed", ["ray::RankProcess", "ServeReplica:zoetrope:Engine", "ServeReplica:zoetrope:Router"])
def test_no_job_is_lost_while_a_model_is_swapped(endpoint: Endpoint, killed: str, tmp_path: Path) -> None:
    """The process is killed while the engine loads the model of the second job; the first one was in its steps."""
    client = endpoint.client
    until(lambda: any(engine["state"] == "ready" for engine in endpoint.engines()), JOB_SECONDS)
    here = next(engine["model"] for engine in endpoint.engines() if engine["state"] == "ready")
    asked = [endpoint.words(), endpoint.moving()]
    if here != "nano":
        asked.reverse()
    names = [client.create(request) for request in asked]
    until(lambda: any(engine["state"] == "loading" for engine in endpoint.engines()), JOB_SECONDS)
    (process, *_) = until(lambda: endpoint.processes(killed), JOB_SECONDS)
    process.kill()
    statuses = [client.wait(name, JOB_SECONDS) for name in names]
    assert [status.state for status in statuses] == ["succeeded", "succeeded"]
    for name, request in zip(names, asked, strict=True):
        card = endpoint.tiny if "task" in request else find_model("nano")
        made = endpoint.latents(name, tmp_path / "latents.safetensors")
        assert (made - alone(card, request)).abs().max() <= SHARED_ERROR
