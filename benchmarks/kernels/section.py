"""What sections of the benchmark share: their context and the type of their results."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch

from zoetrope.benchmarks.kernels.cases import KernelInputs
from zoetrope.benchmarks.kernels.contenders import INPUT_SETS, Contender, ContenderRow, ContenderWork, race
from zoetrope.benchmarks.kernels.shapes import Scope
from zoetrope.benchmarks.kernels.timing import Call, Clock, clock_for


@dataclass
class Bench:
    """The context of one run.

    Attributes:
        tokens: the token counts to run.
        wrong: problems of kernels that gave wrong results in this run, by (op, backend); they are not timed.
        done: (section, case) pairs of an earlier run to skip.
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
        """Return bf16 on a GPU, float32 otherwise: the interpreter and old CPUs have no bf16."""
        return torch.bfloat16 if self.device.type == "cuda" else torch.float32

    def inputs(self, set_number: int) -> KernelInputs:
        """Return a source of random inputs, different for each set."""
        return KernelInputs(self.seed + set_number, self.device, tiny=self.scope.cap < 1, kernels=self.kernels)

    def sets(self, make: Callable[[KernelInputs], Any]) -> list[Any]:
        """Call ``make`` once for each set of inputs."""
        return [make(self.inputs(i)) for i in range(INPUT_SETS)]

    def ours(self, name: str, op: str, backend: str, function: str, call: Callable[..., Call]) -> Contender:
        """Return one of our kernels; ``call(launcher, i)`` makes the call on the i-th inputs."""
        problem = self.wrong.get((op, backend))
        if problem is not None:
            return Contender(name, absent=f"wrong: {problem}")
        inputs = self.inputs(0)
        return Contender(name, lambda i: call(inputs.function(op, backend, function), i))

    def race(self, work: ContenderWork, contenders: list[Contender]) -> list[ContenderRow]:
        """Time the contenders, unless the case is done."""
        if (work.section, work.case) in self.done:
            return []
        return race(work, contenders, self.clock, self.scope.cap)


Rows = Iterator[list[ContenderRow]]
