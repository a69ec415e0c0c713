"""The fence between copies by cp.async and the matrix units that read them."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from zoetrope.kernels.gpu.launch import interpreting


@triton.jit
def fence_copies():
    """Show what cp.async has written to shared memory to the matrix units; in a loop, between its loads and its dot.

    wgmma reads shared memory through the asynchronous proxy, and cp.async, unlike the TMA, writes it through the
    generic one: the PTX memory model orders the two only by a proxy fence, after the copies have been awaited. Triton
    puts one after stores from registers, but none after copies that it has pipelined itself. `kernels.check.screens`
    sees to it that one is there. For devices that `needs_fence` names; others do not know the instruction.
    """
    tl.inline_asm_elementwise(
        "fence.proxy.async.shared::cta; mov.b32 $0, 0;", "=r", [], dtype=tl.int32, is_pure=False, pack=1
    )


def needs_fence(x: torch.Tensor) -> bool:
    """Tell whether matrix units multiply this dtype from shared memory: since Hopper; the interpreter has none."""
    return x.dtype != torch.float32 and not interpreting() and torch.cuda.get_device_capability(x.device) >= (9, 0)
