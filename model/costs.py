"""What a model costs: parameters, tokens of a clip, FLOPs of a step, bytes on each rank.

Counts of parameters are those of the real network on the meta device. FLOPs count a multiply-add as two and only matrix
products and attention; what is left out (norms, RoPE, modulation) is below one per cent at any served size.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import torch

from model.config import TransformerConfig
from model.family import AutoencoderKind, Preset
from model.transformer import WanTransformer
from model.weights import EXPERT_STACKS, FLOAT32_MODULES

TEXT_TOKENS = 512
BYTES = 2  # of a weight or an activation in bfloat16


@dataclass(frozen=True)
class ParameterCount:
    """Of one transformer. ``experts`` are those of the token-routed stacks; a token uses ``active``."""

    total: int
    active: int
    experts: int


@dataclass(frozen=True)
class ForwardCost:
    """FLOPs of one forward of one sequence: products with weights, self-attention, and what the text takes."""

    products: float
    attention: float
    text: float

    @property
    def total(self) -> float:
        return self.products + self.attention + self.text


@dataclass(frozen=True)
class RankMemory:
    """Bytes on each rank of a gang: exact for the weights, an estimate for the activations."""

    weights: int
    activations: int


@dataclass(frozen=True)
class ClipCost:
    """A clip of one size and length on one preset. A step is all guidance branches of one clip."""

    frames: int
    tokens: int
    forwards: int
    step_flops: float
    memory: RankMemory


def network_shapes(config: TransformerConfig) -> dict[str, tuple[int, ...]]:
    """Name and shape of every tensor of the network."""
    parameters, buffers = _shapes(config)
    return {**parameters, **buffers}


def count_parameters(config: TransformerConfig) -> ParameterCount:
    """Total and active for each token; buffers such as the balance bias of a router do not count."""
    parameters, _ = _shapes(config)
    total = sum(math.prod(shape) for shape in parameters.values())
    experts = sum(math.prod(shape) for name, shape in parameters.items() if EXPERT_STACKS.search(name))
    moe = config.moe
    unused = experts * (moe.num_experts - moe.top_k) // moe.num_experts if moe is not None else 0
    return ParameterCount(total, total - unused, experts)


@lru_cache(maxsize=32)
def _shapes(config: TransformerConfig) -> tuple[dict[str, tuple[int, ...]], dict[str, tuple[int, ...]]]:
    """Of parameters and of buffers."""
    with torch.device("meta"):
        network = WanTransformer(config)
    return (
        {name: tuple(parameter.shape) for name, parameter in network.named_parameters()},
        {name: tuple(buffer.shape) for name, buffer in network.named_buffers()},
    )


def frames_of(seconds: float, fps: int, temporal: int = 4) -> int:
    """The nearest number of frames that is 1 modulo ``temporal``."""
    return temporal * round(seconds * fps / temporal) + 1


def tokens_of(width: int, height: int, frames: int, vae: AutoencoderKind, patch: tuple[int, int, int]) -> int:
    """Of a clip of pixels; sides that the stride does not divide are rounded up, as sizes are when they are served."""
    side = vae.spatial
    latent_frames = 1 + (frames - 1) // vae.temporal
    return (
        math.ceil(latent_frames / patch[0])
        * math.ceil(height / (side * patch[1]))
        * math.ceil(width / (side * patch[2]))
    )


def forward_cost(config: TransformerConfig, tokens: int, text_tokens: int = TEXT_TOKENS) -> ForwardCost:
    """One forward of one sequence of ``tokens``."""
    dim, layers = config.dim, config.num_layers
    patch = math.prod(config.patch_size)
    moe = config.moe
    routed = len(moe.layers) if moe is not None else 0
    weights = layers * 6 * dim * dim + (layers - routed) * 2 * dim * config.ffn_dim
    if moe is not None:
        hidden = moe.top_k * moe.expert_dim + moe.shared_dim
        weights += routed * (2 * dim * hidden + dim * moe.num_experts)
    weights += patch * (config.in_channels + config.out_channels) * dim
    hinted = len(config.vace_layers)
    if hinted:
        weights += hinted * (6 * dim * dim + 2 * dim * config.ffn_dim + dim * dim) + dim * dim
        weights += patch * config.vace_in_channels * dim
    blocks = layers + hinted
    text = blocks * (4.0 * tokens * text_tokens * dim + 4.0 * text_tokens * dim * dim)
    text += 2.0 * text_tokens * (config.text_dim * dim + dim * dim)
    return ForwardCost(2.0 * tokens * weights, 4.0 * tokens * tokens * dim * blocks, text)


def expert_flops(config: TransformerConfig, tokens: int) -> float:
    """The part of a forward's products that routed experts make, without routers and shared experts."""
    moe = config.moe
    return 4.0 * tokens * len(moe.layers) * moe.top_k * config.dim * moe.expert_dim if moe is not None else 0.0


def rank_memory(
    config: TransformerConfig, tokens: int, ranks: int, transformers: int = 1, *, value_bytes: int = BYTES
) -> RankMemory:
    """Of one forward of ``tokens`` in total on a gang; ``value_bytes`` of a weight or an activation.

    Weights: every rank holds all but the experts, of which it holds its share, in bfloat16 by default, save what stays
    float32.
    Activations: an estimate of the largest set of tensors alive at once in a block, from their shapes: attention (the
    stream, its norm, q, k, v and the result, two float32 copies) or feed-forward (rows by expert, hidden units before
    and after GELU, results, float32 sum), for the tokens of a rank. It leaves out allocator waste, the libraries' own
    buffers, text encoder and autoencoder, which run elsewhere.

    Raises:
        ValueError: the ranks do not divide the heads or the experts.
    """
    moe = config.moe
    if config.num_attention_heads % ranks or (moe is not None and moe.num_experts % ranks):
        experts = f" and {moe.num_experts} experts" if moe is not None else ""
        raise ValueError(f"{ranks} ranks do not divide {config.num_attention_heads} heads{experts}")
    weights = 0
    for name, shape in network_shapes(config).items():
        kept = any(module in name.split(".") for module in FLOAT32_MODULES)
        share = ranks if EXPERT_STACKS.search(name) else 1
        weights += math.prod(shape) * (4 if kept else value_bytes) // share
    dim = config.dim
    attention = dim * (6 * value_bytes + 2 * 4)
    if moe is None:
        feed_forward = dim * (3 * value_bytes + 2 * 4) + 2 * config.ffn_dim * value_bytes
    else:
        rows = moe.top_k * (dim * (2 * value_bytes + 4) + 2 * moe.expert_dim * value_bytes)
        feed_forward = dim * (2 * value_bytes + 4) + rows
    return RankMemory(weights * transformers, math.ceil(tokens / ranks) * max(attention, feed_forward))


def clip_cost(preset: Preset, width: int, height: int, seconds: float, ranks: int) -> ClipCost:
    """Price a clip at the preset's own frame rate, at the size that it is denoised at.

    Raises:
        ValueError: the ranks do not divide the heads or the experts.
    """
    width, height = preset.denoised_size(width, height)
    frames = frames_of(seconds, preset.sampling.fps, preset.vae.temporal)
    tokens = tokens_of(width, height, frames, preset.vae, preset.config.patch_size)
    forwards = 2 if preset.sampling.guidance > 1 else 1
    memory = rank_memory(preset.config, tokens * forwards, ranks, preset.transformers)
    return ClipCost(frames, tokens, forwards, forwards * forward_cost(preset.config, tokens).total, memory)
