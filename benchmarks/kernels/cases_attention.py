"""Attention cases: packed sequences of all kinds of lengths, masks, and NaN in neighbouring sequences."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch

from zoetrope.benchmarks.kernels.cases import INT8_LIMIT, LIMITS, KernelCase, KernelInputs, case
from zoetrope.benchmarks.kernels.cases_rows import EPS, normed_and_rotated
from zoetrope.kernels.types.block_mask import BLOCK_K, BLOCK_Q, BlockMask
from zoetrope.kernels.types.varlen import CuSeqlens

EXACT = ("triton", "gluon")
EIGHT_BIT = {"int8": "fp16", "int8_fp8": "fp8"}


def attention_cases(inputs: KernelInputs) -> Iterator[KernelCase]:
    """Yield cases for each backend, both head dimensions and each supported dtype."""
    hopper = inputs.device.type == "cuda" and torch.cuda.get_device_capability(inputs.device) == (9, 0)
    for head_dim in (64, 128):
        for backend in ("triton", "gluon", "int8", "int8_fp8"):
            if backend in ("gluon", "int8_fp8") and inputs.kernels and not hopper:
                continue  # needs Hopper instructions, or fp8 casts that the interpreter gets wrong
            for dtype in inputs.dtypes:
                if backend != "triton" and dtype == torch.float32:
                    continue
                yield from _of(inputs, backend, dtype, head_dim)


def _of(inputs: KernelInputs, backend: str, dtype: torch.dtype, head_dim: int) -> Iterator[KernelCase]:
    pick = inputs.random
    most = 150 if inputs.tiny else 1500
    for _ in range(1 if inputs.tiny else 5):
        count = pick.randrange(1, 4 if inputs.tiny else 7)
        lq = [pick.choice([1, pick.randrange(1, most)]) for _ in range(count)]
        lk = [pick.choice([0, 1, pick.randrange(1, most)]) for _ in range(count)]
        yield _case(inputs, backend, dtype, head_dim, 2, lq, lk, set())
    yield _case(inputs, backend, dtype, head_dim, 2, [70, 1, 33], [70, 1, 33], {"nan"})
    yield _case(inputs, backend, dtype, head_dim, 2, [100], [130], {"fused"})
    if backend != "gluon":
        yield _case(inputs, backend, dtype, head_dim, 2, [200, 130], [200, 70], {"mask"})
    if backend in EXACT:
        yield _case(inputs, backend, dtype, head_dim, 2, [90], [200], {"large"})
    if backend in EIGHT_BIT:
        yield _projected(inputs, backend, dtype, head_dim, 3, [70, 0, 130])
    if backend in EIGHT_BIT and not inputs.tiny:
        yield _projected(inputs, backend, dtype, head_dim, 24, [2048, 1000])
    if not inputs.tiny:
        yield _case(inputs, backend, dtype, head_dim, 24, [4096], [4096], set())
        yield _case(inputs, backend, dtype, head_dim, 40, [2048, 1000], [512, 77], set())


def _case(
    inputs: KernelInputs,
    backend: str,
    dtype: torch.dtype,
    head_dim: int,
    heads: int,
    lq: Sequence[int],
    lk: Sequence[int],
    given: set[str],
) -> KernelCase:
    """Make one case. ``given``: nan (in another sequence), fused (views of one tensor), mask, large (scores)."""
    cu_q, cu_k = CuSeqlens.of(lq), CuSeqlens.of(lk)
    q = inputs.randn(cu_q.total, heads, head_dim, dtype=dtype, scale=6.0 if "large" in given else 1.0)
    if "fused" in given:
        both = inputs.randn(cu_k.total, 2 * heads, head_dim, dtype=dtype)
        k, v = both[:, :heads], both[:, heads:]
    else:
        k, v = (inputs.randn(cu_k.total, heads, head_dim, dtype=dtype) for _ in range(2))
    options: dict[str, Any] = {"return_lse": True}
    masks: list[torch.Tensor] | None = None
    if "mask" in given:
        shapes = [(heads, -(-a // BLOCK_Q), -(-b // BLOCK_K)) for a, b in zip(lq, lk, strict=True)]
        masks = [inputs.randn(*shape) > 0 for shape in shapes]
        options["mask"] = BlockMask.of(masks)
    if backend in EIGHT_BIT:
        options["pv"] = EIGHT_BIT[backend]
    keep = None
    if "nan" in given:
        for x, cu in ((q, cu_q), (k, cu_k), (v, cu_k)):
            x[cu.offsets[1] : cu.offsets[2]] = float("nan")
        keep = torch.tensor([i for i in range(cu_q.total) if not cu_q.offsets[1] <= i < cu_q.offsets[2]])
        keep = keep.to(q.device)
    function = inputs.function("attention", backend, "attention_8bit" if backend in EIGHT_BIT else "attention")

    def run() -> tuple[torch.Tensor, ...]:
        out, lse = function(q, k, v, cu_q, cu_k, **options)
        return out, lse.T

    name = f"{heads} heads of {head_dim}, {list(lq)} on {list(lk)} {' '.join(sorted(given))}".strip()
    return case(
        "attention",
        backend,
        dtype,
        name,
        run,
        lambda: _exact(q, k, v, cu_q, cu_k, masks),
        limit=INT8_LIMIT if backend in EIGHT_BIT else LIMITS[dtype],
        head_dim=head_dim,
        keep=keep,
    )


def _projected(
    inputs: KernelInputs, backend: str, dtype: torch.dtype, head_dim: int, heads: int, lengths: Sequence[int]
) -> KernelCase:
    """Make a case of self-attention from projections, whose norm and rotation are part of the kernels."""
    cu, width = CuSeqlens.of(lengths), heads * head_dim
    q, k, v = (inputs.randn(cu.total, width, dtype=dtype) for _ in range(3))
    q_weight, k_weight = ((1 + inputs.randn(width, scale=0.1)).to(dtype) for _ in range(2))
    angle = inputs.randn(cu.total, head_dim // 2, scale=3.0)
    cos, sin = angle.cos(), angle.sin()
    values = v.unflatten(1, (heads, head_dim))
    function = inputs.function("attention", backend, "attention_of_projections")

    def expected() -> list[torch.Tensor]:
        queries = normed_and_rotated(q, q_weight, cos, sin, heads)
        keys = normed_and_rotated(k, k_weight, cos, sin, heads)
        return _exact(queries, keys, values, cu, cu, None)[:1]

    return case(
        "attention",
        backend,
        dtype,
        f"{heads} heads of {head_dim}, projections of {list(lengths)}",
        lambda: function(q, k, values, q_weight, k_weight, cos, sin, EPS, cu, cu, pv=EIGHT_BIT[backend]),
        expected,
        limit=INT8_LIMIT,
        head_dim=head_dim,
    )


def _exact(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    cu_q: CuSeqlens,
    cu_k: CuSeqlens,
    masks: list[torch.Tensor] | None,
) -> list[torch.Tensor]:
    """Compute output and log-sum-exp ``[Nq, heads]`` in float64, head by head to save memory."""
    out, lse = q.double(), torch.empty(q.shape[:2], dtype=torch.float64, device=q.device)
    for i in range(len(cu_q.lengths)):
        rows, keys = slice(*cu_q.offsets[i : i + 2]), slice(*cu_k.offsets[i : i + 2])
        for head in range(q.shape[1]):
            scores = q[rows, head].double() @ k[keys, head].double().T * q.shape[-1] ** -0.5
            if masks is not None:
                blocks = masks[i][head].repeat_interleave(BLOCK_Q, 0).repeat_interleave(BLOCK_K, 1)
                scores = scores.masked_fill(~blocks[: scores.shape[0], : scores.shape[1]], float("-inf"))
            lse[rows, head] = scores.logsumexp(-1) if scores.shape[1] else float("-inf")
            weights = torch.exp(scores - lse[rows, head, None].clamp_min(-1e300))
            out[rows, head] = weights @ v[keys, head].double()
    return [out, lse]
