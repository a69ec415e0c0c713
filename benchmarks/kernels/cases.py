"""One question to a kernel: inputs, what it must give by float64, and how far it may be off."""

from __future__ import annotations

import importlib
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from kernels.proofs import MODULES, dtype_name

# Largest relative error against float64, by the dtype that a result is rounded to.
LIMITS = {torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 1e-2}
FP8_LIMIT = 2e-2  # products of fp8 numbers that are exact in the reference; tensor cores sum them in less than float32
QUANTISED_LIMIT = 4e-2  # a normal number rounded to e4m3: half of 2 ** -3 at most, 2 ** -5 and less in the mean
INT8_LIMIT = 5e-2  # 8-bit attention against exact attention on normal inputs
WORST_ROW = 10.0  # a single row may be this many times further off than all together

Results = tuple[torch.Tensor, ...]


@dataclass(frozen=True)
class Case:
    """``run`` calls the kernel; ``error`` says how far its results are from float64, infinity for wrong ones."""

    op: str
    backend: str
    dtype: str
    head_dim: int | None
    name: str
    limit: float
    run: Callable[[], Results]
    error: Callable[[Results], float]


@dataclass
class Inputs:
    """Random inputs of one run.

    Attributes:
        tiny: toy sizes, for a machine without a GPU. kernels: the kernels themselves, else their references.
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
        """The interpreter gets bf16 products wrong."""
        if self.device.type != "cuda" and self.kernels:
            return torch.float32, torch.float16
        return torch.float32, torch.float16, torch.bfloat16

    def randn(self, *shape: int, dtype: torch.dtype = torch.float32, scale: float = 1.0) -> torch.Tensor:
        x = torch.randn(*shape, generator=self.generator, device=self.device, dtype=torch.float32)
        return x.mul_(scale).to(dtype)

    def permutation(self, length: int) -> torch.Tensor:
        """``[length]`` int32."""
        return torch.randperm(length, generator=self.generator, device=self.device).int()

    def integers(self, high: int, length: int) -> torch.Tensor:
        """``[length]`` int32 below ``high``."""
        return torch.randint(high, (length,), generator=self.generator, device=self.device).int()

    def ragged(self, parts: int, total: int) -> list[int]:
        """Lengths that add up to ``total``, some of them zero, some one."""
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
        """The launcher of a kernel, or its reference."""
        module = MODULES[op, backend]
        if not self.kernels:
            short = module.rsplit(".", 1)[1].removesuffix("_gluon")
            module = f"kernels.reference.{short}"
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
) -> Case:
    """A case whose results are compared one by one with ``expected``.

    Args:
        keep: rows of the results that count, where others were poisoned. skip: results at the front not to compare.
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
    return Case(op, backend, dtype_name(dtype), head_dim, name, limit, call, error)


def worst_error(result: torch.Tensor, expected: torch.Tensor) -> float:
    """The relative error of the whole, or that of the worst row by `WORST_ROW` if it is larger.

    A NaN, another shape, or an infinity that is not expected is infinitely far.
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
