"""Keep torch.compile out of these operations."""

from __future__ import annotations

from collections.abc import Callable
from typing import ParamSpec, TypeVar

import torch

P = ParamSpec("P")
R = TypeVar("R")


def opaque(function: Callable[P, R]) -> Callable[P, R]:
    """Exclude a function from compilation: lengths and counts known on the host would become constants of the code."""
    disabled: Callable[P, R] = torch.compiler.disable(function)
    return disabled
