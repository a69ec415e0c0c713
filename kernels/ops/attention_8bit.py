"""Attention in 8 bits from the projections, where a user asked for 8 bits: nothing is rounded to 16 in between."""

from __future__ import annotations

import torch
from torch.compiler import is_compiling

from zoetrope.kernels.reference.quantise_qkv import PV
from zoetrope.kernels.select.abilities import KernelCall
from zoetrope.kernels.select.backends import choose
from zoetrope.kernels.select.no_compile import opaque
from zoetrope.kernels.types.varlen import CuSeqlens

EIGHT_BIT: dict[str, PV] = {"int8": "fp16", "int8_fp8": "fp8"}  # backend of attention -> its probabilities and values


def attends_in_8bit(x: torch.Tensor, weight: torch.Tensor, head_dim: int) -> bool:
    """Tell whether `attention_of_projections` is how to attend.

    It is where attention is requested in 8 bits and the norm runs in our kernel too, which the fused passes contain.

    Args:
        x: the tokens, or what is projected from them. weight: of the norm. head_dim: of attention.

    Raises:
        ValueError: the requested implementation of either cannot take such tensors.
    """
    if is_compiling() or choose("attention", KernelCall.of(x, weight, head_dim=head_dim)) not in EIGHT_BIT:
        return False
    return choose("qk_norm_rope", KernelCall.of(x, weight)) == "triton"


@opaque
def attention_of_projections(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    q_weight: torch.Tensor,
    k_weight: torch.Tensor,
    cos: torch.Tensor | None,
    sin: torch.Tensor | None,
    eps: float,
    cu_q: CuSeqlens,
    cu_k: CuSeqlens,
    *,
    backend: str | None = None,
) -> torch.Tensor:
    """Compute `qk_norm_rope` of ``q`` and ``k`` and `varlen_attention` of the results, in 8 bits.

    Args:
        q: ``[Nq, heads * d]``. k: ``[Nk, heads * d]``. v: ``[Nk, heads, d]``; all of one dtype.
        q_weight, k_weight: ``[heads * d]``. cos, sin: ``[N, d / 2]`` float32 for both, or None. eps: of the norm.
        cu_q, cu_k: lengths that add up to ``Nq`` and ``Nk``, as many sequences in both.
        backend: ``int8`` or ``int8_fp8``; by default what was requested for attention.

    Returns:
        ``[Nq, heads, d]`` in the dtype of ``q``.

    Raises:
        ValueError: the tensors do not fit each other, attention is not in 8 bits (see `attends_in_8bit`), or the
            requested backend cannot take them.
    """
    chosen = choose("attention", KernelCall.of(q, k, v, q_weight, k_weight, head_dim=v.shape[-1]), backend)
    if chosen not in EIGHT_BIT:
        raise ValueError(f"backend is {chosen!r}: from projections, attention is by {' or '.join(EIGHT_BIT)}")
    from zoetrope.kernels.gpu.attention_8bit import attention_of_projections as triton

    return triton(q, k, v, q_weight, k_weight, cos, sin, eps, cu_q, cu_k, pv=EIGHT_BIT[chosen])
