"""Import what a process needs, and not what diffusers would like to know of the machine: the compiler of torch, whose
import takes a third of the time of a start, and which installed package has which name, which takes as long as Ray."""

from __future__ import annotations

import importlib.metadata
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from types import ModuleType
from typing import cast

COMPILER = "torch._dynamo"


@contextmanager
def quick_imports() -> Iterator[None]:
    """Have imports in a block go without torch's compiler, and without the names of all packages until one is wanted.

    Only for imports, at the start of a process: see `without_compiler`.
    """
    with without_compiler(), names_when_wanted():
        yield


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


@contextmanager
def names_when_wanted() -> Iterator[None]:
    """Have `importlib.metadata.packages_distributions` read the lists of all installed files only when a name is looked
    up in what it returns: diffusers asks for it when it is imported, and then looks up nothing that we have."""
    search = importlib.metadata.packages_distributions

    def later() -> Mapping[str, list[str]]:
        return _Names(search)

    importlib.metadata.packages_distributions = later
    try:
        yield
    finally:
        importlib.metadata.packages_distributions = search


class _Names(Mapping[str, list[str]]):
    """The distributions of each top-level package, by ``search`` at the first look."""

    def __init__(self, search: Callable[[], Mapping[str, list[str]]]) -> None:
        self._search = search

    @cached_property
    def _found(self) -> Mapping[str, list[str]]:
        return self._search()

    def __getitem__(self, name: str) -> list[str]:
        return self._found[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._found)

    def __len__(self) -> int:
        return len(self._found)
