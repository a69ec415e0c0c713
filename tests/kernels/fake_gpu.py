"""A GPU that computes nothing: tensors have shapes and the device ``cuda``, and reading one is an error."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

aten = torch.ops.aten
# Operations that wait for the device, of those that FakeTensorMode computes nonetheless.
WAITING = {aten._local_scalar_dense, aten.nonzero, aten.masked_select, aten.bincount, aten.equal, aten._unique2}


@dataclass
class Traffic:
    """What was asked of the device: operations in order, and those that move data between it and the host."""

    operations: list[str] = field(default_factory=list)
    copies: list[str] = field(default_factory=list)
    waits: list[str] = field(default_factory=list)


class _Watch(TorchDispatchMode):
    def __init__(self, traffic: Traffic) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.traffic = traffic

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = [*args, *(kwargs or {}).values()]
        places = {x.device.type for x in given if isinstance(x, torch.Tensor) and x.ndim}
        places |= {x.type for x in given if isinstance(x, torch.device)}
        self.traffic.operations.append(str(func))
        if func.overloadpacket in WAITING:
            self.traffic.waits.append(str(func))
        if len(places) > 1:
            self.traffic.copies.append(str(func))
        return func(*args, **(kwargs or {}))


def _set(x: torch.Tensor, key: Any, value: float) -> None:
    places = list(key) if isinstance(key, tuple) else [key]
    aten.index_put_(x, places, torch.full((), value, dtype=x.dtype, device=x.device))


def _contiguous(x: torch.Tensor) -> torch.Tensor:
    return x if x.is_contiguous() else x.clone(memory_format=torch.contiguous_format)


def _get(x: torch.Tensor, key: Any) -> torch.Tensor:
    keys = list(key) if isinstance(key, tuple) else [key]
    if Ellipsis in [k for k in keys if not isinstance(k, torch.Tensor)]:
        at = next(i for i, k in enumerate(keys) if k is Ellipsis)
        known = sum(k is not None for k in keys) - 1
        keys[at : at + 1] = [slice(None)] * (x.ndim - known)
    if any(isinstance(k, torch.Tensor) for k in keys):
        found: torch.Tensor = aten.index(x, [None if isinstance(k, slice) else k for k in keys])
        return found
    dim = 0
    for k in keys:
        if k is None:
            x = x.unsqueeze(dim)
        elif isinstance(k, int):
            x = x.select(dim, k)
            continue
        elif k != slice(None):
            x = aten.slice(x, dim, k.start, k.stop, k.step or 1)
        dim += 1
    return x


# Methods that need a build for CUDA even where nothing is computed, by operations that do not.
METHODS: dict[Any, Any] = {
    torch.Tensor.__getitem__: _get,
    torch.Tensor.__setitem__: _set,
    torch.Tensor.contiguous: _contiguous,
    torch.Tensor.__float__: torch.Tensor.item,
    torch.Tensor.__int__: torch.Tensor.item,
    torch.nonzero: aten.nonzero,
}


class _Methods(TorchFunctionMode):
    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return METHODS.get(func, func)(*args, **(kwargs or {}))


@contextmanager
def fake_gpu(monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int] = (9, 0)) -> Iterator[Traffic]:
    """Make ``torch.device("cuda")`` a GPU of this capability that computes nothing.

    Reading a value or a length that depends on values raises ``DataDependentOutputException`` or
    ``DynamicOutputShapeException``.
    """
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: capability)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device=None: "a GPU that computes nothing")
    traffic = Traffic()
    with FakeTensorMode(), _Methods(), _Watch(traffic):
        yield traffic
