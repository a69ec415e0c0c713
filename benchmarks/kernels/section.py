"""What sections of the benchmark share: their context and the type of their results."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch

from zoetrope.benchmarks.kernels.cases import KernelInputs
from zoetrope.benchmarks.kernels.contenders import INPUT_SETS, Contender, ContenderRow, ContenderWork, race
from zoetrope.benchmarks.kernels.selection import EVERYTHING, Kernel, Selection
from zoetrope.benchmarks.kernels.shapes import Scope
from zoetrope.benchmarks.kernels.timing import Call, Clock, clock_for
from zoetrope.kernels.select.proofs import Key, Speed, dtype_name


@dataclass
class Bench:
    """The context of one run.

    Attributes:
        tokens: the token counts to run.
        wrong: problems of kernels that gave wrong results in this run; they are not timed.
        done: (section, case) pairs of an earlier run to skip.
        selection: the kernels of ours to time. speeds: what was measured of proved kernels, not yet recorded.
    """

    scope: Scope
    device: torch.device
    seed: int
    kernels: bool
    tokens: tuple[int, ...]
    wrong: dict[Kernel, str] = field(default_factory=dict)
    done: set[tuple[str, str]] = field(default_factory=set)
    selection: Selection = EVERYTHING
    speeds: dict[Key, list[Speed]] = field(default_factory=dict)

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

    def problem(self, op: str, backend: str, dtype: str | None = None, head_dim: int | None = None) -> str | None:
        """Return what is wrong with a kernel, by default in `half`; None if nothing is."""
        return self.wrong.get((op, backend, dtype or dtype_name(self.half), head_dim))

    def ours(
        self,
        name: str,
        op: str,
        backend: str,
        function: str,
        call: Callable[..., Call],
        *,
        dtype: str | None = None,
        head_dim: int | None = None,
    ) -> Contender:
        """Return one of our kernels; ``call(launcher, i)`` makes the call on the i-th inputs. ``dtype``, by default
        that of `half`, and ``head_dim`` are those of its proof."""
        if not self.selection.takes(op, backend, dtype or dtype_name(self.half)):
            return Contender(name, selected=False)
        problem = self.problem(op, backend, dtype, head_dim)
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
