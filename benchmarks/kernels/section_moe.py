"""The feed-forward of routed experts, from the router to the weighted sum, and its smaller parts."""

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
from zoetrope.kernels.select.backends import use
from zoetrope.model.network.experts import MoEFeedForward

RANKS = 4
# Operations of a layer, and the dtype of their kernels' proofs if it is not the layer's.
OPERATIONS = {"router_logits": None, "routing": "fp32", "permute_rows": None, "grouped_gemm": None, "combine": None}


def moe(bench: Bench) -> Rows:
    """Time the models with experts at every token count."""
    for model in bench.scope.models:
        if model.experts == 1:
            continue
        for tokens in bench.tokens:
            sets = bench.sets(partial(_inputs, dtype=bench.half, tokens=tokens, model=model))
            flops = 4.0 * tokens * model.dim * model.active
            contenders = [*_ours(bench, sets, model), *_torch(bench, sets, model), liger_moe()]
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

    contenders = [bench.ours("triton", "routing", "triton", name, call, dtype="fp32"), Contender("torch", plain)]
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

    ours = bench.ours("triton", "dispatch", "triton", "dispatch_tokens", call, dtype="fp32")
    contenders = [ours, Contender("torch", plain)]
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
        "up_bias": inputs.randn(model.experts, model.hidden, dtype=dtype),
        "down_bias": inputs.randn(model.dim, dtype=dtype),
    }


def _ours(bench: Bench, sets: list[dict[str, Any]], model: ModelShape) -> list[Contender]:
    """Return the network's own layer: with our kernels, and as it runs without them."""
    gpu = bench.kernels and bench.device.type == "cuda"
    problems = {op: bench.problem(op, "triton", dtype) for op, dtype in OPERATIONS.items()}
    problems = {op: bench.problem(op, "triton", dtype) for op, dtype in OPERATIONS.items()}
    wrong = next((f"{op}: {problem}" for op, problem in problems.items() if problem is not None), None)
    choices = {"triton": "triton" if gpu else "", "the network without our kernels": "torch"}

    def make(i: int, name: str) -> Call:
        layer, x = _layer(sets[i], model), sets[i]["x"]

        def call() -> torch.Tensor:
            with use(choices[name]):
                out: torch.Tensor = layer(x)
                return out

        return call

    absent = f"wrong: {wrong}" if wrong and gpu else None
    found = []
    for name in choices:
        ours = name == "triton"
        selected = not ours or any(bench.selection.takes(op, "triton") for op in OPERATIONS)
        made = None if ours and absent else partial(make, name=name)
        found.append(Contender(name, made, absent if ours else None, selected))
    return found


def _layer(given: dict[str, Any], model: ModelShape) -> MoEFeedForward:
    with torch.device("meta"):
        layer = MoEFeedForward(model.dim, model.hidden, model.experts, model.groups, 0, groups=model.groups, bias=True)
    names = {"gate.weight": "router", "w1": "up", "w2": "down", "b1": "up_bias", "b2": "down_bias"}
    weights = {name: given[source] for name, source in names.items()}
    layer.load_state_dict({**weights, "correction": given["correction"]}, assign=True)
    return layer.requires_grad_(False)


def _torch(bench: Bench, sets: list[dict[str, Any]], model: ModelShape) -> list[Contender]:
    """Return the feed-forward in torch operations: router, sort, gather, two grouped products, GELU, weighted sum."""
    name = "torch grouped_mm + permutes"
    function = grouped_mm()
    if function is None:
        return [Contender(name, absent="this torch has no grouped_mm")]
    size = model.experts // model.groups

    def make(i: int) -> Call:
        given = sets[i]

        def call() -> torch.Tensor:
            scores = F.linear(given["x"].float(), given["router"]) + given["correction"]
            first = torch.arange(model.groups, device=scores.device) * size
            experts = (scores.unflatten(1, (model.groups, size)).argmax(-1) + first).flatten()
            ordered, order = experts.sort(stable=True)
            numbers = torch.arange(1, model.experts + 1, device=scores.device)
            ends = torch.searchsorted(ordered, numbers).int()
            hidden = function(given["x"][order // model.groups], given["up"], offs=ends) + given["up_bias"][ordered]
            y = function(F.gelu(hidden, approximate="tanh"), given["down"], offs=ends)
            back = torch.empty_like(order).scatter_(0, order, torch.arange(len(order), device=order.device))
            summed = y[back].unflatten(0, (-1, model.groups)).sum(1, dtype=torch.float32)
            out: torch.Tensor = (summed + given["down_bias"]).to(y.dtype)
            return out

        return call

    return [Contender(name, make), compiled(f"{name}, torch.compile", make, bench.device)]
