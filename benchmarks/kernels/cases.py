"""Correctness cases: inputs of a kernel, its float64 reference, and the allowed error."""

from __future__ import annotations

import importlib
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from zoetrope.kernels.select.proofs import MODULES, dtype_name

# Largest relative error against float64, by the dtype of the result.
LIMITS = {torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 1e-2}
FP8_LIMIT = 2e-2  # products are exact in the reference; tensor cores accumulate them below float32 precision
QUANTISED_LIMIT = 4e-2  # rounding a normal number to e4m3: at most half of 2 ** -3, on average below 2 ** -5
INT8_LIMIT = 5e-2  # 8-bit attention against exact attention on normal inputs
WORST_ROW = 10.0  # the error of one row may exceed the overall error by this factor

Results = tuple[torch.Tensor, ...]


@dataclass(frozen=True)
class KernelCase:
    """``run`` calls the kernel; ``error`` compares its results with float64, infinity for wrong ones."""

    op: str
    backend: str
    dtype: str
    head_dim: int | None
    name: str
    limit: float
    run: Callable[[], Results]
    error: Callable[[Results], float]


@dataclass
class KernelInputs:
    """Random inputs of one run.

    Attributes:
        tiny: toy sizes, for a machine without a GPU.
        kernels: test the kernels themselves; otherwise their references.
    """

    seed: int
    device: torch.device
    tiny: bool
    kernels: bool

    def __post_init__(self) -> None:
        self.random = random.Random(self.seed)
        self.generator = torch.Generator(self.device).manual_seed(self.seed)

    @property
    def dtypes(self) -> tuple[torch.dtype, ...]:
        """Return the dtypes to test, without bf16 in the interpreter, which computes its products wrongly."""
        if self.device.type != "cuda" and self.kernels:
            return torch.float32, torch.float16
        return torch.float32, torch.float16, torch.bfloat16

    def randn(self, *shape: int, dtype: torch.dtype = torch.float32, scale: float = 1.0) -> torch.Tensor:
        x = torch.randn(*shape, generator=self.generator, device=self.device, dtype=torch.float32)
        return x.mul_(scale).to(dtype)

    def permutation(self, length: int) -> torch.Tensor:
        """Return a random permutation ``[length]``, int32."""
        return torch.randperm(length, generator=self.generator, device=self.device).int()

    def integers(self, high: int, length: int) -> torch.Tensor:
        """Return random integers ``[length]`` below ``high``, int32."""
        return torch.randint(high, (length,), generator=self.generator, device=self.device).int()

    def ragged(self, parts: int, total: int) -> list[int]:
        """Return random lengths that add up to ``total``; one is zero."""
        if parts == 1:
            return [total]
        cuts = sorted(self.random.choices(range(total + 1), k=parts - 1))
        lengths = [b - a for a, b in zip([0, *cuts], [*cuts, total], strict=True)]
        empty = self.random.randrange(parts)
        lengths[(empty + 1) % parts] += lengths[empty]
        lengths[empty] = 0
        return lengths

    def offsets(self, lengths: Sequence[int]) -> torch.Tensor:
        return torch.tensor([0, *lengths], dtype=torch.int32).cumsum(0, dtype=torch.int32).to(self.device)

    def function(self, op: str, backend: str, name: str) -> Callable[..., Any]:
        """Return the launcher of a kernel, or its reference."""
        module = MODULES[op, backend]
        if not self.kernels:
            module = f"zoetrope.kernels.reference.{module.rpartition('.')[2].removesuffix('_gluon')}"
        found: Callable[..., Any] = getattr(importlib.import_module(module), name)
        return found


def case(
    op: str,
    backend: str,
    dtype: torch.dtype | str,
    name: str,
    run: Callable[[], Results | torch.Tensor],
    expected: Callable[[], Sequence[torch.Tensor]],
    *,
    limit: float | None = None,
    head_dim: int | None = None,
    keep: torch.Tensor | None = None,
    skip: int = 0,
) -> KernelCase:
    """Make a case whose results are compared one by one with ``expected``.

    Args:
        keep: rows of the results to compare, if others were poisoned.
        skip: number of leading results not to compare.
    """

    def call() -> Results:
        found = run()
        return found if isinstance(found, tuple) else (found,)

    def error(results: Results) -> float:
        rows = slice(None) if keep is None else keep
        return max(worst_error(got[rows], want[rows]) for got, want in zip(results[skip:], expected(), strict=True))

    if limit is None:
        assert isinstance(dtype, torch.dtype)
        limit = LIMITS[dtype]
    return KernelCase(op, backend, dtype_name(dtype), head_dim, name, limit, call, error)


def worst_error(result: torch.Tensor, expected: torch.Tensor) -> float:
    """Return the overall relative error, or the worst row's divided by `WORST_ROW` if that is larger.

    A NaN, a wrong shape or an unexpected infinity gives infinity.
    """
    if result.shape != expected.shape:
        return float("inf")
    got, want = result.double(), expected.double()
    infinite = want.isinf()
    if not torch.equal(got[infinite], want[infinite]) or not bool(got[~infinite].isfinite().all()):
        return float("inf")
    if got.numel() == 0:
        return 0.0
    off = (got - want).masked_fill_(infinite, 0.0).reshape(len(got), -1)
    size = want.masked_fill(infinite, 0.0).reshape(len(got), -1).norm(dim=1)
    mean = float(size.square().mean().sqrt()) or 1.0
    rows = off.norm(dim=1)
    return max(float(rows.square().mean().sqrt()), float(rows.max()) / WORST_ROW) / mean
