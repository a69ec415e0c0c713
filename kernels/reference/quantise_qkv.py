"""Queries, keys and values of attention in 8 bits, and what is wrong with inputs that cannot be."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Literal

import torch

from zoetrope.kernels.reference.qk_norm_rope import qk_norm_rope
from zoetrope.kernels.types.attention_inputs import check_attention
from zoetrope.kernels.types.varlen import CuSeqlens

PV = Literal["fp16", "fp8"]
HEAD_DIMS = (32, 64, 128)
KEY_BLOCKS = (64, 128)
SMALLEST = 1e-30  # a row whose largest value is below counts as zeros: its scale would leave float32
INT8_MAX = 127.0
E4M3_MAX = 448.0
LIMIT = 2**31  # rows of a quantised tensor are counted in int32


@dataclass(frozen=True)
class QuantisedQKV:
    """What 8-bit attention reads. Keys are cut into tiles of ``block``, each sequence beginning a new tile.

    Attributes:
        q: ``[Nq, heads, d]`` int8; q_scale: ``[Nq, heads]`` float32, ``q`` is about ``q * q_scale``.
        k: ``[heads, tiles, block, d]`` int8, zeros behind the end of a sequence; k_scale: ``[heads, tiles]`` float32.
        v: ``[Nk, heads, d]`` as it came, or ``[heads, tiles, d, block]`` e4m3: keys innermost, as 8-bit matrix
            instructions want them, in the order of `key_order`, zeros behind the end of a sequence.
        v_scale: ``[sequences, heads, d]`` float32 for 8-bit values, else None.
        shift: ``[heads, Nq]`` float32: ``d ** -0.5 * q @ mean key``, which smoothing took from all scores of a row;
            None where it was not asked for or nothing was taken.
        first: ``[sequences]``, the number of each sequence's first tile.
        block: keys of a tile.
    """

    q: torch.Tensor
    q_scale: torch.Tensor
    k: torch.Tensor
    k_scale: torch.Tensor
    v: torch.Tensor
    v_scale: torch.Tensor | None
    shift: torch.Tensor | None
    first: tuple[int, ...]
    block: int


def key_tiles(cu_k: CuSeqlens, block: int) -> tuple[int, ...]:
    """Return ``sequences + 1`` numbers: the first tile of each sequence, and the number of tiles."""
    return (0, *accumulate(-(-length // block) for length in cu_k.lengths))


def key_order(block: int) -> torch.Tensor:
    """Return ``[block]``: the key of a tile at each place of 8-bit values.

    A thread of the tensor cores holds pairs of neighbouring scores, 8 apart (the accumulator's layout of ``wgmma``),
    but needs four neighbours of an 8-bit operand. In this order the two are the same elements, and none changes thread.
    """
    return torch.arange(block).view(-1, 2, 4, 2).transpose(1, 2).flatten()


def check_inputs(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, cu_q: CuSeqlens, cu_k: CuSeqlens, pv: str, block: int
) -> None:
    """Raise ValueError for what `quantise_qkv` cannot take; see there."""
    check_attention(q, k, v, cu_q, cu_k)
    if q.dtype not in (torch.float32, torch.float16, torch.bfloat16):
        raise ValueError(f"q is {q.dtype}: it must be float32, float16 or bfloat16")
    if q.shape[2] not in HEAD_DIMS:
        raise ValueError(f"q has head_dim {q.shape[2]}: it must be one of {HEAD_DIMS}")
    if pv not in ("fp16", "fp8"):
        raise ValueError(f"pv is {pv!r}: it must be 'fp16' or 'fp8'")
    if block not in KEY_BLOCKS:
        raise ValueError(f"block is {block}: it must be one of {KEY_BLOCKS}")
    rows = q.shape[1] * key_tiles(cu_k, block)[-1] * max(block, q.shape[2])
    if max(rows, *q.shape, *k.shape) >= LIMIT:
        raise ValueError(f"k has {k.shape[0]} rows of {k.shape[1]} heads: {rows} padded rows, there may be {LIMIT - 1}")


def quantise_qkv(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    cu_q: CuSeqlens,
    cu_k: CuSeqlens,
    *,
    pv: PV = "fp16",
    smooth: bool = True,
    shift: bool = False,
    block: int = 64,
) -> QuantisedQKV:
    """Quantise symmetrically to nearest even: queries by row, keys by tile, 8-bit values by channel.

    ``smooth`` first takes the mean key of a sequence from its keys, head by head. That moves all scores of a query by
    one number, so the softmax does not change, but keys that share a large offset no longer waste their 8 bits on it
    (SageAttention, 2410.02367). Values of 8 bits have a scale for each channel of a sequence and head (2411.10958).
    A row that holds NaN or infinity gets the scale NaN, so that it shows in the result.

    Args:
        q: ``[Nq, heads, d]``. k, v: ``[Nk, heads, d]``; all float32, float16 or bfloat16; d is 32, 64 or 128.
        cu_q, cu_k: lengths that add up to ``Nq`` and ``Nk``, as many sequences in both; they may be 0.
        pv: whether values stay as they are or become e4m3.
        shift: give what smoothing took from the scores, which log-sum-exp needs back.
        block: keys that share a scale, 64 or 128.

    Raises:
        ValueError: shapes, dtypes or lengths do not fit together.
    """
    check_inputs(q, k, v, cu_q, cu_k, pv, block)
    heads, dim = q.shape[1:]
    first = key_tiles(cu_k, block)
    keys = [k.new_zeros(0, heads, block, dim, dtype=torch.float32)]
    values = [keys[0]]
    scales, shifts = [], [q.new_zeros(0, heads, dtype=torch.float32)]
    for i, (rows_q, rows_k) in enumerate(zip(q.split(cu_q.lengths), k.split(cu_k.lengths), strict=True)):
        x = rows_k.float()
        if smooth and x.shape[0]:
            mean = x.mean(0)
            shifts.append((rows_q.float() * mean).sum(-1) * dim**-0.5)
            x = x - mean
        else:
            shifts.append(q.new_zeros(rows_q.shape[0], heads, dtype=torch.float32))
        keys.append(_tiles(x, block))
        if pv == "fp8":
            y = v[cu_k.offsets[i] : cu_k.offsets[i + 1]].float()
            largest = y.abs().amax(0) if y.shape[0] else y.new_zeros(heads, dim)
            scales.append(torch.where(largest >= SMALLEST, largest / E4M3_MAX, 1.0))
            values.append(_tiles(y / scales[-1], block))
    tiled = torch.cat(keys).transpose(0, 1)  # [heads, tiles, block, dim]
    k_int, k_scale = _to_int8(tiled.flatten(2))
    q_int, q_scale = _to_int8(q.float())
    wide = torch.cat(values).transpose(0, 1).transpose(2, 3)[..., key_order(block).to(v.device)]
    return QuantisedQKV(
        q=q_int,
        q_scale=q_scale,
        k=k_int.unflatten(2, (block, dim)),
        k_scale=k_scale,
        v=wide.contiguous().to(torch.float8_e4m3fn) if pv == "fp8" else v,
        v_scale=torch.stack(scales) if scales else None,
        shift=torch.cat(shifts).T.contiguous() if smooth and shift else None,
        first=first[:-1],
        block=block,
    )


def quantise_normed_qkv(
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
) -> QuantisedQKV:
    """Norm and rotate projections, then quantise them as `quantise_qkv` does, smoothed, without rounding in between.

    Args:
        q: ``[Nq, heads * d]``. k: ``[Nk, heads * d]``. v: ``[Nk, heads, d]``.
        q_weight, k_weight, cos, sin, eps: as in `kernels.reference.qk_norm_rope`.
        cu_q, cu_k, pv, block: as in `quantise_qkv`, and the result too.
    """
    heads = v.shape[1]
    queries, keys = (
        qk_norm_rope(x.float(), weight.float(), cos, sin, heads, eps) for x, weight in ((q, q_weight), (k, k_weight))
    )
    assert isinstance(queries, torch.Tensor) and isinstance(keys, torch.Tensor)
    found = quantise_qkv(queries, keys, v.float(), cu_q, cu_k, pv=pv, block=block)
    return found if pv == "fp8" else replace(found, v=v)


def _tiles(x: torch.Tensor, block: int) -> torch.Tensor:
    """Cut ``[L, heads, d]`` into ``[tiles, heads, block, d]``, zeros behind the end."""
    padded = torch.nn.functional.pad(x, (0, 0, 0, 0, 0, -x.shape[0] % block))
    tiles: torch.Tensor = padded.unflatten(0, (-1, block))
    return tiles.transpose(1, 2)


def _to_int8(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Quantise with one scale for the last dimension."""
    if x.numel() == 0:
        return x.to(torch.int8), x.new_ones(x.shape[:-1])
    largest = x.abs().amax(-1)
    usable = largest >= SMALLEST
    finite = torch.isfinite(x).all(-1)
    quantised = (x * torch.where(usable, INT8_MAX / largest, 0.0)[..., None]).round()
    scale = torch.where(usable, largest / INT8_MAX, 1.0).masked_fill(~finite, float("nan"))
    return quantised.nan_to_num(0.0).clamp(-INT8_MAX, INT8_MAX).to(torch.int8), scale
