"""Grouped products (bf16, fp8) with the bias and GELU that a layer has, compared with cuBLAS and torch's grouped_mm."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F

from zoetrope.benchmarks.kernels.cases import KernelInputs
from zoetrope.benchmarks.kernels.contenders import Contender, ContenderRow, ContenderWork
from zoetrope.benchmarks.kernels.peers import grouped_mm
from zoetrope.benchmarks.kernels.section import Bench, Rows
from zoetrope.benchmarks.kernels.shapes import ModelShape
from zoetrope.benchmarks.kernels.timing import Call
from zoetrope.kernels.reference import grouped_gemm as reference


@dataclass(frozen=True)
class Product:
    """One of the two products of a feed-forward, with rows sorted by expert and sizes from random routing.

    ``gelu`` follows the first; both have a bias, but for the second one of experts, whose sum has one.
    """

    which: str
    rows: int
    k: int
    n: int
    experts: int
    gelu: bool
    bias: bool

    def make(self, inputs: KernelInputs, tokens: int, model: ModelShape, dtype: torch.dtype) -> dict[str, Any]:
        """Draw ``x`` [rows, k], ``weight`` [experts, k, n], ``offsets`` and ``bias`` [experts, n] or None."""
        weight = inputs.randn(self.experts, self.k, self.n, dtype=dtype, scale=self.k**-0.5)
        bias = inputs.randn(self.experts, self.n, dtype=dtype) if self.bias else None
        offsets = inputs.offsets(counts_of(inputs, tokens, model))
        return {
            "x": inputs.randn(self.rows, self.k, dtype=dtype),
            "weight": weight,
            "offsets": offsets,
            "bias": bias,
        }


def products_of(model: ModelShape, tokens: int) -> Iterator[Product]:
    """Yield the products of a model's feed-forward."""
    rows, experts = tokens * model.groups, model.experts
    yield Product("up", rows, model.dim, model.hidden, experts, gelu=True, bias=True)
    yield Product("down", rows, model.hidden, model.dim, experts, gelu=False, bias=experts == 1)


def counts_of(inputs: KernelInputs, tokens: int, model: ModelShape) -> list[int]:
    """Return the rows of each expert if every token picks one of each group at random."""
    size = model.experts // model.groups
    found: list[int] = []
    for _ in range(model.groups):
        picked = torch.randint(size, (tokens,), generator=inputs.generator, device=inputs.device)
        found += torch.bincount(picked, minlength=size).tolist()
    return found


def grouped_gemm(bench: Bench) -> Rows:
    """Time the up and down products of every model at every token count."""
    for model in bench.scope.models:
        for tokens in bench.tokens:
            for product in products_of(model, tokens):
                yield _race(bench, model, tokens, product)


def _race(bench: Bench, model: ModelShape, tokens: int, p: Product) -> list[ContenderRow]:
    sets = bench.sets(partial(p.make, tokens=tokens, model=model, dtype=bench.half))
    work = ContenderWork(
        "grouped_gemm",
        f"{model.name} {p.which}, {tokens} tokens",
        flops=2.0 * p.rows * p.k * p.n,
        moved=float(bench.half.itemsize) * (p.rows * (p.k + p.n) + p.experts * p.k * p.n),
    )

    def ours(f: Any, i: int) -> Call:
        return partial(f, **sets[i], gelu=p.gelu)

    contenders = [
        bench.ours("triton bf16", "grouped_gemm", "triton", "grouped_gemm", ours),
        _dense(sets, p),
        _torch(sets, p),
        *(_fp8(bench, sets, p, name, block) for name, block in (("triton fp8", None), ("triton fp8 blocks", 128))),
    ]
    return bench.race(work, contenders)


def _dense(sets: list[dict[str, Any]], p: Product) -> Contender:
    """Return one dense product with as many rows, and cuBLAS's own epilogue where it has one."""

    def make(i: int) -> Call:
        x, weight, bias = sets[i]["x"], sets[i]["weight"][0], sets[i]["bias"]
        if bias is None:
            return lambda: x @ weight
        if p.gelu and x.device.type == "cuda":
            return lambda: torch._addmm_activation(bias[0], x, weight, use_gelu=True)
        product: Call = partial(torch.addmm, bias[0], x, weight)
        return (lambda: F.gelu(torch.addmm(bias[0], x, weight), approximate="tanh")) if p.gelu else product

    return Contender("cublas bf16", make)


def _torch(sets: list[dict[str, Any]], p: Product) -> Contender:
    """Return torch's grouped product as the network runs it without kernels of ours."""
    if grouped_mm() is None:
        return Contender("torch grouped_mm bf16", absent="this torch has no grouped_mm")
    return Contender("torch grouped_mm bf16", lambda i: partial(reference.grouped_gemm, **sets[i], gelu=p.gelu))


def _fp8(bench: Bench, sets: list[dict[str, Any]], p: Product, name: str, block: int | None) -> Contender:
    """Return an fp8 product of inputs that the pass before has quantised; GELU belongs to the pass after it."""
    if bench.device.type != "cuda":
        return Contender(name, absent="it needs a GPU")
    from zoetrope.kernels.reference.quantise_fp8 import quantise_rows, quantise_weight

    def call(f: Any, i: int) -> Call:
        x, x_scale = quantise_rows(sets[i]["x"], block)
        weight, weight_scale = quantise_weight(sets[i]["weight"], block)
        given = (x, x_scale, weight, weight_scale, sets[i]["offsets"], sets[i]["bias"])
        return lambda: f(*given, out_dtype=torch.bfloat16)

    return bench.ours(name, "grouped_gemm_fp8", "triton", "grouped_gemm_fp8", call, dtype="fp8")
