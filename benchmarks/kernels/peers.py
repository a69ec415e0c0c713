"""Implementations of other projects to compare with."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from zoetrope.benchmarks.kernels.contenders import Contender
from zoetrope.benchmarks.kernels.timing import Call

SDPA = {
    "sdpa cudnn": SDPBackend.CUDNN_ATTENTION,
    "sdpa flash": SDPBackend.FLASH_ATTENTION,
}
Make = Callable[[int], Call]


def installed(module: str) -> str | None:
    """Return why a module cannot be imported, or None."""
    try:
        return None if find_spec(module) is not None else f"{module} is not installed"
    except (ImportError, ValueError) as error:
        return f"{module} cannot be imported: {error}"


def let_recompile() -> None:
    """Raise torch.compile's limits: after a few shapes, it would silently stop compiling."""
    import torch._dynamo

    torch._dynamo.config.recompile_limit = 1000
    torch._dynamo.config.accumulated_recompile_limit = 10000


def compiled(name: str, make: Make, device: torch.device, **options: Any) -> Contender:
    """Return a call under torch.compile; absent on a CPU, where the first compilation takes most of a minute."""
    if device.type != "cuda":
        return Contender(name, absent="torch.compile is not tried without a GPU")

    let_recompile()

    def compile_it(i: int) -> Call:
        found: Call = torch.compile(make(i), dynamic=False, **options)
        return found

    return Contender(name, compile_it)


def attention_peers(inputs: Callable[[int], tuple[torch.Tensor, ...]], device: torch.device) -> list[Contender]:
    """Return attention of one sequence; ``inputs(i)`` gives q, k and v as ``[rows, heads, head_dim]``."""

    def batched(i: int) -> tuple[torch.Tensor, ...]:
        return tuple(x.transpose(0, 1)[None] for x in inputs(i))

    def sdpa(backend: SDPBackend) -> Make:
        def make(i: int) -> Call:
            q, k, v = batched(i)

            def call() -> torch.Tensor:
                with sdpa_kernel(backend):
                    return F.scaled_dot_product_attention(q, k, v)[0].transpose(0, 1)

            return call

        return make

    if device.type == "cuda":
        peers = [Contender(name, sdpa(backend)) for name, backend in SDPA.items()]
    else:
        peers = [Contender(name, absent="it needs a GPU") for name in SDPA]
        peers.append(Contender("sdpa math", sdpa(SDPBackend.MATH)))
    return [*peers, _flex(batched, device), *_flash(inputs, device), _sage(batched, device)]


def _flex(batched: Callable[[int], tuple[torch.Tensor, ...]], device: torch.device) -> Contender:
    if device.type != "cuda":
        return Contender("FlexAttention", absent="torch.compile is not tried without a GPU")
    from torch.nn.attention.flex_attention import flex_attention

    let_recompile()
    run = torch.compile(flex_attention, dynamic=False)

    def make(i: int) -> Call:
        q, k, v = (x.contiguous() for x in batched(i))
        return lambda: run(q, k, v).transpose(1, 2)[0]

    return Contender("FlexAttention", make)


def _flash(inputs: Callable[[int], tuple[torch.Tensor, ...]], device: torch.device) -> list[Contender]:
    found = []
    for name, module in {"flash_attn 2": "flash_attn", "flash_attn 3": "flash_attn_interface"}.items():
        reason = installed(module) or (None if device.type == "cuda" else "it needs a GPU")
        found.append(Contender(name, None if reason else _flash_make(inputs, module), reason))
    return found


def _flash_make(inputs: Callable[[int], tuple[torch.Tensor, ...]], module: str) -> Make:
    def make(i: int) -> Call:
        function = importlib.import_module(module).flash_attn_func
        q, k, v = (x[None] for x in inputs(i))

        def call() -> torch.Tensor:
            result = function(q, k, v)
            out: torch.Tensor = result[0] if isinstance(result, tuple) else result
            return out[0] if out.ndim == 4 else out

        return call

    return make


def _sage(batched: Callable[[int], tuple[torch.Tensor, ...]], device: torch.device) -> Contender:
    reason = installed("sageattention") or (None if device.type == "cuda" else "it needs a GPU")
    if reason:
        return Contender("SageAttention", absent=reason)

    def make(i: int) -> Call:
        function = importlib.import_module("sageattention").sageattn
        q, k, v = (x.contiguous() for x in batched(i))
        return lambda: function(q, k, v, tensor_layout="HND", is_causal=False).transpose(1, 2)[0]

    return Contender("SageAttention", make)


def grouped_mm() -> Callable[..., torch.Tensor] | None:
    """Return torch's grouped matrix product, public or private; None if this version has none."""
    found: Callable[..., torch.Tensor] | None = getattr(F, "grouped_mm", None) or getattr(torch, "_grouped_mm", None)
    return found


def liger_moe() -> Contender:
    """Return Liger's fused experts, never timed: they have no stable interface yet."""
    reason = installed("liger_kernel")
    return Contender("Liger fused MoE", absent=reason or "no adapter for the installed liger_kernel")
