"""The operations in which host and device meet: copies, values that the host reads, shapes that depend on values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from zoetrope.kernels.check.fake_tensor import DeviceMode, FakeCudaTensor, Special

aten = torch.ops.aten


def _on_device(x: object) -> bool:
    return isinstance(x, FakeCudaTensor)


def _name(func: Any) -> str:
    return str(func).removeprefix("aten.").removesuffix(".default")


def copied_to_device(mode: DeviceMode, x: torch.Tensor, non_blocking: bool, what: str) -> None:
    """Record a copy of a tensor of the host to the device."""
    asynchronous = non_blocking and mode.is_pinned(x)
    mode.record.host("pinned" if asynchronous else "pageable", f"{what} of {_described(x)} to the device")


def _described(x: torch.Tensor) -> str:
    return f"{str(x.dtype).removeprefix('torch.')}{list(x.shape)}"


def _to_copy(mode: DeviceMode, func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    x = args[0]
    target = torch.device(kwargs["device"]) if kwargs.get("device") is not None else x.device
    non_blocking = bool(kwargs.get("non_blocking"))
    rest = {name: value for name, value in kwargs.items() if name not in ("device", "non_blocking", "pin_memory")}
    if target.type == "cuda":
        if _on_device(x):
            return mode.compute(func, args, {**rest, "device": target})
        copied_to_device(mode, x, non_blocking, "copy")
        return mode.wrapped(func(torch.empty_like(x, device="meta"), **rest))
    layout = func(x.meta, **rest)
    if target.type == "meta":
        return layout
    mode.record.host("pinned" if non_blocking else "wait", f"copy of {_described(x)} to the host")
    return torch.zeros(layout.shape, dtype=layout.dtype)


def _copy_(mode: DeviceMode, func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    target, source = args[:2]
    non_blocking = bool(args[2] if len(args) > 2 else kwargs.get("non_blocking"))
    if _on_device(target) and _on_device(source):
        return mode.compute(func, args, kwargs)
    if _on_device(target):
        copied_to_device(mode, source, non_blocking, "copy")
        target.meta.copy_(torch.empty_like(source, device="meta"))
        return target
    asynchronous = non_blocking and mode.is_pinned(target)
    mode.record.host("pinned" if asynchronous else "wait", f"copy of {_described(source)} to the host")
    return target.zero_()


def _all(mode: DeviceMode, func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    found = mode.compute(func, args, kwargs)
    found.truth = True
    return found


def _scalar(mode: DeviceMode, func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """Return zero, and true where it is asked whether all are: the answers with which checks of values pass."""
    x = args[0]
    mode.record.host("wait", f"value of {_described(x)}")
    return torch.full((), x.truth, dtype=x.dtype).item()


def _equal(mode: DeviceMode, func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> bool:
    mode.record.host("wait", f"{_name(func)} of {_described(args[0])}")
    return bool(args[0].shape == args[1].shape)


def _nonzero(mode: DeviceMode, func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """Return as many rows as there are elements, the most that can be."""
    x = args[0]
    mode.record.host("wait", f"{_name(func)} of {_described(x)}")
    return mode.wrapped(torch.empty(x.numel(), x.dim(), dtype=torch.int64, device="meta"))


def _masked_select(mode: DeviceMode, func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    mode.record.host("wait", f"{_name(func)} of {_described(args[0])}")
    shape = torch.broadcast_shapes(args[0].shape, args[1].shape)
    return mode.wrapped(torch.empty(shape.numel(), dtype=args[0].dtype, device="meta"))


def _unique(mode: DeviceMode, func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    x = args[0]
    mode.record.host("wait", f"{_name(func)} of {_described(x)}")
    count = torch.empty(x.numel(), dtype=torch.int64, device="meta")
    return mode.wrapped((torch.empty(x.numel(), dtype=x.dtype, device="meta"), count.view(x.shape), count.clone()))


def _bincount(mode: DeviceMode, func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    mode.record.host("wait", f"{_name(func)} of {_described(args[0])}")
    least = args[2] if len(args) > 2 else kwargs.get("minlength", 0)
    weights = args[1] if len(args) > 1 else kwargs.get("weights")
    dtype = torch.int64 if weights is None else weights.dtype
    return mode.wrapped(torch.empty(max(1, int(least)), dtype=dtype, device="meta"))


def _repeat_interleave(mode: DeviceMode, func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    repeats, size = args[0], kwargs.get("output_size")
    if size is None:
        mode.record.host("wait", f"{_name(func)} of {_described(repeats)}")
        size = repeats.numel()
    else:
        mode.record.operations.append(str(func))
    return mode.wrapped(torch.empty(size, dtype=torch.int64, device="meta"))


def _indexed(mode: DeviceMode, func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """Index by tensors of the device; those of the host are copied, and a mask is a wait."""
    if not _on_device(args[0]):
        raise RuntimeError(f"{func}: indices must be on the device of the tensor, which is {args[0].device}")
    indices: list[torch.Tensor | None] = []
    for index in args[1]:
        if index is None:
            indices.append(None)
            continue
        if not _on_device(index):
            copied_to_device(mode, index, False, _name(func))
        if index.dtype in (torch.bool, torch.uint8):
            mode.record.host("wait", f"{_name(func)} by a mask of {_described(index)}")
            positions = torch.empty(index.numel(), dtype=torch.int64, device="meta")
            indices += [mode.wrapped(positions)] * index.dim()
        else:
            indices.append(index if _on_device(index) else mode.wrapped(torch.empty_like(index, device="meta")))
    return mode.compute(func, (args[0], indices, *args[2:]), kwargs)


SPECIAL: dict[Any, Special] = {
    aten._to_copy.default: _to_copy,
    aten.copy_.default: _copy_,
    aten.all.default: _all,
    aten._local_scalar_dense.default: _scalar,
    aten.equal.default: _equal,
    aten.nonzero.default: _nonzero,
    aten.masked_select.default: _masked_select,
    aten._unique2.default: _unique,
    aten.bincount.default: _bincount,
    aten.repeat_interleave.Tensor: _repeat_interleave,
    aten.index.Tensor: _indexed,
    aten.index_put.default: _indexed,
    aten.index_put_.default: _indexed,
    aten._index_put_impl_.default: _indexed,
    aten._unsafe_index.Tensor: _indexed,
    aten.is_pinned.default: lambda mode, func, args, kwargs: False,
    torch.ops.prim.device.default: lambda mode, func, args, kwargs: torch.device("cuda", 0),
}
