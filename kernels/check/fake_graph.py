"""What a CUDA graph reads: memory that was there before its capture must still be there at each replay."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch.multiprocessing.reductions import StorageWeakRef


class FakeCapture:
    """Follows a capture on a fake device: the memory that its launches and operations are given.

    What is allocated inside belongs to the graph's own pool. All else is read, or written, at every replay at the place
    where it lay in the capture, whoever has it then.
    """

    def __init__(self) -> None:
        self._outside: dict[int, tuple[StorageWeakRef, str]] = {}
        self._pool: set[int] = set()

    def read(self, tensors: Iterable[torch.Tensor]) -> None:
        """Note the memory of tensors ``meta`` that an operation is given."""
        for x in tensors:
            storage = x.untyped_storage()
            if storage._cdata not in self._pool and storage._cdata not in self._outside:
                self._outside[storage._cdata] = StorageWeakRef(storage), f"{tuple(x.shape)} {x.dtype}"

    def make(self, x: torch.Tensor) -> None:
        """Note the memory of a result ``meta``: of the pool, unless it is that of a tensor from outside."""
        place = x.untyped_storage()._cdata
        if place not in self._outside:
            self._pool.add(place)

    def launch(self, arguments: Iterable[Any]) -> None:
        """Note the memory of a kernel's arguments: tensors, or what Triton describes to the accelerator by them."""
        given = (getattr(argument, "base", argument) for argument in arguments)
        self.read(x.meta for x in given if isinstance(x, torch.Tensor) and hasattr(x, "meta"))

    def check(self) -> None:
        """Check that all of it is still there.

        Raises:
            RuntimeError: some has been freed since the capture, so that another tensor may lie in its place.
        """
        for storage, what in self._outside.values():
            if storage.expired():
                raise RuntimeError(f"a graph reads a tensor {what} that was freed after its capture")
