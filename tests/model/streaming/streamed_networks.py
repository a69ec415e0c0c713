"""Small networks of every kind, whole and streamed, and what they denoise."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from tests.model.streaming.hazards import HazardCopies, Watched
from zoetrope.model.catalog.checkpoint_layout import RandomWeights
from zoetrope.model.checkpoints.random_weights import random_network
from zoetrope.model.denoising.conditions import Conditions
from zoetrope.model.denoising.denoise import Denoiser, Segment
from zoetrope.model.families.config import MoEConfig, TransformerConfig
from zoetrope.model.network.protocol import Network
from zoetrope.model.request.quantize import Quantize
from zoetrope.model.request.specs import SegmentSpec
from zoetrope.model.streaming.loading import StreamedLoading, WeightRoom
from zoetrope.model.streaming.store import BlockStore

CPU = torch.device("cpu")
CHANNELS, TEXT_DIM, IMAGE_DIM, HINT_CHANNELS = 4, 12, 10, 6
SCHEDULER = {"_class_name": "UniPCMultistepScheduler", "prediction_type": "flow_prediction", "use_flow_sigmas": True}
SHAPE: dict[str, Any] = {
    "num_attention_heads": 2,
    "attention_head_dim": 12,
    "in_channels": CHANNELS,
    "out_channels": CHANNELS,
    "text_dim": TEXT_DIM,
    "freq_dim": 16,
    "ffn_dim": 64,
    "num_layers": 12,
}
MOE = MoEConfig(layers=(2, 3, 4, 7), num_experts=4, top_k=2, expert_dim=32, shared_dim=16)
KINDS: dict[str, dict[str, Any]] = {
    "dense": {},
    "odd": {"num_layers": 11},
    "clip": {"in_channels": CHANNELS + 1, "image_dim": IMAGE_DIM, "added_kv_proj_dim": 24},
    "vace": {"vace_layers": (0, 4, 8), "vace_in_channels": HINT_CHANNELS},
    "experts": {"moe": MOE},
}


def config_of(kind: str) -> TransformerConfig:
    return TransformerConfig(**(SHAPE | KINDS[kind]))


def network(
    kind: str,
    seed: int = 0,
    *,
    quantize: Quantize = "none",
    dtype: torch.dtype = torch.float32,
    loading: StreamedLoading | None = None,
) -> Network:
    how = RandomWeights(seed=seed, std=0.1)
    return random_network(config_of(kind), CPU, dtype, how, quantize=quantize, streaming=loading)


@dataclass
class Streamed:
    """Networks whose layers are streamed, with the copies' log."""

    networks: list[Network]
    copies: HazardCopies
    store: BlockStore
    loading: StreamedLoading
    watched: Watched

    def host_of(self) -> dict[int, int]:
        return {id(layer): unit.host.data_ptr() for layer, unit in self.store._units.items()}


def streamed(
    kind: str,
    copies: HazardCopies,
    room: int = 0,
    *,
    pair: bool = False,
    quantize: Quantize = "none",
    dtype: torch.dtype = torch.float32,
) -> Streamed:
    loading = StreamedLoading(WeightRoom(room, 2 if pair else 1), CPU, lambda device: copies)
    seeds = (0, 1) if pair else (0,)
    networks = [network(kind, seed, quantize=quantize, dtype=dtype, loading=loading) for seed in seeds]
    store = loading.finish()
    assert store is not None and loading.split is not None
    layers = [layer for made in networks for layer in made.layers()]
    watched = Watched(store, copies, [layer for layer in layers if layer in store._units])
    for made in networks:
        made.arrivals = watched
    return Streamed(networks, copies, store, loading, watched)


def denoiser(networks: list[Network]) -> Denoiser:
    return Denoiser(networks[0], SCHEDULER, networks[1] if len(networks) > 1 else None, 0.8)


def segment(of: Denoiser, seed: int, steps: int = 3) -> Segment:
    generator = torch.Generator().manual_seed(seed)

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator)

    config, shape = of.transformer.config, (CHANNELS, 2, 2, 4)
    conditions = Conditions(
        random(3 + seed, TEXT_DIM),
        random(2, TEXT_DIM),
        channels=random(1, *shape[1:]) if config.image_dim else None,
        image=random(4, IMAGE_DIM) if config.image_dim else None,
        hints=random(HINT_CHANNELS, *shape[1:]) if config.vace_layers else None,
        hint_scales=(1.0, 0.5, 0.7) if config.vace_layers else (),
    )
    return of.start(SegmentSpec(str(seed), shape, steps, 2.0, seed), conditions)


def latents(networks: list[Network]) -> list[torch.Tensor]:
    """Denoise two segments, of which one joins later and one takes more steps."""
    of = denoiser(networks)
    first, second = segment(of, 1, 3), segment(of, 2, 4)
    of.step([first])
    while running := [s for s in (first, second) if not s.sampler.done]:
        of.step(running)
    return [first.result(), second.result()]
