"""Cases of row-wise kernels: residual and norm, q/k norm and rotation, weighted sum of experts, routing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch

from zoetrope.benchmarks.kernels.cases import (
    INT8_LIMIT,
    LIMITS,
    QUANTISED_LIMIT,
    KernelCase,
    KernelInputs,
    Results,
    case,
)
from zoetrope.kernels.select.proofs import dtype_name
from zoetrope.kernels.types.permutation import Permutation

EPS = 1e-6


def residual_norm_cases(inputs: KernelInputs) -> Iterator[KernelCase]:
    """Yield every form that the model uses, with one and many rows and noise levels."""
    sizes = [(1, 64), (37, 72)] if inputs.tiny else [(1, 3072), (1000, 3072), (777, 5120), (300, 1536), (50, 72)]
    forms = ["gate update adaptive", "update adaptive", "adaptive", "gate update affine", "gate update", "affine fp8"]
    for dtype in inputs.dtypes:
        for tokens, width in sizes:
            for form in forms:
                if "fp8" in form and inputs.device.type != "cuda" and inputs.kernels:
                    continue
                yield _residual_norm(inputs, dtype, tokens, width, set(form.split()))
        yield _gate(inputs, dtype, *sizes[-1])


def _residual_norm(inputs: KernelInputs, dtype: torch.dtype, tokens: int, width: int, given: set[str]) -> KernelCase:
    levels = inputs.random.choice([1, 3])
    residual = inputs.randn(tokens, width, dtype=dtype)
    update = inputs.randn(tokens, width, dtype=dtype) if "update" in given else None
    gate = inputs.randn(levels, width) if "gate" in given else None
    row = inputs.integers(levels, tokens).long()
    vectors: dict[str, Any] = {}
    if "adaptive" in given:
        vectors = {name: inputs.randn(levels, width) for name in ("shift", "scale")}
    elif "affine" in given:
        vectors = {name: inputs.randn(width, dtype=dtype) for name in ("weight", "bias")}
    function = inputs.function("residual_norm", "triton", "residual_norm")
    fp8 = "fp8" in given

    def run() -> Results:
        total, normed, *quantised = function(residual, update, gate, row, **vectors, eps=EPS, quantise=fp8)
        return total, quantised[0].double() * quantised[1].double()[:, None] if fp8 else normed

    def expected() -> list[torch.Tensor]:
        total = _sum(residual, update, gate, row)
        x = total.to(dtype).double()
        normed = (x - x.mean(1, keepdim=True)) / (x.var(1, unbiased=False, keepdim=True) + EPS).sqrt()
        if "adaptive" in given:
            normed = normed * (1 + vectors["scale"][row].double()) + vectors["shift"][row].double()
        elif "affine" in given:
            normed = normed * vectors["weight"].double() + vectors["bias"].double()
        return [total, normed]

    limit = QUANTISED_LIMIT if fp8 else LIMITS[dtype]
    name = f"{tokens} rows of {width}, {levels} noise levels, {' '.join(sorted(given))}"
    return case("residual_norm", "triton", dtype, name, run, expected, limit=limit)


def _gate(inputs: KernelInputs, dtype: torch.dtype, tokens: int, width: int) -> KernelCase:
    residual, update = (inputs.randn(tokens, width, dtype=dtype) for _ in range(2))
    gate, row = inputs.randn(3, width), inputs.integers(3, tokens).long()
    function = inputs.function("residual_norm", "triton", "residual_gate")
    return case(
        "residual_norm",
        "triton",
        dtype,
        f"{tokens} rows of {width}, residual_gate",
        lambda: function(residual, update, gate, row),
        lambda: [_sum(residual, update, gate, row)],
    )


def _sum(
    residual: torch.Tensor, update: torch.Tensor | None, gate: torch.Tensor | None, row: torch.Tensor
) -> torch.Tensor:
    if update is None:
        return residual.double()
    return residual.double() + update.double() * (1.0 if gate is None else gate[row].double())


def qk_norm_rope_cases(inputs: KernelInputs) -> Iterator[KernelCase]:
    """Yield cases with and without rotation, from a view of a wider tensor, and quantised."""
    sizes = [(5, 2, 32)] if inputs.tiny else [(1, 24, 128), (1000, 24, 128), (500, 40, 128), (333, 12, 64)]
    for dtype in inputs.dtypes:
        for tokens, heads, head_dim in sizes:
            for form in ("rotated", "plain", "rotated fused", "rotated int8"):
                yield _qk_norm_rope(inputs, dtype, tokens, heads, head_dim, set(form.split()))


def _qk_norm_rope(
    inputs: KernelInputs, dtype: torch.dtype, tokens: int, heads: int, head_dim: int, given: set[str]
) -> KernelCase:
    width = heads * head_dim
    x = inputs.randn(tokens, 3 * width, dtype=dtype)[:, width : 2 * width]
    if "fused" not in given:
        x = x.contiguous()
    weight = inputs.randn(width, dtype=dtype)
    angle = inputs.randn(tokens, head_dim // 2, scale=3.0)
    cos, sin = (angle.cos(), angle.sin()) if "rotated" in given else (None, None)
    function = inputs.function("qk_norm_rope", "triton", "qk_norm_rope")
    int8 = "int8" in given

    def run() -> Results | torch.Tensor:
        found: Results = function(x, weight, cos, sin, heads, EPS, int8=int8)
        return found[0].double() * found[1].double()[..., None] if int8 else found

    def expected() -> list[torch.Tensor]:
        return [normed_and_rotated(x, weight, cos, sin, heads)]

    limit = INT8_LIMIT if int8 else LIMITS[dtype]
    name = f"{tokens} rows, {heads} heads of {head_dim}, {' '.join(sorted(given))}"
    return case("qk_norm_rope", "triton", dtype, name, run, expected, limit=limit)


def normed_and_rotated(
    x: torch.Tensor, weight: torch.Tensor, cos: torch.Tensor | None, sin: torch.Tensor | None, heads: int
) -> torch.Tensor:
    """Compute `kernels.ops.qk_norm_rope` in float64: ``[N, heads, d]``."""
    wide = x.double()
    y = wide * (wide.square().mean(1, keepdim=True) + EPS).rsqrt() * weight.double()
    y = y.unflatten(1, (heads, -1))
    if cos is not None and sin is not None:
        even, odd, c, s = y[..., 0::2], y[..., 1::2], cos.double()[:, None], sin.double()[:, None]
        y = torch.stack((even * c - odd * s, even * s + odd * c), -1).flatten(-2)
    return y


def combine_cases(inputs: KernelInputs) -> Iterator[KernelCase]:
    sizes = [(7, 2, 64)] if inputs.tiny else [(1, 8, 3072), (1000, 8, 3072), (400, 2, 5120), (333, 1, 72)]
    for dtype in inputs.dtypes:
        for tokens, choices, width in sizes:
            for extra in (False, True):
                yield _combine(inputs, dtype, tokens, choices, width, extra)


def _combine(
    inputs: KernelInputs, dtype: torch.dtype, tokens: int, choices: int, width: int, extra: bool
) -> KernelCase:
    rows = tokens * choices
    y = inputs.randn(rows, width, dtype=dtype)
    position = inputs.permutation(rows).view(tokens, choices)
    token = torch.empty_like(position.flatten())
    token[position.flatten().long()] = torch.arange(rows, device=y.device, dtype=torch.int32) // choices
    counts = torch.tensor([rows], dtype=torch.int32, device=y.device)
    permutation = Permutation(token, inputs.randn(rows), counts, inputs.offsets([rows]), position)
    bias = inputs.randn(width, dtype=dtype) if extra else None
    shared = inputs.randn(tokens, width, dtype=dtype) if extra else None
    function = inputs.function("combine", "triton", "combine_experts")

    def expected() -> list[torch.Tensor]:
        at = position.long()
        total = (y[at].double() * permutation.gate[at].double()[..., None]).sum(1)
        for more in (bias, shared):
            total = total if more is None else total + more.double()
        return [total]

    name = f"{tokens} tokens, {choices} choices of {width}{', bias and shared' if extra else ''}"
    return case("combine", "triton", dtype, name, lambda: function(y, permutation, bias, shared), expected)


def router_logits_cases(inputs: KernelInputs) -> Iterator[KernelCase]:
    """Yield cases whose result is float32, to the same accuracy for 16-bit tokens."""
    sizes = [(5, 64, 6)] if inputs.tiny else [(1, 3072, 80), (3000, 3072, 80), (777, 5120, 48), (100, 72, 256)]
    for dtype in inputs.dtypes:
        for tokens, width, experts in sizes:
            yield _router_logits(inputs, dtype, tokens, width, experts)


def _router_logits(inputs: KernelInputs, dtype: torch.dtype, tokens: int, width: int, experts: int) -> KernelCase:
    x, weight = inputs.randn(tokens, width, dtype=dtype), inputs.randn(experts, width)
    function = inputs.function("router_logits", "triton", "router_logits")
    return case(
        "router_logits",
        "triton",
        dtype,
        f"{tokens} tokens of {width}, {experts} experts",
        lambda: function(x, weight),
        lambda: [x.double() @ weight.double().T],
        limit=LIMITS[torch.float32],
    )


def routing_cases(inputs: KernelInputs) -> Iterator[KernelCase]:
    """Yield cases with logits on a coarse grid: many exact ties, and no near ties."""
    sizes = [(1, 8, 2), (50, 8, 2)] if inputs.tiny else [(1, 80, 8), (5000, 80, 8), (3001, 256, 8), (20000, 64, 4)]
    for tokens, experts, choices in sizes:
        yield _routing(inputs, "route_top_k", tokens, experts, choices)
        yield _routing(inputs, "route_grouped_top1", tokens, experts, choices)


def _routing(inputs: KernelInputs, kind: str, tokens: int, experts: int, choices: int) -> KernelCase:
    logits = (inputs.randn(tokens, experts) * 64).round() / 64
    logits = logits.clamp(-4, 4)
    correction = torch.zeros(experts, device=logits.device)
    if kind == "route_grouped_top1":
        correction = (inputs.randn(experts) * 8).round() / 8  # so that sums are exact
    function: Callable[..., Permutation] = inputs.function("routing", "triton", kind)

    def run() -> Results:
        p = function(logits, correction, choices)
        return p.token, p.gate, p.counts, p.offsets, p.position

    def error(results: Results) -> float:
        if kind == "route_top_k":
            best = logits.sort(dim=1, descending=True, stable=True).indices[:, :choices]
            scores = logits.double().sigmoid().gather(1, best)
            gates = scores / scores.sum(1, keepdim=True)
        else:
            key = (logits + correction).unflatten(1, (choices, -1))
            member = torch.arange(key.shape[-1], device=key.device).expand_as(key)
            first = member.where(key == key.amax(-1, keepdim=True), key.shape[-1]).amin(-1)
            best = first + torch.arange(choices, device=key.device) * key.shape[-1]
            gates = torch.ones(best.shape, dtype=torch.float64, device=key.device)
        return _routing_error(results, best, gates, experts)

    name = f"{kind}, {tokens} tokens, {choices} of {experts}"
    return KernelCase("routing", "triton", dtype_name(torch.float32), None, name, LIMITS[torch.float32], run, error)


def _routing_error(results: Results, best: torch.Tensor, gates: torch.Tensor, experts: int) -> float:
    """Return the error of the gates if everything else is exact, otherwise infinity."""
    flat = best.flatten()
    order = flat.argsort(stable=True)
    counts = torch.zeros(experts, dtype=torch.int64, device=flat.device).index_add_(0, flat, torch.ones_like(flat))
    position = torch.empty_like(order).scatter_(0, order, torch.arange(len(order), device=flat.device))
    offsets = torch.nn.functional.pad(counts.cumsum(0), (1, 0))
    exact = (order // best.shape[1], counts, offsets, position.view(best.shape))
    token, gate, *others = results
    for got, want in zip((token, *others), exact, strict=True):
        if got.shape != want.shape or not torch.equal(got.long(), want):
            return float("inf")
    want = gates.flatten()[order]
    difference = (gate.double() - want).norm() / want.norm()
    return float(difference) if bool(difference.isfinite()) else float("inf")
