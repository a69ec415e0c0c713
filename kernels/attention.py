"""Attention over packed sequences of different lengths (self- and cross-attention, non-causal)."""

from __future__ import annotations

import torch

from kernels.backends import Call, choose
from kernels.block_mask import BlockMask
from kernels.compiler import opaque
from kernels.varlen import CuSeqlens


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
    """Softmax attention in which sequence ``i`` of the queries sees only sequence ``i`` of the keys.

    Args:
        q: ``[Nq, heads, head_dim]``. k, v: ``[Nk, heads, head_dim]``, the same dtype.
        cu_q, cu_k: lengths that add up to ``Nq`` and ``Nk``, as many sequences in both.
        mask: the blocks of scores to compute; all without one.
        backend: the implementation to take (`kernels.backends`); by itself the first one that is trusted.

    Returns:
        ``[Nq, heads, head_dim]`` in the dtype of ``q``. Scores are scaled by ``head_dim ** -0.5``. A query without any
        key gets zeros.

    Raises:
        ValueError: the lengths do not describe the tensors, or the backend asked for cannot take them.
    """
    return _attend(q, k, v, cu_q, cu_k, mask, backend)[0]


@opaque
def varlen_attention_lse(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    cu_q: CuSeqlens,
    cu_k: CuSeqlens,
    *,
    mask: BlockMask | None = None,
    backend: str | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """As `varlen_attention`, with the log-sum-exp of each query's scaled scores, by which partial results are merged.

    Returns:
        ``(out [Nq, heads, head_dim], lse [heads, Nq] float32)``, natural logarithm, ``-inf`` for a query without keys.
    """
    out, lse = _attend(q, k, v, cu_q, cu_k, mask, backend, with_lse=True)
    assert lse is not None
    return out, lse


def _attend(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    cu_q: CuSeqlens,
    cu_k: CuSeqlens,
    mask: BlockMask | None,
    backend: str | None,
    with_lse: bool = False,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    call = Call.of(q, k, v, head_dim=q.shape[-1], masked=mask is not None, lse=with_lse)
    match choose("attention", call, backend):
        case "gluon":
            from kernels.gpu.attention_gluon import attention as gluon

            result = gluon(q, k, v, cu_q, cu_k, return_lse=with_lse)
        case "triton":
            from kernels.gpu.attention import attention as triton

            result = triton(q, k, v, cu_q, cu_k, mask=mask, return_lse=with_lse)
        case "flash_attn":
            from kernels.reference.attention import attention_flash

            result = attention_flash(q, k, v, cu_q, cu_k, return_lse=with_lse)
        case "int8":
            from kernels.gpu.attention_8bit import attention_8bit

            result = attention_8bit(q, k, v, cu_q, cu_k, pv="fp16", mask=mask, return_lse=with_lse)
        case "int8_fp8":
            from kernels.gpu.attention_8bit import attention_8bit

            result = attention_8bit(q, k, v, cu_q, cu_k, pv="fp8", mask=mask, return_lse=with_lse)
        case "sdpa":
            from kernels.reference.attention import attention_sdpa

            result = attention_sdpa(q, k, v, cu_q, cu_k)
        case _:
            from kernels.reference.attention import attention

            result = attention(q, k, v, cu_q, cu_k, mask=mask, return_lse=with_lse)
    return result if isinstance(result, tuple) else (result, None)
