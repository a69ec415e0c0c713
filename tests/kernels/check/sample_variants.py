"""Kernels made to keep or to break the rules of the ahead-of-time check, for its tests; run without the interpreter."""
# mypy: disable-error-code="no-untyped-def, untyped-decorator, name-defined"

from __future__ import annotations

import json
import os
import sys
from dataclasses import asdict
from typing import Any

import triton
import triton.language as tl

from zoetrope.kernels.check.compile_check import compile_all
from zoetrope.kernels.check.compile_table import broken_rules
from zoetrope.kernels.gpu.variant import Variant


@triton.jit
def product(a, b, out, k, M: tl.constexpr, N: tl.constexpr, K: tl.constexpr):
    """``out [M, N] = a [M, k] @ b [k, N]`` in one program."""
    m, n = tl.arange(0, M), tl.arange(0, N)
    total = tl.zeros((M, N), dtype=tl.float32)
    for start in range(0, k, K):
        ks = start + tl.arange(0, K)
        total = tl.dot(tl.load(a + m[:, None] * k + ks[None, :]), tl.load(b + ks[:, None] * N + n[None, :]), total)
    tl.store(out + m[:, None] * N + n[None, :], total)


@triton.jit
def copied(source, target, M: tl.constexpr, N: tl.constexpr):
    """One tile from descriptor to descriptor."""
    target.store([0, 0], source.load([0, 0]))


@triton.jit
def wrong(source):
    """Does not compile."""
    tl.store(source, unknown_name)  # noqa: F821


class Dying:
    """Takes the compiling process down."""

    @property
    def arg_names(self) -> list[str]:
        os.abort()


def _product(name: str, m: int, n: int, k: int, warps: int, stages: int = 3, **flags: bool) -> Variant:
    types = {"a": "*bf16", "b": "*bf16", "out": "*fp32", "k": "i32"} | dict.fromkeys("MNK", "constexpr")
    return Variant(
        name,
        product,
        types,
        {"M": m, "N": n, "K": k},
        divisible=frozenset({"a", "b", "out", "k"}),
        num_warps=warps,
        num_stages=stages,
        **flags,
    )


def variants() -> list[Variant]:
    tile = "tensordesc<bf16[64,64]>"
    kinds = {"source": tile, "target": tile, "M": "constexpr", "N": "constexpr"}
    return [
        _product("good", 64, 64, 64, 4, wgmma=True),
        _product("spills", 256, 256, 64, 4, wgmma=True),
        _product("shared", 128, 256, 128, 8, stages=4),
        _product("few-rows", 16, 64, 64, 4, wgmma=True),  # wgmma has at least 64 rows
        Variant("tma", copied, kinds, {"M": 64, "N": 64}, tma=True, setmaxnreg=True),
        Variant("wrong", wrong, {"source": "*fp32"}, {}),
        Variant("dies", Dying(), {}, {}),
        Variant("signature", copied, {"source": tile}, {}),
    ]


if __name__ == "__main__":
    listed = variants()
    figures, failures = compile_all(listed, jobs=int(sys.argv[1]))
    answer: dict[str, Any] = {"figures": {name: asdict(row) for name, row in figures.items()}, "failures": failures}
    answer["broken"] = {
        variant.name: broken_rules(figures[variant.name], variant.wgmma, variant.tma, variant.setmaxnreg)
        for variant in listed
        if variant.name in figures
    }
    print(json.dumps(answer))
