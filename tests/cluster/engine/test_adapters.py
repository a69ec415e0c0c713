"""A rank that is killed costs segments with adapters some steps; one whose adapter is gone by then fails by name."""

from __future__ import annotations

import hashlib
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import ray
import torch

from tests.cluster.fake_router import Leader, start_engine
from tests.fixtures.adapters import changes
from tests.fixtures.random_checkpoints import write_t2v
from tests.fixtures.transformer_shape import TEXT_DIM
from zoetrope.cluster.protocol.messages import Owner
from zoetrope.cluster.protocol.settings import EngineSettings
from zoetrope.model.adapters.registered import read_registered, write_registered
from zoetrope.model.adapters.slots import AdapterSlots
from zoetrope.model.catalog.presets import find_model
from zoetrope.model.checkpoints.load import load_denoiser
from zoetrope.model.denoising.conditions import Conditions
from zoetrope.model.request.loras import AdapterUse
from zoetrope.model.request.specs import SegmentSpec

pytestmark = [pytest.mark.long, pytest.mark.usefixtures("ray_session")]
STEPS = 8
# Of each segment: adapters with strengths.
WISHES = {"one": (("ink", 1.0),), "two": (("oil", 0.5), ("ink", -1.0)), "other": (("oil", 1.0),), "none": ()}


@pytest.mark.timeout(600)
def test_segments_resume_with_their_adapters_or_fail_by_name(
    router: Any, engines: list[Leader], tmp_path: Path
) -> None:
    write_t2v(tmp_path / "model")
    card = find_model(str(tmp_path / "model"))
    denoiser = load_denoiser(card, torch.device("cpu"))
    folder = tmp_path / "storage" / "adapters"
    folder.mkdir(parents=True)
    slots = denoiser.adapters = AdapterSlots({"any": denoiser.transformer}, 4, 64)
    uses, adapters = {}, {}
    for seed, name in enumerate(("ink", "oil")):
        write_registered(folder / name, [("any", p) for p in changes(denoiser.transformer, seed, 4).values()])
        digest = hashlib.sha256((folder / name).read_bytes()).hexdigest()
        uses[name] = AdapterUse(name, f"adapters/{name}", digest, 4)
        adapters[name] = read_registered((folder / name).read_bytes(), digest)
    positive, negative = torch.randn(2, 4, TEXT_DIM, generator=torch.Generator().manual_seed(5))
    conditions = Conditions(positive, negative)
    expected: dict[str, torch.Tensor] = {}
    for seed, (name, wish) in enumerate(WISHES.items()):
        loras = tuple(AdapterUse(n, uses[n].key, uses[n].digest, 4, strength) for n, strength in wish)
        spec = SegmentSpec(name, (16, 2, 4, 4), STEPS, 2.0, seed, loras=loras)
        if loras:
            slots.acquire(name, [adapters[lora.name] for lora in loras])
        segment = denoiser.start(spec, conditions)
        while not segment.sampler.done:
            denoiser.step([segment])
        expected[name] = segment.result()
        ray.get(router.add.remote(spec, [ray.put(conditions)], Owner(f"vid_{name}", 0, 1), 32, card.name))
    settings = EngineSettings(
        ranks=2,
        rank_resources={"CPU": 0.5},
        snapshots=str(tmp_path / "kept"),
        snapshot_steps=1,
        adapters=str(tmp_path / "storage"),
    )
    engines.append(start_engine(card, router, settings))
    ray.get(router.allow.remote(3))
    ray.get(router.until_there.remote())
    os.kill(engines[0].ranks()[1].process.pid, signal.SIGKILL)
    ray.get(router.allow.remote(5))
    ray.get(router.until_there.remote())
    assert ray.get(router.ledger.remote()).failed == {}, "all have resumed with their adapters"
    (folder / "ink").unlink()
    os.kill(engines[0].ranks()[0].process.pid, signal.SIGKILL)
    ray.get(router.allow.remote(STEPS))
    ray.get(router.until_ended.remote(len(WISHES)))
    ledger = ray.get(router.ledger.remote())
    assert ledger.failed == {"one": "its adapter ink was removed", "two": "its adapter ink was removed"}
    for name in ("other", "none"):
        assert torch.allclose(ledger.latents[name], expected[name], rtol=0, atol=1e-5), name
