"""A graph of the CPU: the operations of a pass, repeated with the tensors and the numbers that they had."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten


def _place(x: torch.Tensor) -> int:
    return int(x.untyped_storage()._cdata)


class _Record(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.calls: list[tuple[Any, Sequence[Any], Mapping[str, Any], Any]] = []

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        found = func(*args, **(kwargs or {}))
        self.calls.append((func, args, kwargs or {}, found))
        return found


class Tape:
    """Stands in for `model.denoising.graphs.CudaGraph`, which it resembles in what matters: nothing of Python runs at a
    replay, so what the host decided once stays decided."""

    size = 0

    def __init__(self, run: Callable[[], torch.Tensor], device: torch.device) -> None:
        with _Record() as record:
            self.output = run()
        self.calls = record.calls
        self.released = False

    def replay(self) -> None:
        assert not self.released
        for func, args, kwargs, found in self.calls:
            given = {_place(x) for x in tree_flatten((args, kwargs))[0] if isinstance(x, torch.Tensor)}
            again = tree_flatten(func(*args, **kwargs))[0]
            for old, new in zip(tree_flatten(found)[0], again, strict=True):
                if isinstance(old, torch.Tensor) and _place(old) not in given:  # no view of what is there already
                    old.copy_(new)

    def release(self) -> None:
        self.calls.clear()
        self.released = True
