"""Keep torch.compile out of these operations."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

import torch

P = ParamSpec("P")
R = TypeVar("R")
_excluding: list[Callable[[], None]] = []  # what excludes each function


def opaque(function: Callable[P, R]) -> Callable[P, R]:
    """Exclude a function from compilation: lengths and counts known on the host would become constants of the code."""
    target = function

    @wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        return target(*args, **kwargs)

    def exclude() -> None:
        nonlocal target
        target = torch.compiler.disable(function)

    _excluding.append(exclude)
    return call


def exclude_all() -> None:
    """Exclude every `opaque` function from now on. Who compiles calls it first: it loads torch's compiler, which takes
    a third of the time in which a rank starts."""
    for exclude in _excluding:
        exclude()
    _excluding.clear()
