"""Segments that leave an engine which goes on or stops in good order: nothing is made twice."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import ray

from tests.cluster.fake_router import start_engine
from tests.fixtures.random_checkpoints import write_a14b
from zoetrope.cluster.protocol.messages import Owner
from zoetrope.cluster.protocol.settings import EngineSettings
from zoetrope.model.catalog.presets import find_model
from zoetrope.model.pipeline import NOTHING, LocalPipeline, condition_span
from zoetrope.model.request.resolve import resolve
from zoetrope.model.request.specs import segment_of
from zoetrope.model.request.tasks import TextToVideo, VideoRequest

pytestmark = [pytest.mark.long, pytest.mark.usefixtures("ray_session")]


@pytest.mark.timeout(300)
def test_noise_experts_apart_and_an_engine_that_drains(router: Any, tmp_path: Path) -> None:
    write_a14b(tmp_path / "model")
    card = find_model(str(tmp_path / "model"))
    request = VideoRequest(task=TextToVideo(prompt="a red circle"), size="32x32", frames=5, steps=8, seed=1)
    spec = resolve(request, card, 0)
    local = LocalPipeline.load(card)
    expected = local.run(spec)[0]
    conditions = condition_span(local.text, local.conditioner, spec, NOTHING, 0, None)
    segment = local.denoiser.start(segment_of(spec, "s"), conditions)
    high_steps = 0
    while not local.denoiser.takes_low_noise(segment):
        local.denoiser.step([segment])
        high_steps += 1
    assert 2 <= high_steps <= 6, "both experts have work"

    settings = EngineSettings(rank_resources={"CPU": 0.5}, snapshots=str(tmp_path / "kept"))
    high = start_engine(card, router, replace(settings, role="high"))
    low = start_engine(card, router, replace(settings, role="low"))
    ray.get(router.add.remote(segment_of(spec, "s"), [ray.put(conditions)], Owner("s", 0, 1), 8, card.name))

    ray.get(router.allow.remote(1))
    ray.get(router.until_there.remote())
    assert ray.get(router.engine_of.remote("s")) == high.name()
    ray.get(high.actor.drain.remote())
    successor = start_engine(card, router, replace(settings, role="high"))
    ray.get(router.allow.remote(high_steps + 1))
    ray.get(router.until_there.remote())
    assert ray.get(router.engine_of.remote("s")) == low.name()
    ray.get(router.allow.remote(8))
    ray.get(router.until_ended.remote(1))
    ledger = ray.get(router.ledger.remote())
    assert ledger.failed == {}
    assert ledger.redone == {"s": 0}
    assert float((ledger.latents["s"] - expected).norm() / expected.norm()) < 1e-6
    for engine in (low, successor):
        engine.end()
