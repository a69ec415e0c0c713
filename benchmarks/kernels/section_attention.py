"""Self- and cross-attention of whole clips, in all our forms, compared with every available peer."""

from __future__ import annotations

from typing import Any

import torch

from zoetrope.benchmarks.kernels.cases import KernelInputs
from zoetrope.benchmarks.kernels.cases_attention import EIGHT_BIT
from zoetrope.benchmarks.kernels.contenders import Contender, ContenderRow, ContenderWork
from zoetrope.benchmarks.kernels.peers import attention_peers
from zoetrope.benchmarks.kernels.section import Bench, Rows
from zoetrope.benchmarks.kernels.shapes import ModelShape
from zoetrope.benchmarks.kernels.timing import Call
from zoetrope.kernels.types.block_mask import BLOCK_K, BLOCK_Q, BlockMask
from zoetrope.kernels.types.varlen import CuSeqlens

SPARSE = 0.25  # share of blocks computed in the sparse form


def attention(bench: Bench) -> Rows:
    """Time self- and cross-attention of every model at every token count."""
    for model in bench.scope.models:
        for tokens in bench.tokens:
            for kind, keys in (("self", tokens), ("cross", model.text)):
                yield _race(bench, model, kind, tokens, keys)


def _race(bench: Bench, model: ModelShape, kind: str, tokens: int, keys: int) -> list[ContenderRow]:
    heads, d = model.heads, model.head_dim

    def make(inputs: KernelInputs) -> tuple[torch.Tensor, ...]:
        return tuple(inputs.randn(length, heads, d, dtype=bench.half) for length in (tokens, keys, keys))

    sets = bench.sets(make)
    cu_q, cu_k = CuSeqlens.of([tokens]), CuSeqlens.of([keys])
    flops = 4.0 * tokens * keys * heads * d
    moved = 2.0 * (tokens + keys) * heads * d * bench.half.itemsize
    case = f"{kind} {model.name}, {tokens} on {keys}"
    contenders = [_ours(bench, backend, sets, cu_q, cu_k) for backend in ("triton", "gluon", *EIGHT_BIT)]
    contenders += attention_peers(lambda i: sets[i], bench.device)
    rows = bench.race(ContenderWork("attention", case, flops=flops, moved=moved), contenders)
    if kind == "self":
        rows += bench.race(
            ContenderWork("attention", f"sparse {case}", flops=SPARSE * flops, moved=moved),
            [_sparse(bench, sets, cu_q, cu_k)],
        )
    return rows


def _ours(bench: Bench, backend: str, sets: list[Any], cu_q: CuSeqlens, cu_k: CuSeqlens) -> Contender:
    if backend in ("gluon", "int8_fp8") and bench.device.type != "cuda":
        return Contender(backend, absent="it needs a GPU")
    options = {"pv": EIGHT_BIT[backend]} if backend in EIGHT_BIT else {}

    def call(f: Any, i: int) -> Call:
        return lambda: f(*sets[i], cu_q, cu_k, **options)

    head_dim = sets[0][0].shape[2]
    function = "attention_8bit" if options else "attention"
    return bench.ours(backend, "attention", backend, function, call, head_dim=head_dim)


def _sparse(bench: Bench, sets: list[Any], cu_q: CuSeqlens, cu_k: CuSeqlens) -> Contender:
    _, heads, head_dim = sets[0][0].shape

    def call(f: Any, i: int) -> Call:
        shape = (heads, -(-cu_q.total // BLOCK_Q), -(-cu_k.total // BLOCK_K))
        chosen = torch.rand(shape, generator=bench.inputs(i).generator, device=bench.device) < SPARSE
        mask = BlockMask.of([chosen])
        return lambda: f(*sets[i], cu_q, cu_k, mask=mask)

    name = f"triton, {SPARSE:.0%} of the blocks"
    return bench.ours(name, "attention", "triton", "attention", call, head_dim=head_dim)
