"""Draw weights from a seed, directly on their device, in place of reading files: for benchmarks.

Each tensor, and each expert of a stack, has its own generator, seeded by the name. So values depend on the seed and the
name alone, and ranks with some of the experts hold the values of the whole network. Generators differ between CPUs and
GPUs, and between kinds of GPU.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch

from zoetrope.model.catalog.checkpoint_layout import RANDOM_NAME, RandomWeights
from zoetrope.model.checkpoints.spans import Rows
from zoetrope.model.checkpoints.weights import StoredTensor, ignore_placed, load_into
from zoetrope.model.families.config import TransformerConfig
from zoetrope.model.network.precision import dtype_of
from zoetrope.model.network.protocol import Network, meta_network, module_of
from zoetrope.model.network.quantized import quantize_network
from zoetrope.model.request.quantize import Quantize
from zoetrope.model.streaming.loading import StreamedLoading


def random_tensors(
    network: Network, how: RandomWeights, where: Path, device: torch.device, dtype: torch.dtype
) -> list[StoredTensor]:
    """Return all tensors of a network, for `model.checkpoints.weights.load_into` with the same device and dtype.

    Matrices are normal with mean 0; vectors are the ones and zeros that training starts from. Each is drawn in float32
    and rounded to its final dtype: beside the weights, memory holds at most one float32 tensor, or one expert of a
    stack.

    Args:
        network: may be on the meta device; only its names and shapes are read.
        where: the file to name in errors.
    """
    return [
        StoredTensor(
            where,
            name,
            tuple(tensor.shape),
            torch.float32,
            partial(
                _draw,
                name,
                tuple(tensor.shape),
                how,
                device,
                dtype_of(name, dtype, network.float32_modules),
                bool(network.expert_stacks.search(name)),
            ),
        )
        for name, tensor in network.state_dict().items()
    ]


def random_network(
    config: TransformerConfig,
    device: torch.device,
    dtype: torch.dtype,
    how: RandomWeights,
    *,
    quantize: Quantize = "none",
    streaming: StreamedLoading | None = None,
) -> Network:
    """Make a network of that shape on the device, in evaluation mode, without a checkpoint directory.

    Args:
        streaming: moves some of its layers to the host; they can be used once that has finished.

    Raises:
        ValueError: it cannot be quantised so.
    """
    network = meta_network(config)
    where = Path(RANDOM_NAME)
    tensors = random_tensors(network, how, where, device, dtype)
    module = module_of(network)
    quantized = {} if quantize == "none" else quantize_network(network, dtype)
    on_placed: Callable[[str], None] = ignore_placed
    if streaming is not None:
        on_placed = streaming.begin(network, (*module.state_dict(), *quantized), dtype)
    load_into(
        module,
        tensors,
        where,
        device,
        dtype,
        float32_modules=network.float32_modules,
        quantized=quantized,
        on_placed=on_placed,
    )
    module.eval().requires_grad_(False)
    return network


def _draw(
    name: str,
    shape: tuple[int, ...],
    how: RandomWeights,
    device: torch.device,
    dtype: torch.dtype,
    stacked: bool,
    rows: Rows,
) -> torch.Tensor:
    """Draw one tensor, or the experts of a stack that ``rows`` selects."""
    if len(shape) < 2:
        unit = "norm" in name and name.endswith("weight")
        return torch.full(shape, 1.0 if unit else 0.0, dtype=dtype, device=device)
    if not stacked:
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
