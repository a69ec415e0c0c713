"""What a rank does with the adapters of its segments: reads them once, keeps some, and loads none that was removed."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.fixtures.adapters import changes
from zoetrope.cluster.engine.adapters import AdapterGone, AdapterUnavailable, RankAdapters
from zoetrope.cluster.protocol.settings import EngineSettings
from zoetrope.model.adapters.registered import write_registered
from zoetrope.model.denoising.denoise import Denoiser
from zoetrope.model.families.config import TransformerConfig
from zoetrope.model.network.transformer import WanTransformer
from zoetrope.model.request.loras import AdapterUse

SCHEDULER = {"_class_name": "UniPCMultistepScheduler", "prediction_type": "flow_prediction", "use_flow_sigmas": True}


@pytest.fixture
def denoiser() -> Denoiser:
    torch.manual_seed(0)
    shape: dict[str, Any] = {"num_attention_heads": 2, "attention_head_dim": 12, "in_channels": 4, "out_channels": 4}
    config = TransformerConfig(**shape, text_dim=12, freq_dim=16, ffn_dim=32, num_layers=1)
    return Denoiser(WanTransformer(config).eval().requires_grad_(False), SCHEDULER)


def stored(denoiser: Denoiser, folder: Path, seed: int) -> AdapterUse:
    path = folder / "adapters" / f"{seed}"
    path.parent.mkdir(exist_ok=True)
    write_registered(path, [("any", patch) for patch in changes(denoiser.transformer, seed, 4).values()])
    return AdapterUse(f"a{seed}", f"adapters/{seed}", hashlib.sha256(path.read_bytes()).hexdigest(), 4)


def test_adapters_are_kept_up_to_a_size_and_read_ahead(denoiser: Denoiser, tmp_path: Path) -> None:
    first, second, third = (stored(denoiser, tmp_path, seed) for seed in range(3))
    settings = EngineSettings(adapters=str(tmp_path), adapter_slots=1, adapter_rank=16)
    ranks = RankAdapters(denoiser, settings, two_experts=False, limit_bytes=1)
    gone = replace(third, key="adapters/none", digest="none")
    ranks.prefetch([first, gone, first])
    ranks.hold("x", [first])
    assert denoiser.adapters is not None and denoiser.adapters.holds((first.digest,))
    with pytest.raises(AdapterUnavailable, match="all 1 adapter slots are in use"):
        ranks.hold("y", [second])
    ranks.release("x")
    ranks.hold("y", [second])
    assert denoiser.adapters.holds((second.digest,))
    with pytest.raises(AdapterGone, match=r"^its adapter a2 was removed$"):
        ranks.hold("z", [gone])


def test_what_was_removed_is_not_loaded_although_it_was_read(denoiser: Denoiser, tmp_path: Path) -> None:
    use = stored(denoiser, tmp_path, 1)
    settings = EngineSettings(adapters=str(tmp_path), adapter_rank=16)
    ranks = RankAdapters(denoiser, settings, two_experts=False)
    ranks.hold("x", [use])
    (tmp_path / use.key).unlink()
    with pytest.raises(AdapterGone, match="its adapter a1 was removed"):
        ranks.hold("y", [use])
    with pytest.raises(RuntimeError, match="segment y: its adapters are not loaded"):
        assert denoiser.adapters is not None
        denoiser.adapters.use("y", [use], False)


def test_an_adapter_that_is_too_large_or_changed_is_refused(denoiser: Denoiser, tmp_path: Path) -> None:
    use = stored(denoiser, tmp_path, 1)
    ranks = RankAdapters(denoiser, EngineSettings(adapters=str(tmp_path), adapter_rank=16), two_experts=False)
    many = [use] * 5
    with pytest.raises(AdapterGone, match=r"adapters of rank 4 \+ 4 \+ 4 \+ 4 \+ 4 in a slot of rank 16"):
        ranks.hold("x", many)
    with pytest.raises(AdapterGone, match="the file of its adapter a1 has changed since it was registered"):
        ranks.hold("x", [replace(use, digest="other")])
    without = RankAdapters(denoiser, EngineSettings(adapter_slots=0, adapters=str(tmp_path)), two_experts=False)
    with pytest.raises(AdapterGone, match="this service has no slots for adapters"):
        without.hold("x", [use])
    without.hold("x", [])
