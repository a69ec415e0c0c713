"""Attention over packed sequences of different lengths (self- and cross-attention, non-causal)."""

from __future__ import annotations

import torch

from zoetrope.kernels.select.abilities import KernelCall
from zoetrope.kernels.select.backends import choose
from zoetrope.kernels.select.no_compile import opaque
from zoetrope.kernels.select.shapes import attention_class
from zoetrope.kernels.types.block_mask import BlockMask
from zoetrope.kernels.types.varlen import CuSeqlens


@opaque
def varlen_attention(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    cu_q: CuSeqlens,
    cu_k: CuSeqlens,
    *,
    mask: BlockMask | None = None,
    backend: str | None = None,
) -> torch.Tensor:
    """Compute softmax attention in which sequence ``i`` of the queries sees only sequence ``i`` of the keys.

    Args:
        q: ``[Nq, heads, head_dim]``. k, v: ``[Nk, heads, head_dim]``, the same dtype.
        cu_q, cu_k: lengths that add up to ``Nq`` and ``Nk``, as many sequences in both.
        mask: the blocks of scores to compute; None: all.
        backend: the implementation to use (`kernels.select.backends`); by default the first trusted one.

    Returns:
        ``[Nq, heads, head_dim]`` in the dtype of ``q``. Scores are scaled by ``head_dim ** -0.5``. A query without any
        key gets zeros.

    Raises:
        ValueError: the lengths do not describe the tensors, or the requested backend cannot take them.
    """
    shape = attention_class(cu_q, cu_k)
    call = KernelCall.of(q, k, v, head_dim=q.shape[-1], masked=mask is not None, shape=shape)
    match choose("attention", call, backend):
        case "gluon":
            from zoetrope.kernels.gpu.attention_gluon import attention as gluon

            result = gluon(q, k, v, cu_q, cu_k)
        case "triton":
            from zoetrope.kernels.gpu.attention import attention as triton

            result = triton(q, k, v, cu_q, cu_k, mask=mask)
        case "flash_attn":
            from zoetrope.kernels.reference.attention import attention_flash

            result = attention_flash(q, k, v, cu_q, cu_k)
        case "int8":
            from zoetrope.kernels.gpu.attention_8bit import attention_8bit

            result = attention_8bit(q, k, v, cu_q, cu_k, pv="fp16", mask=mask)
        case "int8_fp8":
            from zoetrope.kernels.gpu.attention_8bit import attention_8bit

            result = attention_8bit(q, k, v, cu_q, cu_k, pv="fp8", mask=mask)
        case "sdpa":
            from zoetrope.kernels.reference.attention import attention_sdpa

            result = attention_sdpa(q, k, v, cu_q, cu_k)
        case _:
            from zoetrope.kernels.reference.attention import attention

            result = attention(q, k, v, cu_q, cu_k, mask=mask)
    assert not isinstance(result, tuple)  # no log-sum-exp was requested
    return result
