"""8-bit attention in plain torch, tile by tile as the kernel goes, so that both round at the same places."""

from __future__ import annotations

import math
from typing import Literal, overload

import torch

from zoetrope.kernels.reference.quantise_qkv import (
    PV,
    QuantisedQKV,
    key_order,
    quantise_normed_qkv,
    quantise_qkv,
)
from zoetrope.kernels.types.attention_inputs import check_attention
from zoetrope.kernels.types.block_mask import BLOCK_K, BLOCK_Q, BlockMask
from zoetrope.kernels.types.varlen import CuSeqlens

E4M3_TOP = 8  # probabilities become e4m3 times 2 ** 8, which leaves room above and eleven more powers of two below


@overload
def attention_8bit(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    cu_q: CuSeqlens,
    cu_k: CuSeqlens,
    *,
    pv: PV = ...,
    smooth: bool = ...,
    mask: BlockMask | None = ...,
    return_lse: Literal[False] = ...,
    block: int = ...,
) -> torch.Tensor: ...


@overload
def attention_8bit(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    cu_q: CuSeqlens,
    cu_k: CuSeqlens,
    *,
    pv: PV = ...,
    smooth: bool = ...,
    mask: BlockMask | None = ...,
    return_lse: Literal[True],
    block: int = ...,
) -> tuple[torch.Tensor, torch.Tensor]: ...


def attention_8bit(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    cu_q: CuSeqlens,
    cu_k: CuSeqlens,
    *,
    pv: PV = "fp16",
    smooth: bool = True,
    mask: BlockMask | None = None,
    return_lse: bool = False,
    block: int = 64,
) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
    """Compute `kernels.gpu.attention_8bit.attention_8bit` on any device.

    ``block`` is the number of keys that share a scale and a step of the softmax (the kernel's tile of keys).
    """
    check_attention(q, k, v, cu_q, cu_k, mask)
    if mask is not None and block != BLOCK_K:
        raise ValueError(f"block is {block}: with a mask it must be {BLOCK_K}")
    quantised = quantise_qkv(q, k, v, cu_q, cu_k, pv=pv, smooth=smooth, shift=return_lse, block=block)
    result, lse = attend_quantised(quantised, cu_q, cu_k, q.dtype, mask)
    if not return_lse:
        return result
    return result, lse if quantised.shift is None else lse + quantised.shift


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
    pv: PV = "fp16",
    block: int = 64,
) -> torch.Tensor:
    """Compute `kernels.gpu.attention_8bit.attention_of_projections` on any device."""
    quantised = quantise_normed_qkv(q, k, v, q_weight, k_weight, cos, sin, eps, cu_q, cu_k, pv=pv, block=block)
    return attend_quantised(quantised, cu_q, cu_k, q.dtype)[0]


def attend_quantised(
    quantised: QuantisedQKV, cu_q: CuSeqlens, cu_k: CuSeqlens, dtype: torch.dtype, mask: BlockMask | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Attend with inputs that are in 8 bits already; return ``[Nq, heads, d]`` of ``dtype`` and log-sum-exp ``[heads,
    Nq]``."""
    _, heads, dim = quantised.q.shape
    outs = [quantised.k_scale.new_zeros(0, heads, dim, dtype=dtype)]
    lses = [quantised.k_scale.new_zeros(heads, 0)]
    for i, length in enumerate(cu_q.lengths):
        allowed = None
        if mask is not None:
            allowed = mask.of_sequence(i).repeat_interleave(BLOCK_Q, dim=1)[:, :length]
        out, lse = _sequence(quantised, cu_q, cu_k, i, allowed)
        outs.append(out.to(dtype))
        lses.append(lse)
    return torch.cat(outs), torch.cat(lses, dim=1)


def _sequence(
    x: QuantisedQKV, cu_q: CuSeqlens, cu_k: CuSeqlens, i: int, allowed: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return ``out [L, heads, d]`` and ``lse [heads, L]``, float32, of one sequence."""
    rows, keys = slice(*cu_q.offsets[i : i + 2]), slice(*cu_k.offsets[i : i + 2])
    queries = x.q[rows].transpose(0, 1).float()  # integers are exact in float32, their products too
    heads, length, dim = queries.shape
    row_scale = x.q_scale[rows].T * (dim**-0.5 * math.log2(math.e))
    fp8 = x.v_scale is not None
    power = E4M3_TOP if fp8 else 0
    places = key_order(x.block).argsort().to(x.v.device)  # the place of each key's values
    top = queries.new_full((heads, length), -math.inf)
    total, acc = torch.zeros_like(top), torch.zeros_like(queries)
    for step, begin in enumerate(range(keys.start, keys.stop, x.block)):
        tile, count = x.first[i] + step, min(x.block, keys.stop - begin)
        scale = row_scale * x.k_scale[:, tile, None]
        scores = queries @ x.k[:, tile, :count].float().transpose(1, 2) * scale[..., None]
        if allowed is not None:
            scores = scores.masked_fill(~allowed[:, :, step, None], -math.inf)
        higher = torch.maximum(top, scores.amax(-1))
        base = higher.masked_fill(higher == -math.inf, 0.0)  # nothing seen so far
        p, keep = torch.exp2(scores - (base - power)[..., None]), torch.exp2(top - base)
        total = total * keep + p.sum(-1)
        if fp8:
            values = x.v[:, tile].float()[..., places[:count]].transpose(1, 2)
            p = p.to(torch.float8_e4m3fn).float()
        else:
            values = x.v[begin : begin + count].transpose(0, 1).float()
            p = p.to(x.v.dtype).float()
        acc = acc * keep[..., None] + p @ values
        top = higher
    out = acc / total.masked_fill(total == 0, 1.0)[..., None]
    if x.v_scale is not None:
        out = out * x.v_scale[i][:, None]
    lse = (top - power + torch.log2(total)) * math.log(2)
    return out.transpose(0, 1), lse
