"""Keys and values of text are computed once for a batch, and again when anything that enters them has changed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import pytest
import torch

from zoetrope.model.denoising.conditions import Conditions
from zoetrope.model.denoising.denoise import Denoiser, Segment
from zoetrope.model.families.config import TransformerConfig
from zoetrope.model.network.blocks import Attention
from zoetrope.model.network.transformer import WanTransformer
from zoetrope.model.request.specs import SegmentSpec

CHANNELS, TEXT_DIM, IMAGE_DIM, HINT_CHANNELS, LAYERS = 4, 12, 10, 6, 2
SCHEDULER = {"_class_name": "UniPCMultistepScheduler", "prediction_type": "flow_prediction", "use_flow_sigmas": True}
FAMILIES: dict[str, dict[str, Any]] = {
    "plain": {},
    "clip": {"in_channels": CHANNELS + 1, "image_dim": IMAGE_DIM, "added_kv_proj_dim": 24},
    "vace": {"vace_layers": (0, 1), "vace_in_channels": HINT_CHANNELS},
}


def denoiser(family: str = "plain", *, fixed: bool = True) -> Denoiser:
    torch.manual_seed(0)
    shape: dict[str, Any] = {
        "num_attention_heads": 2,
        "attention_head_dim": 12,
        "in_channels": CHANNELS,
        "out_channels": CHANNELS,
        "text_dim": TEXT_DIM,
        "freq_dim": 16,
        "ffn_dim": 32,
        "num_layers": LAYERS,
    }
    network = WanTransformer(TransformerConfig(**(shape | FAMILIES[family]))).eval().requires_grad_(not fixed)
    return Denoiser(network, SCHEDULER)


def segment(of: Denoiser, seed: int, *, steps: int = 3) -> Segment:
    generator = torch.Generator().manual_seed(seed)

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator)

    config, shape = of.transformer.config, (CHANNELS, 2, 2, 4)
    conditions = Conditions(
        random(3 + seed, TEXT_DIM),
        random(2, TEXT_DIM),
        known=random(*shape),
        known_frames=torch.tensor([True, False]),
        channels=random(1, *shape[1:]) if config.image_dim else None,
        image=random(4, IMAGE_DIM) if config.image_dim else None,
        hints=random(HINT_CHANNELS, *shape[1:]) if config.vace_layers else None,
        hint_scales=(1.0, 0.5) if config.vace_layers else (),
    )
    return of.start(SegmentSpec(str(seed), shape, steps, 2.0, seed), conditions)


@contextmanager
def counted() -> Iterator[list[int]]:
    """Count the texts for which keys and values are computed ahead of a layer."""
    rows: list[int] = []
    remember = Attention.remember

    def count(self: Attention, text: torch.Tensor, *beside: Any) -> Any:
        rows.append(len(text))
        return remember(self, text, *beside)

    with patch.object(Attention, "remember", count):
        yield rows


@pytest.mark.parametrize("family", FAMILIES)
def test_results_are_bitwise_those_of_a_network_that_remembers_nothing(family: str) -> None:
    results = []
    for fixed in (True, False):
        of = denoiser(family, fixed=fixed)
        segments = [segment(of, 1), segment(of, 2, steps=4)]
        with counted() as rows:
            while running := [s for s in segments if not s.sampler.done]:
                of.step(running)
        layers = LAYERS + len(of.transformer.config.vace_layers)
        assert rows == ([4 + 2 + 5 + 2] * layers + [5 + 2] * layers if fixed else []), "once for each batch"
        results.append([s.result() for s in segments])
    for remembered, computed in zip(*results, strict=True):
        assert torch.equal(remembered, computed)


def test_changed_weights_and_other_texts_are_noticed() -> None:
    of = denoiser()
    network = of.transformer
    assert isinstance(network, WanTransformer)
    weight = network.condition_embedder.text_embedder.linear_1.weight
    with counted() as rows:
        of.step([segment(of, 1)])
        of.step([segment(of, 1)])  # equal, but another tensor
        again = segment(of, 1)
        of.step([again])
        of.step([again])
        with torch.no_grad():
            weight.mul_(2)
        of.step([again])
    assert rows == [4 + 2] * LAYERS * 4
