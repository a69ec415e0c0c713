"""Checks of launch arguments, the device of a launch, and the number of programs that fill it."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from functools import lru_cache

import torch
import triton
from triton.runtime.interpreter import InterpretedFunction


@triton.jit
def _probe() -> None:  # pragma: no cover - decorated only to see what the decorator makes of it
    pass


def interpreting() -> bool:
    """Tell whether the kernels of this process run in Triton's interpreter (TRITON_INTERPRET=1 when it was
    imported)."""
    return isinstance(_probe, InterpretedFunction)


def require_device(**tensors: torch.Tensor | None) -> torch.device:
    """Return the one device of all tensors.

    Raises:
        ValueError: they are not on one device, or it is not CUDA and the interpreter is off.
    """
    given = {name: tensor for name, tensor in tensors.items() if tensor is not None}
    first = next(iter(given))
    device = given[first].device
    for name, tensor in given.items():
        if tensor.device != device:
            raise ValueError(f"{name} is on {tensor.device}, {first} on {device}: all tensors must be on one device")
    if device.type != "cuda" and not interpreting():
        raise ValueError(f"{first} is on {device}: Triton kernels need a CUDA device (or TRITON_INTERPRET=1)")
    return device


def require_rows_contiguous(**tensors: torch.Tensor | None) -> None:
    """Raise ValueError if a tensor's last dimension is not contiguous, or its rows are not 16-byte aligned."""
    for name, tensor in tensors.items():
        if tensor is None:
            continue
        if tensor.stride(-1) != 1:
            raise ValueError(f"{name} has strides {tensor.stride()}: its last dimension must be contiguous")
        if tensor.data_ptr() % 16:
            raise ValueError(f"{name} starts at an address that is not a multiple of 16 bytes")
        for dim in range(tensor.ndim - 1):
            if tensor.shape[dim] > 1 and tensor.stride(dim) * tensor.element_size() % 16:
                raise ValueError(
                    f"{name} has stride {tensor.stride(dim)} in dimension {dim}: "
                    "rows must start at multiples of 16 bytes"
                )


def on_device(device: torch.device) -> AbstractContextManager[object]:
    """Return a context in which launches go to ``device``, that of the tensors.

    Triton launches on the current device and stream, whichever device holds the arguments: every launch stands in
    such a context, or a process with several GPUs would read memory of one from another.
    """
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()


@lru_cache
def multiprocessors(device: torch.device) -> int:
    """Return how many programs a persistent kernel launches: one per multiprocessor; 4 in the interpreter."""
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 4
