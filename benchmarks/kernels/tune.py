"""Tune tile sizes on this device; the fastest correct ones go to kernels/data/tiles-<device>.json."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from zoetrope.benchmarks.command import write_json
from zoetrope.benchmarks.kernels.cases import LIMITS
from zoetrope.benchmarks.kernels.cases_attention import EIGHT_BIT
from zoetrope.benchmarks.kernels.contenders import check_device, difference
from zoetrope.benchmarks.kernels.section import Bench
from zoetrope.benchmarks.kernels.section_gemm import Product, products_of
from zoetrope.benchmarks.kernels.selection import Kernel
from zoetrope.benchmarks.kernels.shapes import ModelShape
from zoetrope.kernels.gpu import tiles
from zoetrope.kernels.select.proofs import dtype_name
from zoetrope.kernels.types.varlen import CuSeqlens

MIN_GAIN = 1.01  # speed-up over the current tile that is needed to change the table
LIMIT = 2 * LIMITS[torch.bfloat16]  # between two results that are each within the limit
EPS = 1e-6


@dataclass(frozen=True)
class TuningProblem:
    """One key of the tables. ``call(tile)`` runs the kernel with a tile, None for the current one."""

    key: str
    kernel: Kernel
    candidates: Sequence[Any]
    call: Callable[[Any], Any]


@dataclass(frozen=True)
class TuningResult:
    """The best tile of a key, or None to keep the current one; its speed-up; and the number of failed candidates."""

    key: str
    tile: Any
    gain: float
    seconds: float
    failed: int


def solve(problem: TuningProblem, bench: Bench) -> TuningResult:
    """Return the fastest candidate whose result agrees with that of the current tile, which was checked before."""
    with torch.inference_mode():
        expected = _last(problem.call(None))
        used = bench.clock.time([partial(problem.call, None)] * 2, bench.scope.cap / 4).median
        ranked: list[tuple[float, Any]] = []
        failed = 0
        for tile in problem.candidates:
            try:
                ranked.append((bench.clock.time([partial(problem.call, tile)] * 2, bench.scope.cap / 4).median, tile))
            except Exception:  # for example, too much shared memory for this device
                check_device(f"{problem.key} with {tile}")
                failed += 1
        for seconds, tile in sorted(ranked, key=lambda entry: entry[0]):
            if seconds * MIN_GAIN > used:
                break
            off = difference(_last(problem.call(tile)), expected)
            if off is not None and off <= LIMIT:
                return TuningResult(problem.key, tile, used / seconds, seconds, failed)
            failed += 1
    return TuningResult(problem.key, None, 1.0, used, failed)


def problems(bench: Bench, part: str) -> Iterator[TuningProblem]:
    """Yield the keys that the models need in bf16, for one part of the benchmark."""
    makers: dict[str, Callable[[Bench, ModelShape], Iterator[TuningProblem]]] = {
        "grouped_gemm": _gemm,
        "attention": _attention,
        "passes": _rows,
    }
    if part not in makers:
        return
    seen: set[str] = set()
    for model in bench.scope.models:
        for problem in makers[part](bench, model):
            if problem.key not in seen:  # several token counts may share a tile
                seen.add(problem.key)
                yield problem


def _gemm(bench: Bench, model: ModelShape) -> Iterator[TuningProblem]:
    """Yield both products as the network calls them, with their bias and GELU."""
    inputs, name = bench.inputs(0), dtype_name(bench.half)
    launch = inputs.function("grouped_gemm", "triton", "grouped_gemm")
    for tokens in bench.tokens:
        for product in products_of(model, tokens):
            given = product.make(inputs, tokens, model, bench.half)
            key = tiles.gemm_key(name, product.rows, product.experts, product.n, product.k)
            call = partial(_call, launch, *given.values(), gelu=product.gelu)
            yield TuningProblem(key, ("grouped_gemm", "triton", name, None), tiles.gemm_candidates(name), call)
            if bench.device.type == "cuda":
                yield from _fp8(bench, product, given)


def _fp8(bench: Bench, product: Product, given: dict[str, Any]) -> Iterator[TuningProblem]:
    from zoetrope.kernels.reference.quantise_fp8 import quantise_rows, quantise_weight

    launch = bench.inputs(0).function("grouped_gemm_fp8", "triton", "grouped_gemm_fp8")
    for kind, block in (("fp8/rows", None), ("fp8/blocks", 128)):
        values, scale = quantise_rows(given["x"], block)
        weight, weight_scale = quantise_weight(given["weight"], block)
        key = tiles.gemm_key(kind, product.rows, product.experts, product.n, product.k)
        operands = (values, scale, weight, weight_scale, given["offsets"], given["bias"])
        call = partial(_call, launch, *operands)
        yield TuningProblem(key, ("grouped_gemm_fp8", "triton", "fp8", None), tiles.gemm_candidates(kind), call)


def _attention(bench: Bench, model: ModelShape) -> Iterator[TuningProblem]:
    """Yield all four forms; those that need a GPU's instructions only there."""
    inputs, tokens, gpu = bench.inputs(0), min(32768, max(bench.tokens)), bench.device.type == "cuda"
    cu = CuSeqlens.of([tokens])
    for head_dim in sorted({model.head_dim, 64}):
        for dtype in (torch.bfloat16, torch.float16) if gpu else (bench.half,):
            q, k, v = (inputs.randn(tokens, model.heads, head_dim, dtype=dtype) for _ in range(3))
            for backend in ("triton", "gluon", *EIGHT_BIT) if gpu else ("triton", "int8"):
                name = "attention_8bit" if backend in EIGHT_BIT else "attention"
                options = {"pv": EIGHT_BIT[backend]} if backend in EIGHT_BIT else {}
                yield TuningProblem(
                    f"attention/{backend}/{dtype_name(dtype)}/d{head_dim}",
                    ("attention", backend, dtype_name(dtype), head_dim),
                    tiles.attention_candidates(head_dim, dtype, backend),
                    partial(_call, inputs.function("attention", backend, name), q, k, v, cu, cu, **options),
                )


def _rows(bench: Bench, model: ModelShape) -> Iterator[TuningProblem]:
    inputs, width, dtype = bench.inputs(0), model.dim, bench.half
    tokens = min(32768, max(bench.tokens))
    residual, update = (inputs.randn(tokens, width, dtype=dtype) for _ in range(2))
    gate, shift, scale = (inputs.randn(1, width) for _ in range(3))
    row = torch.zeros(tokens, dtype=torch.int64, device=bench.device)
    angle = inputs.randn(tokens, model.head_dim // 2)
    norm = inputs.function("residual_norm", "triton", "residual_norm")
    only = inputs.function("residual_norm", "triton", "residual_gate")
    turn = inputs.function("qk_norm_rope", "triton", "qk_norm_rope")
    given = {"shift": shift, "scale": scale, "eps": EPS}
    weight = inputs.randn(width, dtype=dtype)
    calls: dict[str, Callable[[Any], Any]] = {
        "residual_norm": partial(_call, norm, residual, update, gate, row, **given),
        "residual_gate": partial(_call, only, residual, update, gate, row),
        "qk_norm_rope": partial(_call, turn, residual, weight, angle.cos(), angle.sin(), model.heads, EPS),
    }
    for op, call in calls.items():
        columns = tiles.column_block(width) if op == "residual_gate" else width
        kernel = ("residual_norm" if op == "residual_gate" else op, "triton", dtype_name(dtype), None)
        yield TuningProblem(tiles.row_key(op, width), kernel, tiles.row_candidates(columns), call)


def _call(launch: Callable[..., Any], *arguments: Any, **rest: Any) -> Any:
    *arguments_, tile = arguments  # the tuner appends the tile
    return launch(*arguments_, **rest, tile=tile) if tile is not None else launch(*arguments_, **rest)


def _last(result: Any) -> torch.Tensor:
    """Return the last of several results: of a residual and its norm, the norm."""
    found: torch.Tensor = result[-1] if isinstance(result, tuple) else result
    return found


def write(table: str, tried: Iterable[TuningResult], header: dict[str, Any], folder: Path = tiles.DATA) -> Path:
    """Merge tuning results into the device's table; returns its path."""
    path = folder / f"tiles-{table}.json"
    stored = json.loads(path.read_text()) if path.is_file() else {"tiles": {}}
    for result in tried:
        if result.tile is not None:
            stored["tiles"][result.key] = tiles.entry(result.tile)
    stored["run"] = header
    stored["tiles"] = dict(sorted(stored["tiles"].items()))
    write_json(path, stored)
    return path
