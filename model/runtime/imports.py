"""Import what a process needs, and not the compiler of torch, whose import takes a third of the time of a start."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import cast

COMPILER = "torch._dynamo"


@contextmanager
def without_compiler() -> Iterator[None]:
    """Have imports in a block go without torch's compiler, as if it were not installed; it can be imported later.

    diffusers imports it for a decorator that matters to compiled code alone, and does without where there is none. Only
    for imports, at the start of a process: those of other threads would fail meanwhile.
    """
    if COMPILER in sys.modules:
        yield
        return
    sys.modules[COMPILER] = cast(ModuleType, None)
    try:
        yield
    finally:
        del sys.modules[COMPILER]
