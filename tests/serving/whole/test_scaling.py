"""Engines come with the work and go with it: from none to two and back to none, and no step of any job is lost."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import closing

import httpx
import pytest
import torch
from prometheus_client.parser import text_string_to_metric_families
from safetensors.torch import load_file

from tests.serving.gateway.harness import until
from tests.serving.jobs.harness import LIMITS, new_job
from tests.serving.whole.service import Service
from zoetrope.model.catalog.presets import find_model
from zoetrope.model.pipeline import LocalPipeline
from zoetrope.model.request.resolve import resolve
from zoetrope.model.request.specs import VideoSpec
from zoetrope.model.request.tasks import TextToVideo, VideoRequest
from zoetrope.serving.jobs.job import State
from zoetrope.serving.jobs.open import open_stores

pytestmark = [pytest.mark.long, pytest.mark.timeout(900)]

CARD = find_model("nano")
STEPS = 150
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


def spec_of(steps: int) -> VideoSpec:
    request = VideoRequest(
        task=TextToVideo(prompt="a red circle moving right"), frames=9, steps=steps, seed=5, keep_latents=True
    )
    return resolve(request, CARD, 5)


def test_from_none_to_two_and_back(sleeper: Service) -> None:
    directory = sleeper.directory / "data"
    with closing(open_stores(f"sqlite:///{directory / 'jobs.db'}")) as stores:
        until(lambda: engines(sleeper) == 0, 150)
        assert httpx.get(f"http://{sleeper.addresses.http}/readyz").status_code == 200, "it takes jobs in its sleep"
        for name, steps, price in (("small", STEPS, 0.0), ("large", 1_000, 1e4)):
            spec = spec_of(steps).to_dict()
            stores.jobs.create(new_job(name, spec=spec, steps=steps, price=price), LIMITS)
        assert metric(sleeper, "zoetrope_queued_gpu_seconds", "nano") == 1e4
        assert metric(sleeper, "zoetrope_desired_engines", "Engine") == 2
        until(lambda: engines(sleeper) == 2, 240)
        stores.jobs.request_cancel("large", "")
        until(lambda: engines(sleeper) <= 1, 120)
        job = until(lambda: found if (found := stores.jobs.get("small", "")) and found.state.final else None, 240)
        assert job is not None
        assert (job.state, job.attempt) == (State.SUCCEEDED, 1), job.error_message
        until(lambda: engines(sleeper) == 0, 120)
    assert job.result is not None
    made = load_file(directory / "artifacts" / job.result["latents"]["key"])["latents"]
    assert torch.allclose(made, LocalPipeline.load(CARD).run(spec_of(STEPS))[0], rtol=0, atol=1e-3)
    assert not list((directory / "artifacts").rglob("*.npy")), "nothing spilled is left"
