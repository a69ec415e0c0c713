"""Activations and weights to 8-bit floats (e4m3) and back, in plain torch."""

from __future__ import annotations

import torch
import torch.nn.functional as F

LARGEST = 448.0  # of e4m3
SMALLEST = 2.0**-126  # a smaller scale cannot be divided by
BLOCK = 128


def check_rows(x: torch.Tensor, block: int | None) -> tuple[int, int]:
    """Return ``(M, K)``; raise ValueError for what `quantise_rows` cannot take."""
    if x.ndim != 2 or x.shape[1] == 0:
        raise ValueError(f"x has shape {tuple(x.shape)}: it must be [M, K] with K > 0")
    if x.dtype not in (torch.bfloat16, torch.float16, torch.float32):
        raise ValueError(f"x is {x.dtype}: it must be bfloat16, float16 or float32")
    _check_block(block, K=x.shape[1])
    return x.shape[0], x.shape[1]


def _check_block(block: int | None, **sizes: int) -> None:
    if block is None:
        return
    if block != BLOCK:
        raise ValueError(f"block is {block}: scales belong to whole rows (None) or to blocks of {BLOCK}")
    for name, size in sizes.items():
        if size % BLOCK:
            raise ValueError(f"{name} is {size}: scales of blocks need a multiple of {BLOCK}")


def _scale_of(largest: torch.Tensor) -> torch.Tensor:
    scale = largest / LARGEST
    return torch.where(scale < SMALLEST, 1.0, scale)


def quantise_rows(
    x: torch.Tensor, block: int | None = None, *, gelu: bool = False
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return ``(q, scale)`` with ``x`` about ``q * scale``: each row, or each 128 columns of it, fills the range of
    e4m3.

    The block form is the quantisation of activations of DeepSeek-V3 (arXiv:2412.19437, section 3.3.2).

    Args:
        x: ``[M, K]``, bf16, fp16 or fp32.
        block: nothing for one scale a row, or 128 (``K`` is then a multiple of it).
        gelu: whether GELU (tanh form, in float32) is applied first.

    Returns:
        ``q`` ``[M, K]`` float8_e4m3fn, rounded to nearest even from ``x * (1 / scale)``; ``scale`` ``[M]`` or
        ``[M, K / 128]`` float32, ``max|x| / 448``, and 1 where all are zero.

    Raises:
        ValueError: an argument breaks a rule above.
    """
    m, k = check_rows(x, block)
    width = block or k
    values = F.gelu(x.float(), approximate="tanh") if gelu else x
    blocks = values.reshape(m, k // width, width)
    scale = _scale_of(blocks.abs().amax(-1).float())
    q = (blocks * (1.0 / scale).unsqueeze(-1)).reshape(m, k).to(torch.float8_e4m3fn)
    return q, scale.squeeze(1) if block is None else scale


def quantise_weight(weight: torch.Tensor, block: int | None = None) -> tuple[torch.Tensor, torch.Tensor]:
    """Quantise the weights of experts, once when loaded; one scale for each output, or each 128 x 128 block.

    Args:
        weight: ``[E, K, N]``, bf16, fp16 or fp32, any strides.
        block: nothing, or 128 (``K`` and ``N`` are then multiples of it).

    Returns:
        ``[E, N, K]`` float8_e4m3fn, contiguous, and its scales ``[E, N]`` or ``[E, N / 128, K / 128]`` float32.

    Raises:
        ValueError: an argument breaks a rule above.
    """
    if weight.ndim != 3 or not weight.numel():
        raise ValueError(f"weight has shape {tuple(weight.shape)}: it must be [E, K, N], none of them 0")
    if weight.dtype not in (torch.bfloat16, torch.float16, torch.float32):
        raise ValueError(f"weight is {weight.dtype}: it must be bfloat16, float16 or float32")
    _, k, n = weight.shape
    _check_block(block, K=k, N=n)
    values, scales = [], []
    for expert in weight.unbind(0):  # one at a time: a float32 copy of all would not fit in memory
        tall, wide = (block, block) if block else (1, k)
        blocks = expert.mT.float().reshape(n // tall, tall, k // wide, wide)
        scale = _scale_of(blocks.abs().amax((1, 3)))
        values.append((blocks * (1.0 / scale)[:, None, :, None]).reshape(n, k).to(torch.float8_e4m3fn))
        scales.append(scale if block else scale.squeeze(1))
    return torch.stack(values), torch.stack(scales)


def dequantise(q: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """Compute ``q * scale`` in float32: rows ``[..., K]`` with scales of the same shape, ``[...]`` or ``[..., K /
    128]``.

    Also a weight ``[E, N, K]`` with scales ``[E, N]`` or ``[E, N / 128, K / 128]``.
    """
    if scale.ndim == q.ndim - 1:
        return q.float() * scale.unsqueeze(-1)
    if scale.shape[-2] != q.shape[-2]:
        scale = scale.repeat_interleave(BLOCK, -2)
    return q.float() * scale.repeat_interleave(BLOCK, -1)
