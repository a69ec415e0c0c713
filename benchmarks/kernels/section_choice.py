"""Our kernels against what would run instead: each operation as the network calls it, by every implementation there is.

The ratios stand beside the proofs afterwards and decide what runs (`kernels.select.backends`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from zoetrope.benchmarks.environment import capability, device_name
from zoetrope.benchmarks.kernels.cases import KernelInputs
from zoetrope.benchmarks.kernels.contenders import Contender, ContenderRow, ContenderWork
from zoetrope.benchmarks.kernels.section import Bench, Rows
from zoetrope.benchmarks.kernels.section_gemm import Product, products_of
from zoetrope.benchmarks.kernels.shapes import ModelShape
from zoetrope.benchmarks.provenance import now
from zoetrope.kernels import (
    CuSeqlens,
    combine_experts,
    dispatch_tokens,
    grouped_gemm,
    grouped_gemm_fp8,
    linear_gelu,
    permute_rows,
    qk_norm_rope,
    quantise_rows,
    quantise_weight,
    residual_norm,
    route_grouped_top1,
    router_logits,
    varlen_attention,
)
from zoetrope.kernels.reference import routing
from zoetrope.kernels.select.abilities import KernelCall
from zoetrope.kernels.select.backends import BACKENDS, PROOF_OF, Backend
from zoetrope.kernels.select.proofs import Key, Speed, dtype_name
from zoetrope.kernels.select.shapes import attention_class, product_class, rows_class

EPS = 1e-6
RANKS = 4
NEVER_FASTEST = ("attention", "reference")  # every score is written to memory, if that suffices


@dataclass(frozen=True)
class Rivalry:
    """One operation on one class of shapes.

    Attributes:
        make: draws a set of inputs. run: calls the public operation on it, by the implementation of that name.
    """

    op: str
    shape: str
    dtype: torch.dtype
    make: Callable[[KernelInputs], Any]
    run: Callable[[Any, str], object]
    head_dim: int = 0

    def call(self, device: torch.device) -> KernelCall:
        return KernelCall(device, self.dtype, grad=False, head_dim=self.head_dim, shape=self.shape)

    def key(self, backend: str, device: torch.device) -> Key:
        """Return the key of the proof that a kernel needs here."""
        op = PROOF_OF.get(self.op, self.op)
        return op, backend, dtype_name(self.dtype), self.head_dim or None, capability(device)


def choice(bench: Bench) -> Rows:
    """Time every operation of every model at every token count; equal classes of shapes once."""
    seen: set[tuple[str, str]] = set()
    for model in bench.scope.models:
        for tokens in bench.tokens:
            for rivalry in rivalries(bench, model, tokens):
                if (rivalry.op, rivalry.shape) in seen or not _asked_for(bench, rivalry):
                    continue
                seen.add((rivalry.op, rivalry.shape))
                rows = _race(bench, rivalry)
                speeds = speeds_of(rivalry, rows, bench.device)
                bench.speeds.update({key: [*bench.speeds.get(key, []), speed] for key, speed in speeds.items()})
                yield rows


def _backends(bench: Bench, rivalry: Rivalry) -> list[Backend]:
    call = rivalry.call(bench.device)
    able = [backend for backend in BACKENDS[rivalry.op] if backend.exact and backend.why_not(call) is None]
    return [backend for backend in able if (rivalry.op, backend.name) != NEVER_FASTEST]


def _asked_for(bench: Bench, rivalry: Rivalry) -> bool:
    """Tell whether any kernel of ours would be timed, or there is none to run here, as on a CPU."""
    op, dtype = PROOF_OF.get(rivalry.op, rivalry.op), dtype_name(rivalry.dtype)
    return bench.selection.all or any(
        backend.ours and bench.selection.takes(op, backend.name, dtype) for backend in _backends(bench, rivalry)
    )


def _race(bench: Bench, rivalry: Rivalry) -> list[ContenderRow]:
    sets = bench.sets(rivalry.make)
    contenders = []
    op, dtype = PROOF_OF.get(rivalry.op, rivalry.op), dtype_name(rivalry.dtype)
    for backend in _backends(bench, rivalry):
        problem = bench.problem(op, backend.name, dtype, rivalry.head_dim or None) if backend.ours else None

        def make(i: int, name: str = backend.name) -> Callable[[], object]:
            return partial(rivalry.run, sets[i], name)

        contenders.append(
            Contender(
                backend.name,
                None if problem else make,
                problem and f"wrong: {problem}",
                not backend.ours or bench.selection.takes(op, backend.name, dtype),
            )
        )
    return bench.race(ContenderWork("choice", f"{rivalry.op}, {rivalry.shape}"), contenders)


def speeds_of(rivalry: Rivalry, rows: list[ContenderRow], device: torch.device) -> dict[Key, Speed]:
    """Return what the rows of one race say of each kernel of ours, by the key of its proof."""
    seconds = {row.name: row.seconds for row in rows if row.seconds is not None}
    ours = {backend.name for backend in BACKENDS[rivalry.op] if backend.ours}
    theirs = {name: value for name, value in seconds.items() if name not in ours}
    if not theirs:
        return {}
    fastest = min(theirs, key=theirs.__getitem__)
    return {
        rivalry.key(name, device): Speed(
            op=rivalry.op,
            shape=rivalry.shape,
            ratio=theirs[fastest] / seconds[name],
            fastest=fastest,
            against=tuple(theirs),
            seconds=seconds[name],
            device=device_name(device),
            date=now(),
        )
        for name in seconds.keys() & ours
    }


def rivalries(bench: Bench, model: ModelShape, tokens: int) -> Iterator[Rivalry]:
    """Yield the operations of a step of a model, in its dtype and in the sizes that it has there."""
    half, heads, dim = bench.half, model.heads, model.dim
    for keys in (tokens, model.text):
        yield _attention(model, tokens, keys, half)
    for product in products_of(model, tokens):
        if product.gelu:  # what the second product reads in a network of 8-bit floats
            yield _quantised(product.rows, product.n, half, gelu=True)
        if model.experts > 1:
            yield _experts(model, tokens, product, half)
            yield _experts_fp8(model, tokens, product, half)
        elif product.gelu:  # the other product of a dense layer is cuBLAS's in any case
            yield _dense(model, tokens, product, half)

    def passed(inputs: KernelInputs) -> dict[str, Any]:
        angle = inputs.randn(tokens, model.head_dim // 2)
        return {
            "x": inputs.randn(tokens, dim, dtype=half),
            "update": inputs.randn(tokens, dim, dtype=half),
            "row": torch.zeros(tokens, dtype=torch.int64, device=inputs.device),
            "tables": {name: inputs.randn(1, dim) for name in ("shift", "scale")},
            "gate": inputs.randn(1, dim),
            "weight": inputs.randn(dim, dtype=half),
            "turn": (angle.cos(), angle.sin()),
        }

    def norm(given: Any, name: str) -> object:
        tables = given["tables"]
        return residual_norm(given["x"], given["update"], given["gate"], given["row"], **tables, eps=EPS, backend=name)

    def turn(given: Any, name: str) -> object:
        cos, sin = given["turn"]
        return qk_norm_rope(given["x"], given["weight"], cos, sin, heads, EPS, backend=name)

    shape = rows_class(tokens, dim)
    yield Rivalry("residual_norm", shape, half, passed, norm)
    yield Rivalry("qk_norm_rope", shape, half, passed, turn)
    yield _quantised(tokens, dim, half)
    if model.experts > 1:
        yield from _routing(model, tokens, half)


def _attention(model: ModelShape, tokens: int, keys: int, dtype: torch.dtype) -> Rivalry:
    cu_q, cu_k = CuSeqlens.of([tokens]), CuSeqlens.of([keys])

    def make(inputs: KernelInputs) -> tuple[torch.Tensor, ...]:
        lengths = (tokens, keys, keys)
        return tuple(inputs.randn(length, model.heads, model.head_dim, dtype=dtype) for length in lengths)

    def run(given: Any, name: str) -> object:
        q, k, v = given
        return varlen_attention(q, k, v, cu_q, cu_k, backend=name)

    return Rivalry("attention", attention_class(cu_q, cu_k), dtype, make, run, head_dim=model.head_dim)


def _experts(model: ModelShape, tokens: int, product: Product, dtype: torch.dtype) -> Rivalry:
    def run(given: Any, name: str) -> object:
        return grouped_gemm(**given, gelu=product.gelu, backend=name)

    shape = product_class(product.rows, product.experts, product.k, product.n)
    return Rivalry("grouped_gemm", shape, dtype, partial(product.make, tokens=tokens, model=model, dtype=dtype), run)


def _experts_fp8(model: ModelShape, tokens: int, product: Product, dtype: torch.dtype) -> Rivalry:
    def make(inputs: KernelInputs) -> tuple[Any, ...]:
        given = product.make(inputs, tokens, model, dtype)
        x, weight = quantise_rows(given["x"], backend="torch"), quantise_weight(given["weight"])
        return *x, *weight, given["offsets"], given["bias"]

    def run(given: Any, name: str) -> object:
        return grouped_gemm_fp8(*given, out_dtype=dtype, backend=name)

    shape = product_class(product.rows, product.experts, product.k, product.n)
    return Rivalry("grouped_gemm_fp8", shape, torch.float8_e4m3fn, make, run)


def _quantised(rows: int, width: int, dtype: torch.dtype, *, gelu: bool = False) -> Rivalry:
    def run(given: torch.Tensor, name: str) -> object:
        return quantise_rows(given, gelu=gelu, backend=name).scale

    shape = rows_class(rows, width)
    return Rivalry("quantise_fp8", shape, dtype, lambda inputs: inputs.randn(rows, width, dtype=dtype), run)


def _dense(model: ModelShape, tokens: int, product: Product, dtype: torch.dtype) -> Rivalry:
    def make(inputs: KernelInputs) -> tuple[torch.Tensor, ...]:
        weight = inputs.randn(product.n, product.k, dtype=dtype, scale=product.k**-0.5)
        return inputs.randn(tokens, product.k, dtype=dtype), weight, inputs.randn(product.n, dtype=dtype)

    def run(given: Any, name: str) -> object:
        return linear_gelu(*given, backend=name)

    return Rivalry("linear_gelu", product_class(product.rows, 1, product.k, product.n), dtype, make, run)


def _routing(model: ModelShape, tokens: int, dtype: torch.dtype) -> Iterator[Rivalry]:
    """Yield the operations around the products of experts."""
    rows, fp32 = tokens * model.groups, torch.float32

    def scored(inputs: KernelInputs) -> tuple[torch.Tensor, torch.Tensor]:
        return inputs.randn(tokens, model.experts), torch.zeros(model.experts, device=inputs.device)

    def placed(inputs: KernelInputs) -> Any:
        logits, correction = scored(inputs)
        return routing.route_grouped_top1(logits, correction, model.groups)

    yield Rivalry(
        "router_logits",
        rows_class(tokens, model.dim),
        dtype,
        lambda inputs: (inputs.randn(tokens, model.dim, dtype=dtype), inputs.randn(model.experts, model.dim)),
        lambda given, name: router_logits(*given, backend=name),
    )
    yield Rivalry(
        "routing",
        rows_class(tokens, model.experts),
        fp32,
        scored,
        lambda given, name: route_grouped_top1(given[0], given[1], model.groups, backend=name).gate,
    )
    yield Rivalry(
        "permute_rows",
        rows_class(tokens, model.dim),
        dtype,
        lambda inputs: (inputs.randn(tokens, model.dim, dtype=dtype), placed(inputs)),
        lambda given, name: permute_rows(*given, backend=name),
    )
    yield Rivalry(
        "combine",
        rows_class(rows, model.dim),
        dtype,
        lambda inputs: (inputs.randn(rows, model.dim, dtype=dtype), placed(inputs), inputs.randn(model.dim)),
        lambda given, name: combine_experts(*given, backend=name),
    )
    yield Rivalry(
        "dispatch",
        rows_class(rows, 1),
        fp32,
        placed,
        lambda given, name: dispatch_tokens(given, RANKS, backend=name).pairs,
    )
