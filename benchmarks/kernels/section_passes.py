"""Memory-bound passes, compared with torch.compile of the same reference and with a copy."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from zoetrope.benchmarks.kernels.cases import KernelInputs
from zoetrope.benchmarks.kernels.contenders import Contender, ContenderRow, ContenderWork
from zoetrope.benchmarks.kernels.peers import compiled
from zoetrope.benchmarks.kernels.section import Bench, Rows
from zoetrope.benchmarks.kernels.shapes import ModelShape
from zoetrope.benchmarks.kernels.timing import Call

EPS = 1e-6
Run = Callable[[Any, Any], object]  # (launcher, inputs)


@dataclass(frozen=True)
class Pass:
    """A pass. ``moved``: bytes that must be read and written. ``run``: calls the kernel or the reference."""

    name: str
    op: str
    function: str
    moved: float
    make: Callable[[KernelInputs], Any]
    run: Run


def passes(bench: Bench) -> Rows:
    """Time every pass for every model at every token count."""
    for model in bench.scope.models:
        for tokens in bench.tokens:
            for one in _passes(bench, model, tokens):
                yield _race(bench, one, f"{one.name}, {model.name}, {tokens} tokens")


def _race(bench: Bench, one: Pass, case: str) -> list[ContenderRow]:
    sets = bench.sets(one.make)
    module = importlib.import_module(f"zoetrope.kernels.reference.{one.op}")
    reference = getattr(module, one.function)

    def plain(i: int) -> Call:
        return lambda: one.run(reference, sets[i])

    contenders = [
        bench.ours("triton", one.op, "triton", one.function, lambda f, i: lambda: one.run(f, sets[i])),
        compiled("torch.compile", plain, bench.device),
        Contender("torch", plain),
    ]
    return bench.race(ContenderWork("passes", case, moved=one.moved), contenders)


def _passes(bench: Bench, model: ModelShape, tokens: int) -> list[Pass]:
    dim, half = model.dim, bench.half
    size = half.itemsize
    row = float(tokens * dim * size)  # reading or writing the activations once

    def normed(inputs: KernelInputs) -> dict[str, Any]:
        residual, update = (inputs.randn(tokens, dim, dtype=half) for _ in range(2))
        tables = {name: inputs.randn(1, dim) for name in ("gate", "shift", "scale")}
        zeros = torch.zeros(tokens, dtype=torch.int64, device=inputs.device)
        return {"residual": residual, "update": update, "row": zeros, **tables}

    def turned(inputs: KernelInputs) -> dict[str, Any]:
        angle = inputs.randn(tokens, model.head_dim // 2)
        weight = inputs.randn(dim, dtype=half)
        return {"x": inputs.randn(tokens, dim, dtype=half), "weight": weight, "cos": angle.cos(), "sin": angle.sin()}

    angles = float(tokens * model.head_dim * 4)
    found = [
        Pass("residual_norm", "residual_norm", "residual_norm", 4 * row + 8.0 * tokens, normed, _residual_norm),
        Pass("residual_gate", "residual_norm", "residual_gate", 3 * row + 8.0 * tokens, normed, _residual_gate),
        Pass(
            "qk_norm_rope",
            "qk_norm_rope",
            "qk_norm_rope",
            2 * row + angles,
            turned,
            lambda f, x: f(x["x"], x["weight"], x["cos"], x["sin"], model.heads, EPS),
        ),
    ]
    if model.experts > 1:
        rows = tokens * model.groups
        moved = float(rows * dim * size + row + rows * 8)
        found.append(Pass("combine", "combine", "combine_experts", moved, _sorted(model, tokens, half), _combine))
    if bench.device.type == "cuda":
        moved = row + tokens * (dim + 4.0)
        found.append(
            Pass("quantise_rows", "quantise_fp8", "quantise_rows", moved, turned, lambda f, x: f(x["x"])),
        )
        found.append(
            Pass(
                "residual_norm, also to fp8",
                "residual_norm",
                "residual_norm",
                4 * row + tokens * (dim + 12.0),
                normed,
                lambda f, x: _residual_norm(f, x, quantise=True),
            )
        )
    return found


def _residual_norm(f: Any, x: dict[str, Any], quantise: bool = False) -> object:
    options = {"shift": x["shift"], "scale": x["scale"], "eps": EPS, "quantise": quantise}
    return f(x["residual"], x["update"], x["gate"], x["row"], **options)


def _residual_gate(f: Any, x: dict[str, Any]) -> object:
    return f(x["residual"], x["update"], x["gate"], x["row"])


def _sorted(model: ModelShape, tokens: int, dtype: torch.dtype) -> Callable[[KernelInputs], Any]:
    def make(inputs: KernelInputs) -> Any:
        from zoetrope.kernels.reference.routing import route_grouped_top1

        correction = torch.zeros(model.experts, device=inputs.device)
        rows = route_grouped_top1(inputs.randn(tokens, model.experts), correction, model.groups)
        return inputs.randn(tokens * model.groups, model.dim, dtype=dtype), rows

    return make


def _combine(f: Any, given: Any) -> object:
    return f(*given)
