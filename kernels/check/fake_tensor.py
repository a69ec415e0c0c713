"""Tensors on a CUDA device that does not exist: shapes, dtypes and strides are right, values there are none.

Operations on them run by torch's meta kernels; tensors of the CPU stay real and compute as ever. What the host reads
of a fake tensor is zero, and is recorded, as is every copy to it.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map_only

from zoetrope.kernels.check.fake_record import DeviceRecord

aten = torch.ops.aten
DEVICE = torch.device("cuda", 0)
ALIGNMENT = 256  # bytes, of a fresh allocation
Special = Callable[["DeviceMode", Any, Sequence[Any], Mapping[str, Any]], Any]


class FakeCudaTensor(torch.Tensor):
    """A tensor without values that says it is on ``cuda:0``; ``meta`` has its layout, ``truth`` is what is read."""

    meta: torch.Tensor
    owner: DeviceMode
    truth = False
    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    @staticmethod
    def __new__(cls, meta: torch.Tensor, mode: DeviceMode) -> FakeCudaTensor:
        made: FakeCudaTensor = torch.Tensor._make_wrapper_subclass(
            cls,
            meta.shape,
            strides=meta.stride(),
            storage_offset=meta.storage_offset(),
            dtype=meta.dtype,
            layout=meta.layout,
            device=DEVICE,
            requires_grad=meta.requires_grad,
        )
        made.meta, made.owner = meta, mode
        return made

    def __init__(self, meta: torch.Tensor, mode: DeviceMode) -> None:
        super().__init__()

    def data_ptr(self) -> int:
        """Return an address as a device might: another for each allocation, and aligned like its allocations."""
        base = self.meta.untyped_storage()._cdata * ALIGNMENT
        return int(base + self.meta.storage_offset() * self.meta.element_size())

    # The methods below ask torch for a guard of the device, which a build without CUDA does not have.

    def __getitem__(self, index: Any) -> torch.Tensor:
        view, indices = _viewed(self, index)
        return torch.ops.aten.index.Tensor(view, indices) if indices else view

    def __setitem__(self, index: Any, value: torch.Tensor | float) -> None:
        view, indices = _viewed(self, index)
        if indices:
            values = value if isinstance(value, torch.Tensor) else self.new_full((), value)
            torch.ops.aten.index_put_.default(view, indices, values)
        elif isinstance(value, torch.Tensor) and (value.dim() > 0 or isinstance(value, FakeCudaTensor)):
            view.copy_(value.expand(view.shape) if value.dim() <= view.dim() else value.reshape(view.shape))
        else:
            view.fill_(value)

    def contiguous(self, memory_format: torch.memory_format = torch.contiguous_format) -> torch.Tensor:
        found: torch.Tensor = torch.ops.aten.contiguous.default(self, memory_format=memory_format)
        return found

    def copy_(self, source: torch.Tensor, non_blocking: bool = False) -> torch.Tensor:
        found: torch.Tensor = torch.ops.aten.copy_.default(self, source, non_blocking)
        return found

    def nonzero(self, *, as_tuple: bool = False) -> Any:
        found = torch.ops.aten.nonzero.default(self)
        return tuple(found.unbind(1)) if as_tuple else found

    def record_stream(self, stream: object) -> None:
        pass

    def __bool__(self) -> bool:
        return bool(self.item())

    def __int__(self) -> int:
        return int(self.item())

    def __index__(self) -> int:
        return int(self.item())

    def __float__(self) -> float:
        return float(self.item())

    def tolist(self) -> Any:
        return self.cpu().tolist()

    def __repr__(self, *, tensor_contents: object = None) -> str:  # type: ignore[override]
        return f"FakeCudaTensor(shape={tuple(self.shape)}, dtype={self.dtype})"

    def __deepcopy__(self, memo: dict[int, Any]) -> FakeCudaTensor:
        copy = self.detach().clone().requires_grad_(self.requires_grad)
        copy.__dict__.update({name: value for name, value in self.__dict__.items() if name not in ("meta", "owner")})
        memo[id(self)] = copy
        return copy  # type: ignore[return-value]

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        given = [x for x in tree_flatten((args, kwargs))[0] if isinstance(x, FakeCudaTensor)]
        return given[0].owner.run(func, args, kwargs or {})  # of a thread in which the mode is not on


def _viewed(x: torch.Tensor, index: Any) -> tuple[torch.Tensor, list[torch.Tensor | None]]:
    """Return the view that the numbers and slices of an index make, and the tensors that index this view then."""
    given = list(index) if isinstance(index, tuple) else [index]
    taken = sum(i.dim() if _is_mask(i) else 1 for i in given if i is not None and i is not Ellipsis)
    if not any(i is Ellipsis for i in given):
        given.append(Ellipsis)
    view, dim, indices = x.view_as(x), 0, list[torch.Tensor | None]()
    for i in given:
        if i is Ellipsis:
            rest = x.dim() - taken
            dim += rest
            indices += [None] * rest
        elif i is None:
            view, dim = view.unsqueeze(dim), dim + 1
            indices.append(None)
        elif isinstance(i, slice):
            view, dim = torch.ops.aten.slice.Tensor(view, dim, i.start, i.stop, i.step or 1), dim + 1
            indices.append(None)
        elif isinstance(i, int) or (isinstance(i, torch.Tensor) and i.dim() == 0 and i.dtype != torch.bool):
            view = view.select(dim, int(i))
        else:
            tensor = i if isinstance(i, torch.Tensor) else torch.tensor(i)
            dim += tensor.dim() if tensor.dtype == torch.bool else 1
            indices.append(tensor)
    return view, indices if any(i is not None for i in indices) else []


def _is_mask(index: Any) -> bool:
    return isinstance(index, torch.Tensor) and index.dtype == torch.bool


class DeviceMode(TorchDispatchMode):
    """Runs what concerns the fake device, and lets everything else pass."""

    def __init__(self, record: DeviceRecord, special: Mapping[Any, Special]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.record = record
        self.special = special
        self.pinned: weakref.WeakSet[torch.UntypedStorage] = weakref.WeakSet()

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        return self.run(func, args, kwargs or {})

    def run(self, func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        """Run one operation.

        Raises:
            RuntimeError: tensors of the host and of the device are mixed where CUDA refuses it.
        """
        flat = tree_flatten((args, kwargs))[0]
        if self.record.capture is not None:
            self.record.capture.read(x.meta for x in flat if isinstance(x, FakeCudaTensor))
        fake = any(isinstance(x, FakeCudaTensor) for x in flat)
        device = kwargs.get("device")
        to_device = any(isinstance(x, torch.device) and x.type == "cuda" for x in flat)
        if not fake and not to_device:
            return self._on_host(func, args, kwargs)
        special = self.special.get(func)
        if special is not None:
            return special(self, func, args, kwargs)
        if _is_composite(func):
            with self:  # in inference mode torch has not taken it apart yet
                return func.decompose(*args, **kwargs)
        if fake and device is not None and not to_device and torch.device(device).type == "cpu":
            return func(*tree_map_only(FakeCudaTensor, lambda x: x.meta, args), **kwargs)  # new_empty(..., device=cpu)
        return self.compute(func, args, kwargs)

    def compute(self, func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        """Run an operation of the device by its meta kernel."""
        wrappers: dict[int, FakeCudaTensor] = {}
        made_like = not any(isinstance(x, FakeCudaTensor) for x in tree_flatten((args, kwargs))[0])

        def bare(x: torch.Tensor) -> torch.Tensor:
            if isinstance(x, FakeCudaTensor):
                wrappers[id(x.meta)] = x
                return x.meta
            if x.dim() == 0:
                return x.to("meta")  # a number of the host becomes an argument of the kernel
            if x.device.type == "meta" or made_like:  # torch.empty_like(x, device="cuda") reads no values
                return x.to("meta")
            raise RuntimeError(
                f"{func}: expected all tensors to be on the same device, but found cuda:0 and {x.device} "
                f"(shape {tuple(x.shape)})"
            )

        on_meta = dict(kwargs)
        on_meta.update({name: value for name, value in REPLACED.items() if name in kwargs})
        bare_args, bare_kwargs = tree_map_only(torch.Tensor, bare, (tuple(args), on_meta))
        bare_args = tree_map_only(torch.Generator, lambda generator: None, bare_args)
        found = func(*bare_args, **bare_kwargs)
        if _launches(func):
            self.record.operations.append(str(func))
        return self.wrapped(found, wrappers)

    def wrapped(self, found: Any, wrappers: Mapping[int, FakeCudaTensor] | None = None) -> Any:
        """Return results as tensors of the device; one that is an argument again as that argument."""
        known = wrappers or {}

        def wrap(x: torch.Tensor) -> torch.Tensor:
            if self.record.capture is not None:
                self.record.capture.make(x)
            return known[id(x)] if id(x) in known else FakeCudaTensor(x, self)

        return tree_map_only(torch.Tensor, wrap, found)

    def is_pinned(self, x: torch.Tensor) -> bool:
        return x.untyped_storage() in self.pinned

    def _on_host(self, func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        if func is aten.is_pinned.default:
            return self.is_pinned(args[0])
        if func in (aten.pin_memory.default, aten._pin_memory.default):
            return self._pin(args[0].clone())
        if kwargs.get("pin_memory"):
            return self._pin(func(*args, **{**kwargs, "pin_memory": False}))
        return func(*args, **kwargs)

    def _pin(self, x: torch.Tensor) -> torch.Tensor:
        self.pinned.add(x.untyped_storage())
        return x


@cache
def _is_composite(func: Any) -> bool:
    return torch._C._dispatch_has_kernel_for_dispatch_key(func.name(), "CompositeImplicitAutograd")


@cache
def _launches(func: Any) -> bool:
    """Tell whether an operation runs a kernel: it is no view and no allocation."""
    name = func._schema.name.removeprefix("aten::")
    if name in QUIET or name.startswith(("empty", "new_empty", "sym_", "_has_")):
        return False
    return not (torch.Tag.inplace_view in func.tags or _is_view(func))


def _is_view(func: Any) -> bool:
    aliases = [argument.alias_info for argument in func._schema.arguments]
    return any(alias is not None and not alias.is_write for alias in aliases)


REPLACED = {"device": torch.device("meta"), "generator": None, "pin_memory": None}
QUIET = {"detach", "alias", "lift_fresh", "_unsafe_view", "_reshape_alias", "is_same_size", "_fused_sdp_choice"}
