"""Compare implementations of the same work; each is timed, or absent for a reason."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch

from zoetrope.benchmarks.kernels.timing import Call, Clock

INPUT_SETS = 2


@dataclass(frozen=True)
class ContenderWork:
    """The work to do: a section of the report, a case in it, and its minimum cost.

    Attributes:
        flops: of the matrix products.
        moved: bytes that must be read and written.
    """

    section: str
    case: str
    flops: float = 0.0
    moved: float = 0.0


@dataclass(frozen=True)
class Contender:
    """An implementation. ``make(i)`` returns a call on the i-th set of inputs; if None, ``absent`` says why.

    ``selected``: False if the run is about other kernels: it has no row at all.
    """

    name: str
    make: Callable[[int], Call] | None = None
    absent: str | None = None
    selected: bool = True


@dataclass(frozen=True)
class ContenderRow:
    """A contender's result.

    Attributes:
        seconds: median; low, high: 5th and 95th percentile. None if absent.
        difference: relative, from the result of the first contender of the case, if both return a tensor.
        absent: why there is no time.
    """

    section: str
    case: str
    name: str
    seconds: float | None = None
    low: float | None = None
    high: float | None = None
    runs: int = 0
    flops: float = 0.0
    moved: float = 0.0
    difference: float | None = None
    absent: str | None = None

    @property
    def tflops(self) -> float | None:
        """Return TFLOP/s."""
        return self.flops / self.seconds / 1e12 if self.seconds and self.flops else None

    @property
    def bandwidth(self) -> float | None:
        """Return TB/s."""
        return self.moved / self.seconds / 1e12 if self.seconds and self.moved else None

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> ContenderRow:
        return cls(**values)


class DeviceLost(RuntimeError):
    """A kernel left the GPU unusable for this process."""


def check_device(what: str) -> None:
    """Check after an error that the GPU still works.

    Raises:
        DeviceLost: it does not, as after an illegal access; ``what`` names the cause.
    """
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        try:
            torch.cuda.synchronize()
        except Exception as error:
            raise DeviceLost(f"{what}: {error}") from error


def race(work: ContenderWork, contenders: Iterable[Contender], clock: Clock, cap: float) -> list[ContenderRow]:
    """Time all contenders and return a row for each; one that raises is absent.

    Raises:
        DeviceLost: no further call can succeed.
    """
    rows: list[ContenderRow] = []
    first: torch.Tensor | None = None
    for contender in (one for one in contenders if one.selected):
        if contender.make is None:
            rows.append(ContenderRow(work.section, work.case, contender.name, absent=contender.absent or "not there"))
            continue
        try:
            calls = [contender.make(i) for i in range(INPUT_SETS)]
            with torch.inference_mode():
                result = _tensor(calls[0]())
                off = None if first is None else difference(result, first)
                if off is not None and not math.isfinite(off):
                    raise ArithmeticError("its result is not finite")
                first = result if first is None else first
                timing = clock.time(calls, cap)
        except Exception as error:  # reported in the table
            check_device(f"{contender.name}, {work.case}")
            reason = " ".join(f"{type(error).__name__}: {error}".split())[:300]
            rows.append(ContenderRow(work.section, work.case, contender.name, absent=reason))
        else:
            row = ContenderRow(
                work.section,
                work.case,
                contender.name,
                timing.median,
                timing.low,
                timing.high,
                timing.runs,
                work.flops,
                work.moved,
                off,
            )
            rows.append(row)
        calls = []
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
    return rows


def _tensor(result: object) -> torch.Tensor | None:
    while isinstance(result, tuple) and result:
        result = result[0]
    return result if isinstance(result, torch.Tensor) else None


def difference(result: torch.Tensor | None, first: torch.Tensor) -> float | None:
    """Return the relative difference, computed in pieces to save memory; None if the two cannot be compared."""
    if result is None or result.numel() != first.numel() or not result.is_floating_point():
        return None
    total = torch.zeros((), dtype=torch.float64, device=first.device)
    norm = torch.zeros_like(total)
    for ours, theirs in zip(result.flatten().split(1 << 24), first.flatten().split(1 << 24), strict=True):
        a, b = ours.float(), theirs.float()
        total += (a - b).square().sum(dtype=torch.float64)
        norm += b.square().sum(dtype=torch.float64)
    return float((total / norm.clamp_min(1e-300)).sqrt())
