"""A network in 8-bit floats (e4m3): which of its weights, how they take the place of the others, and how they compute.

The matrices of attention and feed-forward of the middle blocks are quantised, with a scale for each output, and so are
the rows that enter them, with a scale for each row. All else stays as it is: embeddings, the path of the noise level,
norms, routers, biases, the head, VACE's hint blocks, and the outer blocks (`model.families.quantization`).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import torch
from torch import nn

from zoetrope.kernels import Fp8Rows, grouped_gemm_fp8, linear_fp8, quantise_rows, quantise_weight
from zoetrope.model.families.quantization import middle_blocks, why_exact
from zoetrope.model.network.blocks import Block
from zoetrope.model.network.exchange import ALONE, Exchange
from zoetrope.model.network.experts import DenseFeedForward, GeluProjection, MoEFeedForward
from zoetrope.model.network.normed import Normed
from zoetrope.model.network.protocol import Network, module_of

EXACT = ("gate",)  # linear layers of a block that stay: the router


@dataclass(frozen=True)
class QuantizedWeight:
    """A matrix, or a stack of them, to be quantised.

    Attributes:
        shape: in the source. outputs: its scales. take: accepts the values, whole or the rows that this rank owns, on
            their final device, in the source's dtype.
        take_rows8: accepts values that are in 8 bits already, ``[out, in]`` float8_e4m3fn, and a scale for each output,
            ``[out]`` float32, both whole; None for stacks.
    """

    shape: tuple[int, ...]
    outputs: int
    take: Callable[[torch.Tensor], None]
    take_rows8: Callable[[torch.Tensor, torch.Tensor], None] | None = None


class QuantizedLinear(nn.Module):
    """A linear layer in 8-bit floats; if so made, GELU (tanh) comes first, in the pass that quantises its rows."""

    weight: torch.Tensor
    scale: torch.Tensor

    def __init__(self, layer: nn.Linear, dtype: torch.dtype, *, gelu: bool = False) -> None:
        """``layer`` gives its shape and its bias, which stays; ``dtype`` is that of the result."""
        super().__init__()
        self.dtype = dtype
        self.gelu = gelu
        self.bias = layer.bias
        _hold(self, weight=layer.weight.to(torch.float8_e4m3fn), scale=layer.weight.new_empty(layer.out_features))

    def take(self, weight: torch.Tensor) -> None:
        """Quantise the weight ``[out, in]``."""
        self.weight, self.scale = quantise_weight(_single(weight))

    def take_rows8(self, q: torch.Tensor, scale: torch.Tensor) -> None:
        """Take a weight that is quantised already: ``[out, in]`` float8_e4m3fn and its scales ``[out]`` float32."""
        self.weight, self.scale = q.contiguous(), scale.contiguous()

    def forward(self, x: torch.Tensor | Normed) -> torch.Tensor:
        """``[N, in]`` -> ``[N, out]``. Rows that a norm has quantised are taken as they are."""
        rows = x.rows if isinstance(x, Normed) else quantise_rows(x, gelu=self.gelu)
        return linear_fp8(*rows, self.weight, self.scale, self.bias, out_dtype=self.dtype)


class QuantizedExperts(MoEFeedForward):
    """`MoEFeedForward` with experts in 8-bit floats. The router reads the norm itself, and tokens travel to other ranks
    in 8 bits; what comes back, and the weighted sum, are as exact as before."""

    up: torch.Tensor
    up_scale: torch.Tensor
    down: torch.Tensor
    down_scale: torch.Tensor

    def __init__(self, layer: MoEFeedForward, dtype: torch.dtype) -> None:
        """``layer`` gives everything but the stacks, for which it gives the shapes; ``dtype`` is that of the result."""
        nn.Module.__init__(self)
        self.dtype = dtype
        self.top_k, self.num_experts, self.groups = layer.top_k, layer.num_experts, layer.groups
        self.gate, self.shared = layer.gate, layer.shared
        self.register_buffer("correction", layer.correction)
        self.b1, self.b2 = layer.b1, layer.b2
        self.last_counts = None
        for name, stack in (("up", layer.w1), ("down", layer.w2)):
            q = stack.mT.to(torch.float8_e4m3fn)
            _hold(self, **{name: q, f"{name}_scale": stack.new_empty(q.shape[:2])})

    def take(self, name: str, stack: torch.Tensor) -> None:
        """Quantise a stack ``[E, K, N]`` of this rank's experts: ``up`` or ``down``."""
        q, scale = quantise_weight(_single(stack))
        setattr(self, name, q)
        setattr(self, f"{name}_scale", scale)

    def apply_rows(self, x: Fp8Rows, offsets: torch.Tensor) -> torch.Tensor:
        """Apply this layer's experts, as `MoEFeedForward.apply_experts` does, to rows in 8 bits."""
        hidden = grouped_gemm_fp8(*x, self.up, self.up_scale, offsets, self.b1, out_dtype=self.dtype)
        rows = quantise_rows(hidden, gelu=True)
        return grouped_gemm_fp8(*rows, self.down, self.down_scale, offsets, out_dtype=self.dtype)

    def forward(self, x: torch.Tensor | Normed, exchange: Exchange = ALONE) -> torch.Tensor:
        """``[N, D]`` -> ``[N, D]``."""
        x = x if isinstance(x, Normed) else Normed(x, quantise_rows(x))
        shared = None if self.shared is None else partial(self.shared, x)
        return exchange.experts(x.exact, self.route, self.apply_rows, self.b2, shared, quantised=x.rows)


def quantize_network(network: Network, dtype: torch.dtype) -> dict[str, QuantizedWeight]:
    """Put 8-bit layers in the place of others, and return by name the weights that they wait for.

    These are no longer among the network's own tensors (``state_dict``).

    Args:
        network: on the meta device. dtype: of activations.

    Raises:
        ValueError: the network has no 8-bit form.
    """
    found: dict[str, QuantizedWeight] = {}
    if (problem := why_exact(network.config)) is not None:
        raise ValueError(problem)
    blocks = module_of(network).get_submodule("blocks")
    for number in middle_blocks(network.config.num_layers):
        name, block = f"blocks.{number}", blocks.get_submodule(str(number))
        assert isinstance(block, Block)
        for path, part in (("attn1", block.attn1), ("attn2", block.attn2), ("ffn", block.ffn)):
            if isinstance(part, MoEFeedForward):
                experts = QuantizedExperts(part, dtype)
                block.ffn = part = experts
                for old, new in (("w1", "up"), ("w2", "down")):
                    held = getattr(experts, new)
                    shape = (held.shape[0], held.shape[2], held.shape[1])
                    take = partial(experts.take, new)
                    found[f"{name}.{path}.{old}"] = QuantizedWeight(shape, shape[0] * shape[2], take)
            found |= {f"{name}.{path}.{key}": weight for key, weight in _replace_linears(part, dtype)}
        block.quantised = True
    return found


def _replace_linears(part: nn.Module, dtype: torch.dtype) -> Iterator[tuple[str, QuantizedWeight]]:
    for path, layer in list(part.named_modules()):
        if not isinstance(layer, nn.Linear) or path in EXACT:
            continue
        parent, _, leaf = path.rpartition(".")
        within = part.get_submodule(parent)
        owner = part.get_submodule(parent.rpartition(".")[0])
        made = QuantizedLinear(layer, dtype, gelu=isinstance(owner, DenseFeedForward))
        if isinstance(within, GeluProjection):  # the next layer has its GELU now
            outer, _, place = parent.rpartition(".")
            setattr(part.get_submodule(outer), place, nn.Sequential(OrderedDict({leaf: made})))
        else:
            setattr(within, leaf, made)
        shape = tuple(layer.weight.shape)
        yield f"{path}.weight", QuantizedWeight(shape, layer.out_features, made.take, made.take_rows8)


def _single(weight: torch.Tensor) -> torch.Tensor:
    return weight.float() if weight.dtype == torch.float64 else weight


def _hold(module: nn.Module, **tensors: torch.Tensor) -> None:
    """Register tensors that are made of a checkpoint's and are not among its own."""
    for name, tensor in tensors.items():
        module.register_buffer(name, tensor, persistent=False)
