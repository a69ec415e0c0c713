"""Grouped matrix products (bf16, gathered, fp8), compared with cuBLAS at equal FLOPs and torch's grouped_mm."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from zoetrope.benchmarks.kernels.cases import KernelInputs
from zoetrope.benchmarks.kernels.contenders import Contender, ContenderRow, ContenderWork
from zoetrope.benchmarks.kernels.peers import grouped_mm
from zoetrope.benchmarks.kernels.section import Bench, Rows
from zoetrope.benchmarks.kernels.shapes import ModelShape
from zoetrope.benchmarks.kernels.timing import Call


@dataclass(frozen=True)
class Product:
    """One of the two products of a feed-forward, with rows sorted by expert and sizes from random routing."""

    rows: int
    k: int
    n: int
    experts: int

    def name(self, model: ModelShape, which: str, tokens: int) -> str:
        return f"{model.name} {which}, {tokens} tokens"


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
            for which, k, n in (("up", model.dim, model.hidden), ("down", model.hidden, model.dim)):
                product = Product(tokens * model.groups, k, n, model.experts)
                yield _race(bench, model, tokens, product, product.name(model, which, tokens), which == "up")


def _race(bench: Bench, model: ModelShape, tokens: int, p: Product, case: str, up: bool) -> list[ContenderRow]:
    dtype = bench.half

    def make(inputs: KernelInputs) -> dict[str, Any]:
        weight = inputs.randn(p.experts, p.k, p.n, dtype=dtype, scale=p.k**-0.5)
        x = inputs.randn(p.rows, p.k, dtype=dtype)
        return {"x": x, "weight": weight, "offsets": inputs.offsets(counts_of(inputs, tokens, model))}

    sets = bench.sets(make)
    work = ContenderWork("grouped_gemm", case, flops=2.0 * p.rows * p.k * p.n, moved=_moved(p, dtype.itemsize))
    launch = partial(bench.ours, op="grouped_gemm", function="grouped_gemm", backend="triton")
    contenders = [
        launch("triton bf16", call=lambda f, i: partial(f, sets[i]["x"], sets[i]["weight"], sets[i]["offsets"])),
        _dense(sets),
        _torch(sets),
    ]
    if up and model.groups > 1:
        contenders.append(launch("triton bf16, gathered", call=partial(_gathered, bench, sets, tokens)))
    contenders += [_fp8(bench, sets, name, block) for name, block in (("triton fp8", None), ("triton fp8 blocks", 128))]
    return bench.race(work, contenders)


def _moved(p: Product, size: int) -> float:
    return float(size) * (p.rows * (p.k + p.n) + p.experts * p.k * p.n)


def _gathered(bench: Bench, sets: list[dict[str, Any]], tokens: int, f: Any, i: int) -> Call:
    x = sets[i]["x"]
    rows = bench.inputs(i).integers(tokens, len(x))
    return lambda: f(x[:tokens], sets[i]["weight"], sets[i]["offsets"], rows=rows)


def _dense(sets: list[dict[str, Any]]) -> Contender:
    """Return one dense product with as many rows."""
    return Contender("cublas bf16", lambda i: lambda: sets[i]["x"] @ sets[i]["weight"][0])


def _torch(sets: list[dict[str, Any]]) -> Contender:
    function = grouped_mm()
    if function is None:
        return Contender("torch grouped_mm bf16", absent="this torch has no grouped_mm")

    def make(i: int) -> Call:
        ends = sets[i]["offsets"][1:].contiguous()
        return lambda: function(sets[i]["x"], sets[i]["weight"], offs=ends)

    return Contender("torch grouped_mm bf16", make)


def _fp8(bench: Bench, sets: list[dict[str, Any]], name: str, block: int | None) -> Contender:
    """Return an fp8 product whose inputs are already quantised, as the preceding pass leaves them."""
    if bench.device.type != "cuda":
        return Contender(name, absent="it needs a GPU")
    from zoetrope.kernels.reference.quantise_fp8 import quantise_rows, quantise_weight

    def call(f: Any, i: int) -> Call:
        x, x_scale = quantise_rows(sets[i]["x"], block)
        weight, weight_scale = quantise_weight(sets[i]["weight"], block)
        return lambda: f(x, x_scale, weight, weight_scale, sets[i]["offsets"], out_dtype=torch.bfloat16)

    return bench.ours(name, "grouped_gemm_fp8", "triton", "grouped_gemm_fp8", call)
