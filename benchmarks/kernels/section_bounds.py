"""The limits of this device: matrix products and copies."""

from __future__ import annotations

import torch

from zoetrope.benchmarks.kernels.contenders import Contender, ContenderWork
from zoetrope.benchmarks.kernels.section import Bench, Rows
from zoetrope.benchmarks.kernels.targets import COPY
from zoetrope.benchmarks.kernels.timing import Call


def bounds(bench: Bench) -> Rows:
    """Time cuBLAS for each dtype, and a copy."""
    side, inputs = bench.scope.cube, bench.inputs(0)
    for dtype in (torch.bfloat16, torch.float16):
        a, b = (inputs.randn(side, side, dtype=dtype) for _ in range(2))

        def product(i: int, a: torch.Tensor = a, b: torch.Tensor = b) -> Call:
            return lambda: (a @ b) if i == 0 else (b @ a)

        name = f"cuBLAS {str(dtype).removeprefix('torch.')}"
        yield bench.race(ContenderWork("bounds", f"product of {side}", flops=2.0 * side**3), [Contender(name, product)])
    yield bench.race(ContenderWork("bounds", f"product of {side}, fp8", flops=2.0 * side**3), [_fp8(bench, side)])
    size = bench.scope.copied
    source = torch.zeros(size, dtype=torch.uint8, device=bench.device)
    target = torch.empty_like(source)
    copy = Contender(COPY, lambda i: lambda: target.copy_(source))
    yield bench.race(ContenderWork("bounds", f"copy of {size} bytes", moved=2.0 * size), [copy])


def _fp8(bench: Bench, side: int) -> Contender:
    if bench.device.type != "cuda":
        return Contender("cuBLAS fp8", absent="it needs a GPU")
    one = torch.ones((), device=bench.device)

    def make(i: int) -> Call:
        a, b = (bench.inputs(i).randn(side, side).to(torch.float8_e4m3fn) for _ in range(2))
        return lambda: torch._scaled_mm(a, b.T, scale_a=one, scale_b=one, out_dtype=torch.bfloat16)

    return Contender("cuBLAS fp8", make)
