"""An engine goes from step to step without waiting for its router, and still does what the router wants."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import ray
import torch

from tests.cluster.fake_router import start_engine
from tests.fixtures.random_checkpoints import write_t2v
from zoetrope.cluster.protocol.messages import Owner
from zoetrope.cluster.protocol.settings import EngineSettings
from zoetrope.model.catalog.presets import find_model
from zoetrope.model.pipeline import NOTHING, LocalPipeline, condition_span
from zoetrope.model.request.resolve import resolve
from zoetrope.model.request.specs import segment_of
from zoetrope.model.request.tasks import TextToVideo, VideoRequest

pytestmark = pytest.mark.usefixtures("ray_session")
TOKENS = 8


@pytest.mark.timeout(300)
def test_plans_that_come_before_a_step_ends_give_the_same(router: Any, tmp_path: Path) -> None:
    write_t2v(tmp_path / "model")
    card = find_model(str(tmp_path / "model"))
    request = VideoRequest(task=TextToVideo(prompt="a red circle"), size="32x32", frames=5, steps=30, seed=1)
    specs = {"long": resolve(request, card, 0)}
    specs |= {name: replace(specs["long"], steps=steps, seed=steps) for name, steps in (("short", 1), ("middle", 9))}
    local = LocalPipeline.load(card)
    expected = {name: local.run(spec)[0] for name, spec in specs.items()}
    conditions = {
        name: ray.put(condition_span(local.text, local.conditioner, spec, NOTHING, 0, None))
        for name, spec in specs.items()
    }
    settings = EngineSettings(rank_resources={"CPU": 0.5}, snapshots=str(tmp_path / "kept"))
    engine = start_engine(card, router, settings)
    engine.name()
    ray.get(router.allow.remote(30))
    for name, spec in specs.items():
        segment, owner = segment_of(spec, name), Owner(name, 0, 1)
        ray.get(router.add.remote(segment, [conditions[name]], owner, TOKENS, card.name))
    ray.get(router.until_ended.remote(len(specs)))
    ledger, events = ray.get([router.ledger.remote(), router.events.remote()])
    engine.end()
    assert ledger.failed == {}
    assert ledger.redone.get("long", 0) == ledger.redone.get("middle", 0) == 0
    for name, latents in expected.items():
        assert torch.allclose(ledger.latents[name], latents, rtol=0, atol=1e-5), name
    # A plan is asked for ahead in each step but the first, and what came before it is told in a message of its own.
    steps = [event.steps["long"] for event in events if event.running and "long" in event.steps]
    assert len(set(steps)) >= 20
    waited = [event for event in events if not event.running and event.steps]
    assert len(waited) <= 10, "hardly a step waits for its plan"
