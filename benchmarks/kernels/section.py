"""What every section of the benchmark is given, and what it gives."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch

from benchmarks.kernels.cases import Inputs
from benchmarks.kernels.contenders import INPUT_SETS, Contender, Row, Work, race
from benchmarks.kernels.shapes import Scope
from benchmarks.kernels.timing import Call, Clock, clock_for


@dataclass
class Bench:
    """One run.

    Attributes:
        wrong: kernels that gave wrong results in this run, by (op, backend), with what was wrong: they are not timed.
        tokens: the token counts to run. done: (section, case) pairs of an earlier run to leave out.
    """

    scope: Scope
    device: torch.device
    seed: int
    kernels: bool
    tokens: tuple[int, ...]
    wrong: dict[tuple[str, str], str] = field(default_factory=dict)
    done: set[tuple[str, str]] = field(default_factory=set)

    @cached_property
    def clock(self) -> Clock:
        return clock_for(self.device)

    @property
    def half(self) -> torch.dtype:
        """bf16; the interpreter and old CPUs are spared it."""
        return torch.bfloat16 if self.device.type == "cuda" else torch.float32

    def inputs(self, set_number: int) -> Inputs:
        """Another source of random inputs for each set."""
        return Inputs(self.seed + set_number, self.device, tiny=self.scope.cap < 1, kernels=self.kernels)

    def sets(self, make: Callable[[Inputs], Any]) -> list[Any]:
        """``make`` called once for each set of inputs."""
        return [make(self.inputs(i)) for i in range(INPUT_SETS)]

    def ours(self, name: str, op: str, backend: str, function: str, call: Callable[..., Call]) -> Contender:
        """A kernel of ours; ``call(launcher, i)`` makes the call on the i-th inputs."""
        problem = self.wrong.get((op, backend))
        if problem is not None:
            return Contender(name, absent=f"wrong: {problem}")
        inputs = self.inputs(0)
        return Contender(name, lambda i: call(inputs.function(op, backend, function), i))

    def race(self, work: Work, contenders: list[Contender]) -> list[Row]:
        if (work.section, work.case) in self.done:
            return []
        return race(work, contenders, self.clock, self.scope.cap)


Rows = Iterator[list[Row]]
