"""A rank that is killed before every step costs cached segments no result: they resume with their last velocity."""

from __future__ import annotations

import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import ray
import torch

from tests.cluster.fake_router import Leader, start_engine
from tests.fixtures.random_checkpoints import write_t2v
from tests.fixtures.transformer_shape import TEXT_DIM
from zoetrope.cluster.protocol.messages import Owner
from zoetrope.cluster.protocol.settings import EngineSettings
from zoetrope.model.catalog.presets import find_model
from zoetrope.model.checkpoints.load import load_denoiser
from zoetrope.model.denoising.conditions import Conditions
from zoetrope.model.request.specs import SegmentSpec

pytestmark = [pytest.mark.long, pytest.mark.usefixtures("ray_session")]
STEPS = 10
PLAIN = SegmentSpec("plain", (16, 2, 4, 4), STEPS, 3.0, 11)
FAST = replace(PLAIN, id="fast", step_mask="##..#...##", seed=3)
LATE = replace(PLAIN, id="late", step_mask="###.#.##.#", guidance_start=0.2, guidance_end=0.55, seed=4)


@pytest.mark.timeout(900)
def test_segments_killed_before_every_step_end_as_if_undisturbed(
    router: Any, engines: list[Leader], tmp_path: Path
) -> None:
    write_t2v(tmp_path / "model")
    card = find_model(str(tmp_path / "model"))
    denoiser = load_denoiser(card, torch.device("cpu"))
    positive, negative = torch.randn(2, 4, TEXT_DIM, generator=torch.Generator().manual_seed(5))
    conditions = Conditions(positive, negative)
    expected: dict[str, torch.Tensor] = {}
    for spec in (PLAIN, FAST, LATE):
        segment = denoiser.start(spec, conditions)
        while not segment.sampler.done:
            denoiser.step([segment])
        expected[spec.id] = segment.result()
        ray.get(router.add.remote(spec, [ray.put(conditions)], Owner(f"vid_{spec.id}", 0, 1), 32, card.name))
    settings = EngineSettings(ranks=2, rank_resources={"CPU": 0.5}, snapshots=str(tmp_path / "kept"), snapshot_steps=1)
    engines.append(start_engine(card, router, settings))
    name = engines[0].name()
    for step in range(1, STEPS):
        ray.get(router.allow.remote(step))
        ray.get(router.until_there.remote())
        since = float(ray.get(router.now.remote()))
        os.kill(engines[0].ranks()[step % 2].process.pid, signal.SIGKILL)
        lost = ray.get(router.until_state.remote("rebuilding", name, since))
        ray.get(router.until_state.remote("ready", name, lost.at))
    ray.get(router.allow.remote(STEPS))
    ray.get(router.until_ended.remote(len(expected)))
    ledger = ray.get(router.ledger.remote())
    assert ledger.failed == {}
    for which, latents in expected.items():
        assert torch.allclose(ledger.latents[which], latents, rtol=0, atol=1e-5), which
    assert {event.restarts.died for event in ray.get(router.events.remote())} >= {STEPS - 1}, "each kill hit a gang"
