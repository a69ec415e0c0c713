"""One thing to do, several that can do it, each timed or absent for a reason."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch

from benchmarks.kernels.timing import Call, Clock

INPUT_SETS = 2


@dataclass(frozen=True)
class Work:
    """What is done: a section of the report, a case in it, and the least that it takes.

    Attributes:
        flops: of the products. moved: bytes read and written once.
    """

    section: str
    case: str
    flops: float = 0.0
    moved: float = 0.0


@dataclass(frozen=True)
class Contender:
    """``make(i)`` gives a call on the i-th set of inputs; one that is absent has a reason instead."""

    name: str
    make: Callable[[int], Call] | None = None
    absent: str | None = None


@dataclass(frozen=True)
class Row:
    """A contender's result.

    Attributes:
        seconds: median; low, high: the fifth and ninety-fifth percentile. None where it is absent.
        difference: relative, from the result of the first contender of the case, where both give one tensor.
        absent: the reason why there is no time.
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
        return self.flops / self.seconds / 1e12 if self.seconds and self.flops else None

    @property
    def bandwidth(self) -> float | None:
        """Terabytes a second."""
        return self.moved / self.seconds / 1e12 if self.seconds and self.moved else None

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Row:
        return cls(**values)


class DeviceLost(RuntimeError):
    """A kernel left the GPU in a state in which this process can do nothing more with it."""


def still_there(what: str) -> None:
    """After an error.

    Raises:
        DeviceLost: it was an illegal access or the like, and every later call would fail for it.
    """
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        try:
            torch.cuda.synchronize()
        except Exception as error:
            raise DeviceLost(f"{what}: {error}") from error


def race(work: Work, contenders: Iterable[Contender], clock: Clock, cap: float) -> list[Row]:
    """A row for every contender; one that raises is absent, and the others go on.

    Raises:
        DeviceLost: none can go on.
    """
    rows: list[Row] = []
    first: torch.Tensor | None = None
    for contender in contenders:
        if contender.make is None:
            rows.append(Row(work.section, work.case, contender.name, absent=contender.absent or "not there"))
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
        except Exception as error:  # a peer that cannot do this case says so in the table
            still_there(f"{contender.name}, {work.case}")
            reason = " ".join(f"{type(error).__name__}: {error}".split())[:300]
            rows.append(Row(work.section, work.case, contender.name, absent=reason))
        else:
            row = Row(
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


def absent_all(work: Work, names: Sequence[str], reason: str) -> list[Row]:
    """Rows of a case that could not even be set up."""
    return [Row(work.section, work.case, name, absent=reason) for name in names]


def _tensor(result: object) -> torch.Tensor | None:
    while isinstance(result, tuple) and result:
        result = result[0]
    return result if isinstance(result, torch.Tensor) else None


def difference(result: torch.Tensor | None, first: torch.Tensor) -> float | None:
    """Relative, in pieces to save memory; None where they cannot be compared."""
    if result is None or result.numel() != first.numel() or not result.is_floating_point():
        return None
    total = torch.zeros((), dtype=torch.float64, device=first.device)
    norm = torch.zeros_like(total)
    for ours, theirs in zip(result.flatten().split(1 << 24), first.flatten().split(1 << 24), strict=True):
        a, b = ours.float(), theirs.float()
        total += (a - b).square().sum(dtype=torch.float64)
        norm += b.square().sum(dtype=torch.float64)
    return float((total / norm.clamp_min(1e-300)).sqrt())
