"""Compute what a model costs: parameters, tokens of a clip, FLOPs of a step, bytes on each rank.

Parameters are counted on the real network on the meta device; FLOPs come from its configuration
(`model.families.config.TransformerConfig.forward_cost`).
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from functools import lru_cache

import torch

from zoetrope.model.families.config import TransformerConfig
from zoetrope.model.families.family import AutoencoderKind, Preset
from zoetrope.model.families.quantization import FP8_BYTES, SCALE_BYTES
from zoetrope.model.network.precision import dtype_of
from zoetrope.model.network.protocol import meta_network, module_of
from zoetrope.model.network.quantized import QuantizedWeight, quantize_network
from zoetrope.model.request.quantize import Quantize

BYTES = 2  # of a weight or an activation in bfloat16


@dataclass(frozen=True)
class ParameterCount:
    """The parameters of one transformer. ``experts``: in token-routed stacks; ``active``: those that a token uses."""

    total: int
    active: int
    experts: int


@dataclass(frozen=True)
class RankMemory:
    """Bytes on each rank of a gang: exact for the weights, an estimate for the activations."""

    weights: int
    activations: int


@dataclass(frozen=True)
class ClipCost:
    """The cost of a clip of one size and length on one preset. A step is all guidance branches of one clip."""

    frames: int
    tokens: int
    forwards: int
    step_flops: float
    memory: RankMemory


def network_shapes(config: TransformerConfig) -> dict[str, tuple[int, ...]]:
    """Return the name and shape of every tensor of the network."""
    tensors = _tensors(config)
    return {**tensors.parameters, **tensors.buffers}


def count_parameters(config: TransformerConfig) -> ParameterCount:
    """Count the parameters; buffers such as the balance bias of a router do not count."""
    tensors = _tensors(config)
    total = sum(math.prod(shape) for shape in tensors.parameters.values())
    experts = sum(math.prod(shape) for name, shape in tensors.parameters.items() if tensors.stacks.search(name))
    moe = config.moe
    unused = experts * (moe.num_experts - moe.top_k) // moe.num_experts if moe is not None else 0
    return ParameterCount(total, total - unused, experts)


@dataclass(frozen=True)
class _Tensors:
    """Shapes by name, and what the names say."""

    parameters: dict[str, tuple[int, ...]]
    buffers: dict[str, tuple[int, ...]]
    stacks: re.Pattern[str]
    float32_modules: tuple[str, ...]


@lru_cache(maxsize=32)
def _tensors(config: TransformerConfig) -> _Tensors:
    network = meta_network(config)
    module = module_of(network)
    return _Tensors(
        {name: tuple(parameter.shape) for name, parameter in module.named_parameters()},
        {name: tuple(buffer.shape) for name, buffer in module.named_buffers()},
        network.expert_stacks,
        network.float32_modules,
    )


@lru_cache(maxsize=32)
def quantized_weights(config: TransformerConfig, quantize: Quantize) -> dict[str, QuantizedWeight]:
    """Return by name the weights that are quantised. Raises ValueError if the network has no such form."""
    return {} if quantize == "none" else quantize_network(meta_network(config), torch.bfloat16)


def frames_of(seconds: float, fps: int, temporal: int = 4) -> int:
    """Return the nearest number of frames that is 1 modulo ``temporal``."""
    return temporal * round(seconds * fps / temporal) + 1


def tokens_of(width: int, height: int, frames: int, vae: AutoencoderKind, patch: tuple[int, int, int]) -> int:
    """Count the tokens of a clip; sides that the stride does not divide are rounded up, as in serving."""
    side = vae.spatial
    latent_frames = 1 + (frames - 1) // vae.temporal
    return (
        math.ceil(latent_frames / patch[0])
        * math.ceil(height / (side * patch[1]))
        * math.ceil(width / (side * patch[2]))
    )


def rank_memory(
    config: TransformerConfig,
    tokens: int,
    ranks: int,
    transformers: int = 1,
    *,
    value_bytes: int = BYTES,
    quantize: Quantize = "none",
) -> RankMemory:
    """Estimate the memory of each rank for a forward pass of ``tokens`` in total; ``value_bytes`` per weight or
    activation.

    Weights: every rank holds everything except the other ranks' experts; what stays float32 counts 4 bytes, what is
    quantised 1 byte and 4 for the scale of each output.
    Activations: the largest set of tensors alive at once in a block, from their shapes: attention (the stream, its
    norm, q, k, v and the result, two float32 copies) or feed-forward (rows by expert, hidden units before and after
    GELU, results, float32 sum), for the tokens of a rank; rows in 8 bits are there beside the others. Left out are
    allocator waste, libraries' own buffers, and the text encoder and autoencoder, which run elsewhere.

    Raises:
        ValueError: the ranks do not divide the heads or the experts, or the network cannot be quantised.
    """
    moe = config.moe
    if config.num_attention_heads % ranks or (moe is not None and moe.num_experts % ranks):
        experts = f" and {moe.num_experts} experts" if moe is not None else ""
        raise ValueError(f"{ranks} ranks do not divide {config.num_attention_heads} heads{experts}")
    weights, tensors, quantized = 0, _tensors(config), quantized_weights(config, quantize)
    for name, shape in network_shapes(config).items():
        kept = dtype_of(name, torch.bfloat16, tensors.float32_modules) is torch.float32
        share = ranks if tensors.stacks.search(name) else 1
        size = math.prod(shape) * (4 if kept else value_bytes)
        if (weight := quantized.get(name)) is not None:
            size = math.prod(shape) * FP8_BYTES + weight.outputs * SCALE_BYTES
        weights += size // share
    dim, beside = config.dim, FP8_BYTES if quantized else 0
    attention = dim * (6 * value_bytes + 2 * 4 + beside)
    if moe is None:
        feed_forward = dim * (3 * value_bytes + 2 * 4 + beside) + config.ffn_dim * (2 * value_bytes + beside)
    else:
        rows = moe.top_k * (dim * (2 * value_bytes + 4 + beside) + moe.expert_dim * (2 * value_bytes + beside))
        feed_forward = dim * (2 * value_bytes + 4 + beside) + rows
    return RankMemory(weights * transformers, math.ceil(tokens / ranks) * max(attention, feed_forward))


def clip_cost(
    preset: Preset, width: int, height: int, seconds: float, ranks: int, quantize: Quantize = "none"
) -> ClipCost:
    """Compute the cost of a clip at the preset's own frame rate, at the size at which it is denoised.

    Raises:
        ValueError: the ranks do not divide the heads or the experts, or the network cannot be quantised.
    """
    width, height = preset.denoised_size(width, height)
    frames = frames_of(seconds, preset.sampling.fps, preset.vae.temporal)
    tokens = tokens_of(width, height, frames, preset.vae, preset.config.patch_size)
    forwards = 2 if preset.sampling.guidance > 1 else 1
    memory = rank_memory(preset.config, tokens * forwards, ranks, preset.transformers, quantize=quantize)
    return ClipCost(frames, tokens, forwards, forwards * preset.config.forward_cost(tokens).total, memory)
