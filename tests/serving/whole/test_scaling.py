"""Engines come with the work and go with it: from none to two and back to none, and no step of any job is lost."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import torch
from prometheus_client.parser import text_string_to_metric_families
from safetensors.torch import load_file

from tests.serving.gateway.harness import until
from tests.serving.whole.service import Service
from zoetrope.model.catalog.presets import find_model
from zoetrope.model.pipeline import LocalPipeline
from zoetrope.model.request.resolve import resolve
from zoetrope.model.request.tasks import TextToVideo, VideoRequest

pytestmark = [pytest.mark.long, pytest.mark.timeout(600)]

PROMPT = "a red circle moving right"
REQUEST = {"prompt": PROMPT, "frames": 9, "duration_seconds": None, "keep_latents": True}
JOBS, STEPS = 6, 120
SETTINGS = {
    "MIN_ENGINES": "0",
    "MAX_ENGINES": "2",
    "SCALE_TARGET_SECONDS": "2",  # the jobs take many times that
    "SCALE_UP_SECONDS": "0.5",
    "SCALE_DOWN_SECONDS": "2",
    "DECODERS": "2",
    "HELD_LATENTS_BYTES": "0",  # all latents go through the artifact store
}


@pytest.fixture(scope="module")
def sleeper(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    before = dict(os.environ)
    os.environ.update({f"ZOETROPE_{name}": value for name, value in SETTINGS.items()})
    try:
        made = Service(tmp_path_factory.mktemp("sleeper"))
    finally:
        os.environ.clear()
        os.environ.update(before)
    yield made
    made.stop()


def metric(service: Service, name: str, label: str) -> float:
    text = httpx.get(f"http://{service.addresses.http}/metrics").text
    samples = [s for family in text_string_to_metric_families(text) for s in family.samples]
    return next(s.value for s in samples if s.name == name and label in s.labels.values())


def engines(service: Service) -> float:
    return metric(service, "zoetrope_engines", "ready")


def local(seed: int) -> torch.Tensor:
    card = find_model("nano")
    request = VideoRequest(task=TextToVideo(prompt=PROMPT), frames=9, steps=STEPS, seed=seed)
    spec = resolve(request, card, seed)
    return LocalPipeline.load(card).run(spec)[0]


def test_from_none_to_two_and_back(sleeper: Service, tmp_path: Path) -> None:
    until(lambda: engines(sleeper) == 0, 90)
    assert httpx.get(f"http://{sleeper.addresses.http}/readyz").status_code == 200, "it takes jobs in its sleep"
    names = [sleeper.client.create({**REQUEST, "steps": STEPS, "seed": seed}) for seed in range(JOBS)]
    assert metric(sleeper, "zoetrope_queued_gpu_seconds", "nano") >= 0
    assert metric(sleeper, "zoetrope_desired_engines", "Engine") >= 1
    until(lambda: engines(sleeper) == 2, 120)
    statuses = [sleeper.client.wait(name, 300) for name in names]
    assert [(status.state, status.attempt) for status in statuses] == [("succeeded", 1)] * JOBS
    until(lambda: engines(sleeper) == 0, 120)
    for seed in (0, JOBS - 1):
        path = tmp_path / f"{seed}.safetensors"
        sleeper.client.download(names[seed], path, artifact="latents")
        assert torch.allclose(load_file(path)["latents"], local(seed), rtol=0, atol=1e-3)
    assert not list((sleeper.directory / "data" / "artifacts").rglob("*.npy")), "nothing spilled is left"
