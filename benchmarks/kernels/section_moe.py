"""The feed-forward of routed experts, from logits to the weighted sum, and the routing before it."""

from __future__ import annotations

import importlib
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F

from zoetrope.benchmarks.kernels.cases import KernelInputs
from zoetrope.benchmarks.kernels.contenders import Contender, ContenderRow, ContenderWork
from zoetrope.benchmarks.kernels.peers import compiled, grouped_mm, liger_moe
from zoetrope.benchmarks.kernels.section import Bench, Rows
from zoetrope.benchmarks.kernels.shapes import ModelShape
from zoetrope.benchmarks.kernels.timing import Call

RANKS = 4
NEEDED = (("routing", "triton"), ("permute_rows", "triton"), ("grouped_gemm", "triton"), ("combine", "triton"))


def moe(bench: Bench) -> Rows:
    """Time the models with experts at every token count."""
    for model in bench.scope.models:
        if model.experts == 1:
            continue
        for tokens in bench.tokens:
            sets = bench.sets(partial(_inputs, dtype=bench.half, tokens=tokens, model=model))
            flops = 4.0 * tokens * model.dim * model.active
            contenders = [_ours(bench, sets, model), *_torch(bench, sets, model), liger_moe()]
            yield bench.race(ContenderWork("moe", f"ffn {model.name}, {tokens} tokens", flops=flops), contenders)
            yield _router(bench, sets, model, tokens)
            yield _routing(bench, sets, model, tokens)
            yield _permute(bench, sets, model, tokens)
            yield _dispatch(bench, sets, model, tokens)


def _router(bench: Bench, sets: list[dict[str, Any]], model: ModelShape, tokens: int) -> list[ContenderRow]:
    """Time the router's product."""

    def ours(f: Any, i: int) -> Call:
        return lambda: f(sets[i]["x"], sets[i]["router"])

    plain = Contender("torch", lambda i: lambda: F.linear(sets[i]["x"].float(), sets[i]["router"]))
    work = ContenderWork("moe", f"router {model.name}, {tokens} tokens", flops=2.0 * tokens * model.dim * model.experts)
    return bench.race(work, [bench.ours("triton", "router_logits", "triton", "router_logits", ours), plain])


def _routing(bench: Bench, sets: list[dict[str, Any]], model: ModelShape, tokens: int) -> list[ContenderRow]:
    """Time the choice of experts and the ordering of rows."""
    name = "route_grouped_top1"

    def call(f: Any, i: int) -> Call:
        return lambda: f(sets[i]["logits"], sets[i]["correction"], model.groups).gate

    def plain(i: int) -> Call:
        return call(importlib.import_module("zoetrope.kernels.reference.routing").route_grouped_top1, i)

    contenders = [bench.ours("triton", "routing", "triton", name, call), Contender("torch", plain)]
    moved = float(tokens * (4 * model.experts + 12 * model.groups))
    return bench.race(ContenderWork("moe", f"routing {model.name}, {tokens} tokens", moved=moved), contenders)


def _permute(bench: Bench, sets: list[dict[str, Any]], model: ModelShape, tokens: int) -> list[ContenderRow]:
    """Time the copy of tokens into the order of their experts."""
    reference = importlib.import_module("zoetrope.kernels.reference.routing")
    rows = [reference.route_grouped_top1(s["logits"], s["correction"], model.groups) for s in sets]

    def call(f: Any, i: int) -> Call:
        return lambda: f(sets[i]["x"], rows[i])

    def plain(i: int) -> Call:
        return call(importlib.import_module("zoetrope.kernels.reference.permute_rows").permute_rows, i)

    contenders = [bench.ours("triton", "permute_rows", "triton", "permute_rows", call), Contender("torch", plain)]
    moved = float(tokens * model.dim * bench.half.itemsize * (1 + model.groups))
    return bench.race(ContenderWork("moe", f"permute {model.name}, {tokens} tokens", moved=moved), contenders)


def _dispatch(bench: Bench, sets: list[dict[str, Any]], model: ModelShape, tokens: int) -> list[ContenderRow]:
    """Time what each of `RANKS` ranks does before its tokens leave, in every routed layer of a gang."""
    reference = importlib.import_module("zoetrope.kernels.reference.routing")
    rows = [reference.route_grouped_top1(s["logits"], s["correction"], model.groups) for s in sets]

    def call(f: Any, i: int) -> Call:
        return lambda: f(rows[i], RANKS)[1]

    def plain(i: int) -> Call:
        return call(importlib.import_module("zoetrope.kernels.reference.dispatch").dispatch_tokens, i)

    contenders = [bench.ours("triton", "dispatch", "triton", "dispatch_tokens", call), Contender("torch", plain)]
    # Read positions twice; write, sum and read marks; write pairs and rows.
    moved = float(tokens * 4 * (2 * model.groups + 4 * RANKS + 4 * model.groups + 2 * min(RANKS, model.groups)))
    return bench.race(ContenderWork("moe", f"dispatch {model.name}, {tokens} tokens", moved=moved), contenders)


def _inputs(inputs: KernelInputs, dtype: torch.dtype, tokens: int, model: ModelShape) -> dict[str, Any]:
    return {
        "x": inputs.randn(tokens, model.dim, dtype=dtype),
        "logits": inputs.randn(tokens, model.experts),
        "router": inputs.randn(model.experts, model.dim, scale=model.dim**-0.5),
        "correction": torch.zeros(model.experts, device=inputs.device),
        "up": inputs.randn(model.experts, model.dim, model.hidden, dtype=dtype, scale=model.dim**-0.5),
        "down": inputs.randn(model.experts, model.hidden, model.dim, dtype=dtype, scale=model.hidden**-0.5),
    }


def _ours(bench: Bench, sets: list[dict[str, Any]], model: ModelShape) -> Contender:
    for kernel in NEEDED:
        if kernel in bench.wrong:
            return Contender("triton", absent=f"wrong: {'/'.join(kernel)}: {bench.wrong[kernel]}")

    def make(i: int) -> Call:
        inputs, given = bench.inputs(0), sets[i]
        route = inputs.function("routing", "triton", "route_grouped_top1")
        permute = inputs.function("permute_rows", "triton", "permute_rows")
        product = inputs.function("grouped_gemm", "triton", "grouped_gemm")
        combine = inputs.function("combine", "triton", "combine_experts")

        def call() -> Any:
            rows = route(given["logits"], given["correction"], model.groups)
            hidden = product(permute(given["x"], rows), given["up"], rows.offsets, gelu=True)
            return combine(product(hidden, given["down"], rows.offsets), rows)

        return call

    return Contender("triton", make)


def _torch(bench: Bench, sets: list[dict[str, Any]], model: ModelShape) -> list[Contender]:
    """Return the feed-forward in torch operations: sort, gather, two grouped products, GELU, weighted sum."""
    name = "torch grouped_mm + permutes"
    function = grouped_mm()
    if function is None:
        return [Contender(name, absent="this torch has no grouped_mm")]
    size = model.experts // model.groups

    def make(i: int) -> Call:
        given = sets[i]

        def call() -> torch.Tensor:
            logits = (given["logits"] + given["correction"]).unflatten(1, (model.groups, size))
            first = torch.arange(model.groups, device=logits.device) * size
            experts = (logits.argmax(-1) + first).flatten()
            ordered, order = experts.sort(stable=True)
            numbers = torch.arange(1, model.experts + 1, device=logits.device)
            ends = torch.searchsorted(ordered, numbers).int()
            hidden = function(given["x"][order // model.groups], given["up"], offs=ends)
            y = function(F.gelu(hidden, approximate="tanh"), given["down"], offs=ends)
            back = torch.empty_like(order).scatter_(0, order, torch.arange(len(order), device=order.device))
            out: torch.Tensor = y[back].unflatten(0, (-1, model.groups)).sum(1, dtype=torch.float32).to(y.dtype)
            return out

        return call

    return [Contender(name, make), compiled(f"{name}, torch.compile", make, bench.device)]
