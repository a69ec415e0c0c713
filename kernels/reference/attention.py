"""Attention over packed sequences by torch and by installed libraries.

`attention` is the reference: every step spelled out in float32. `attention_sdpa` is torch's own fast operation and
`attention_flash` that of the flash_attn package, version 2 or 3. All are non-causal and scale the scores by
``head_dim ** -0.5``.
"""

from __future__ import annotations

import importlib
from contextlib import ExitStack
from functools import cache
from importlib.util import find_spec
from typing import Any

import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from zoetrope.kernels.types.attention_inputs import check_attention
from zoetrope.kernels.types.block_mask import BLOCK_K, BLOCK_Q, BlockMask
from zoetrope.kernels.types.varlen import CuSeqlens, equal_runs

Result = torch.Tensor | tuple[torch.Tensor, torch.Tensor]
# torch's own kernels, the fastest on Hopper first; each is passed over where it cannot take a call.
FASTEST_FIRST = [
    SDPBackend.CUDNN_ATTENTION,
    SDPBackend.FLASH_ATTENTION,
    SDPBackend.EFFICIENT_ATTENTION,
    SDPBackend.MATH,
]


def attention(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    cu_q: CuSeqlens,
    cu_k: CuSeqlens,
    *,
    mask: BlockMask | None = None,
    return_lse: bool = False,
) -> Result:
    """Compute softmax attention in which sequence ``i`` of the queries sees only sequence ``i`` of the keys;
    differentiable.

    Args:
        q: ``[Nq, heads, head_dim]``. k, v: ``[Nk, heads, head_dim]``, the same dtype; any float, computed in float32 at
            least.
        cu_q, cu_k: lengths that add up to ``Nq`` and ``Nk``, as many sequences in both.
        mask: the blocks of scores to compute; None for all.
        return_lse: also give the natural logarithm of the sum of the exponentials of the scaled scores.

    Returns:
        ``[Nq, heads, head_dim]`` in the dtype of ``q``; with ``return_lse`` also ``[heads, Nq]`` float32. Queries
        without keys give zeros and minus infinity.

    Raises:
        ValueError: the inputs do not fit each other.
    """
    check_attention(q, k, v, cu_q, cu_k, mask)
    wide = torch.promote_types(q.dtype, torch.float32)
    outs: list[torch.Tensor] = []
    lses: list[torch.Tensor] = []
    for i, (lq, lk) in enumerate(zip(cu_q.lengths, cu_k.lengths, strict=True)):
        rows_q = slice(cu_q.offsets[i], cu_q.offsets[i + 1])
        rows_k = slice(cu_k.offsets[i], cu_k.offsets[i + 1])
        qs, ks, vs = (x.transpose(0, 1).to(wide) for x in (q[rows_q], k[rows_k], v[rows_k]))
        scores = (qs * q.shape[-1] ** -0.5) @ ks.transpose(-1, -2)
        if mask is not None:
            blocks = mask.of_sequence(i).repeat_interleave(BLOCK_Q, 1).repeat_interleave(BLOCK_K, 2)
            scores = scores.masked_fill(~blocks[:, :lq, :lk], -torch.inf)
        lse = scores.logsumexp(-1)
        p = torch.exp(scores - lse.masked_fill(lse == -torch.inf, 0.0)[..., None])
        outs.append((p @ vs).transpose(0, 1).to(q.dtype))
        lses.append(lse.float())
    out = torch.cat(outs) if outs else torch.zeros_like(q)
    if not return_lse:
        return out
    return out, torch.cat(lses, 1) if lses else q.new_zeros(q.shape[1], 0, dtype=torch.float32)


def attention_sdpa(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    cu_q: CuSeqlens,
    cu_k: CuSeqlens,
    *,
    mask: BlockMask | None = None,
    return_lse: bool = False,
) -> torch.Tensor:
    """Compute `attention` by ``torch.nn.functional.scaled_dot_product_attention``; runs of equal lengths make one
    batch.

    Raises:
        ValueError: the inputs do not fit each other, or a mask or the log-sum-exp is asked for.
    """
    check_attention(q, k, v, cu_q, cu_k, mask)
    reason = why_not_sdpa(q, k, v, mask, return_lse)
    if reason is not None:
        raise ValueError(f"attention by sdpa: {reason}")
    parts: list[torch.Tensor] = []
    for first, count in equal_runs(cu_q, cu_k):
        rows_q = slice(cu_q.offsets[first], cu_q.offsets[first + count])
        rows_k = slice(cu_k.offsets[first], cu_k.offsets[first + count])
        if cu_k.lengths[first] == 0 or cu_q.lengths[first] == 0:
            parts.append(torch.zeros_like(q[rows_q]))
            continue
        qs, ks, vs = (x.unflatten(0, (count, -1)).transpose(1, 2) for x in (q[rows_q], k[rows_k], v[rows_k]))
        parts.append(_sdpa(qs, ks, vs).transpose(1, 2).flatten(0, 1))
    if not parts:
        return torch.zeros_like(q)
    return parts[0] if len(parts) == 1 else torch.cat(parts)


@cache
def _cudnn_first(capability: tuple[int, int]) -> ExitStack:
    """Have torch take `FASTEST_FIRST` from now on in this process, on Hopper and later; its own order depends on its
    version and on variables. Setting it for one call would take the host 40 us each time."""
    forever = ExitStack()
    if capability >= (9, 0):
        forever.enter_context(sdpa_kernel(FASTEST_FIRST, set_priority=True))
    return forever


def _sdpa(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """Attend over ``[B, heads, L, head_dim]``; spelled out for CPU backward passes, which are slow in torch's own."""
    if q.device.type == "cuda":
        _cudnn_first(torch.cuda.get_device_capability(q.device))
    if q.device.type == "cpu" and torch.is_grad_enabled() and (q.requires_grad or k.requires_grad or v.requires_grad):
        scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)
        out: torch.Tensor = scores.softmax(-1) @ v
        return out
    return F.scaled_dot_product_attention(q, k, v)


def why_not_sdpa(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: BlockMask | None = None, return_lse: bool = False
) -> str | None:
    """Return why `attention_sdpa` cannot take this call, or None."""
    if mask is not None:
        return "it takes no block mask"
    return "it gives no log-sum-exp" if return_lse else None


def attention_flash(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    cu_q: CuSeqlens,
    cu_k: CuSeqlens,
    *,
    mask: BlockMask | None = None,
    return_lse: bool = False,
) -> Result:
    """Compute `attention` by the installed flash_attn: version 3 on Hopper if there is one, else version 2.

    Raises:
        ValueError: the inputs do not fit each other, or the package is missing or cannot take the call.
    """
    check_attention(q, k, v, cu_q, cu_k, mask)
    reason = why_not_flash(q, k, v, mask, return_lse)
    if reason is not None:
        raise ValueError(f"attention by flash_attn: {reason}")
    if q.shape[0] == 0 or k.shape[0] == 0:
        zeros = torch.zeros_like(q)
        return (zeros, q.new_full((q.shape[1], q.shape[0]), -torch.inf, dtype=torch.float32)) if return_lse else zeros
    function: Any = importlib.import_module(_flash_module(q.device)).flash_attn_varlen_func
    found = function(
        *(x if x.stride(-1) == 1 else x.contiguous() for x in (q, k, v)),
        cu_seqlens_q=cu_q.tensor(q.device),
        cu_seqlens_k=cu_k.tensor(q.device),
        max_seqlen_q=max(cu_q.lengths),
        max_seqlen_k=max(cu_k.lengths),
        return_attn_probs=return_lse,
    )
    out: torch.Tensor = found[0] if isinstance(found, tuple) else found  # early versions of 3 always return a tuple
    if not return_lse:
        return out
    lse: torch.Tensor = found[1]
    if lse.ndim == 3:  # [sequences, heads, longest], as versions before 2.6 have it
        lse = torch.cat([lse[i, :, :length] for i, length in enumerate(cu_q.lengths)], 1)
    for i, length in enumerate(cu_k.lengths):
        if length == 0:  # it says plus infinity
            lse[:, cu_q.offsets[i] : cu_q.offsets[i + 1]] = -torch.inf
    return out, lse


def _flash_module(device: torch.device) -> str:
    hopper = torch.cuda.get_device_capability(device) == (9, 0)
    return "flash_attn_interface" if hopper and find_spec("flash_attn_interface") else "flash_attn"


def why_not_flash(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: BlockMask | None = None, return_lse: bool = False
) -> str | None:
    """Return why `attention_flash` cannot take this call, or None."""
    if find_spec("flash_attn_interface") is None and find_spec("flash_attn") is None:
        return "flash_attn is not installed"
    if q.device.type != "cuda":
        return f"it needs a CUDA device, not {q.device.type}"
    if q.dtype not in (torch.float16, torch.bfloat16):
        return f"it takes float16 and bfloat16, not {q.dtype}"
    if q.shape[-1] % 8 or q.shape[-1] > 256:
        return f"it takes heads of a multiple of 8 up to 256, not {q.shape[-1]}"
    if torch.cuda.get_device_capability(q.device) < (8, 0):
        return "it needs compute capability 8.0"
    if find_spec(_flash_module(q.device)) is None:
        return "the installed flash_attn_interface needs Hopper"
    return "it takes no block mask" if mask is not None else None
