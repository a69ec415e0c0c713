"""Kernels made to keep or to break the rules of the ahead-of-time check, for its tests.

python -m tests.kernels.check.sample_variants FOLDER JOBS       without the interpreter; writes what it finds there
"""
# mypy: disable-error-code="no-untyped-def, untyped-decorator, name-defined"

from __future__ import annotations

import json
import os
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import triton
import triton.language as tl

from zoetrope.kernels.check.compile_check import compile_all
from zoetrope.kernels.check.compile_table import broken_rules
from zoetrope.kernels.check.fake_cuda import fake_cuda
from zoetrope.kernels.check.sass import disassemble
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
def chained(q, k, v, out, length, M: tl.constexpr, N: tl.constexpr, D: tl.constexpr):
    """``out [M, D] = exp2(q [M, D] @ k [length, D].T) @ v [length, D]``, whose second product reads registers."""
    m, d = tl.arange(0, M), tl.arange(0, D)
    a = tl.load(q + m[:, None] * D + d[None, :])
    total = tl.zeros((M, D), dtype=tl.float32)
    for start in range(0, length, N):
        at = (start + tl.arange(0, N))[:, None] * D + d[None, :]
        weights = tl.exp2(tl.dot(a, tl.trans(tl.load(k + at))))
        total = tl.dot(weights.to(tl.bfloat16), tl.load(v + at), total)
    tl.store(out + m[:, None] * D + d[None, :], total)


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


def _product(name: str, m: int, n: int, k: int, warps: int, stages: int = 1, **flags: bool) -> Variant:
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
        _product("unfenced", 64, 64, 64, 4, stages=3, wgmma=True),  # both factors come by cp.async
        _product("spills", 256, 256, 64, 4, wgmma=True),
        _product("shared", 128, 256, 128, 8, stages=4),
        _product("few-rows", 16, 64, 64, 4, wgmma=True),  # wgmma has at least 64 rows
        Variant("tma", copied, kinds, {"M": 64, "N": 64}, tma=True, setmaxnreg=True),
        Variant("wrong", wrong, {"source": "*fp32"}, {}),
        Variant("dies", Dying(), {}, {}),
        Variant("signature", copied, {"source": tile}, {}),
    ]


def write_listing(folder: Path) -> None:
    """Write the machine code of `chained` for two warpgroups, and its code in Triton's GPU dialect."""
    with fake_cuda() as device:
        q, k, v = (torch.empty(256, 64, dtype=torch.bfloat16, device="cuda") for _ in range(3))
        out = torch.empty(128, 64, device="cuda")
        chained[(1,)](q, k, v, out, 256, M=128, N=64, D=64, num_warps=8, num_stages=3)
    (kernel,) = device.kernels
    Path(folder, "chained.sass").write_text(disassemble(kernel.cubin))
    Path(folder, "chained.ttgir").write_text(kernel.text("ttgir"))


if __name__ == "__main__":
    folder, jobs = Path(sys.argv[1]), int(sys.argv[2])
    write_listing(folder)
    listed = variants()
    figures, failures = compile_all(listed, jobs)
    answer: dict[str, Any] = {"figures": {name: asdict(row) for name, row in figures.items()}, "failures": failures}
    answer["broken"] = {
        variant.name: broken_rules(figures[variant.name], variant.wgmma, variant.tma, variant.setmaxnreg)
        for variant in listed
        if variant.name in figures
    }
    (folder / "answer.json").write_text(json.dumps(answer))
