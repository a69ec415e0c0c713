"""Weights drawn from a seed in place of files, on the device that they are for: what a benchmark loads.

Each tensor, and in a stack of experts each expert, has a generator of its own, seeded by the name. So values depend on
the seed and the name alone, and ranks that hold some of the experts have those of the whole network. They do not carry
over from a CPU to a GPU, nor from one kind of GPU to another, whose generators differ.
"""

from __future__ import annotations

import hashlib
from functools import partial
from pathlib import Path

import torch
from torch import nn

from model.config import TransformerConfig
from model.directory import RANDOM_NAME, RandomWeights
from model.transformer import WanTransformer
from model.weights import EXPERT_STACKS, FLOAT32_MODULES, Rows, StoredTensor, dtype_of, load_into


def random_tensors(
    network: nn.Module, how: RandomWeights, where: Path, device: torch.device, dtype: torch.dtype
) -> list[StoredTensor]:
    """All tensors of a network, for `model.weights.load_into` with the same device and dtype.

    Matrices are normal with mean 0, vectors are the ones and zeros that they start from in training. Each is drawn in
    float32 and rounded to the dtype that it is kept in; beside the weights there is at most one float32 tensor at a
    time, of a stack one expert.

    Args:
        network: of which only names and shapes are read, it may be on the meta device.
        where: the file to name in errors.
    """
    return [
        StoredTensor(
            where,
            name,
            tuple(tensor.shape),
            torch.float32,
            partial(_draw, name, tuple(tensor.shape), how, device, dtype_of(name, dtype)),
        )
        for name, tensor in network.state_dict().items()
    ]


def random_network(
    config: TransformerConfig, device: torch.device, dtype: torch.dtype, how: RandomWeights
) -> WanTransformer:
    """A network of that shape on the device, in evaluation mode, without a checkpoint around it."""
    with torch.device("meta"):
        network = WanTransformer(config)
    where = Path(RANDOM_NAME)
    tensors = random_tensors(network, how, where, device, dtype)
    load_into(network, tensors, where, device, dtype, float32_modules=FLOAT32_MODULES)
    return network.eval().requires_grad_(False)


def _draw(
    name: str, shape: tuple[int, ...], how: RandomWeights, device: torch.device, dtype: torch.dtype, rows: Rows
) -> torch.Tensor:
    """One tensor, or those experts of a stack that ``rows`` names."""
    if len(shape) < 2:
        unit = "norm" in name and name.endswith("weight")
        return torch.full(shape, 1.0 if unit else 0.0, dtype=dtype, device=device)
    if not EXPERT_STACKS.search(name):
        return _normal(name, shape, how, device).to(dtype)
    assert rows is None or isinstance(rows, slice), "ranks own whole experts"
    experts = range(shape[0])[rows or slice(None)]
    stack = torch.empty(len(experts), *shape[1:], dtype=dtype, device=device)
    for place, expert in zip(stack, experts, strict=True):
        place.copy_(_normal(f"{name}.{expert}", shape[1:], how, device))
    return stack


def _normal(name: str, shape: tuple[int, ...], how: RandomWeights, device: torch.device) -> torch.Tensor:
    digest = hashlib.sha256(f"{how.seed}:{name}".encode()).digest()
    generator = torch.Generator(device).manual_seed(int.from_bytes(digest[:8], "big") >> 1)
    return torch.empty(shape, device=device).normal_(0.0, how.std, generator=generator)
