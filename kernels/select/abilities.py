"""What an implementation can take: what a choice depends on, and why not."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib.util import find_spec

import torch

from zoetrope.kernels.select.shapes import rows_class

HALVES = (torch.bfloat16, torch.float16)
FLOATS = (torch.float32, *HALVES)
FP8 = torch.float8_e4m3fn
FP8_CAPABILITY = (8, 9)  # of the first GPUs that multiply 8-bit floats


@dataclass(frozen=True)
class KernelCall:
    """What a choice depends on.

    Attributes:
        grad: a backward pass is needed. head_dim: 0 outside attention. masked: attention with a block mask.
        shape: its class (`kernels.select.shapes`), by which speeds are looked up.
    """

    device: torch.device
    dtype: torch.dtype
    grad: bool
    head_dim: int = 0
    masked: bool = False
    shape: str = ""

    @classmethod
    def of(
        cls, *tensors: torch.Tensor | None, head_dim: int = 0, masked: bool = False, shape: str | None = None
    ) -> KernelCall:
        """Return the call with these inputs, the first of which determines device, dtype and, if it is not given, the
        class of shapes: that of a pass over its rows."""
        given = [tensor for tensor in tensors if tensor is not None]
        grad = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in given)
        first = given[0]
        if shape is None:
            shape = rows_class(first.shape[0], first.shape[-1] if first.ndim > 1 else 1)
        return cls(first.device, first.dtype, grad, head_dim, masked, shape)


WhyNot = Callable[[KernelCall], str | None]


def always(call: KernelCall) -> str | None:
    return None


def triton(call: KernelCall) -> str | None:
    if call.grad:
        return "it has no backward pass"
    if call.dtype not in FLOATS:
        return f"it takes float32, float16 and bfloat16, not {call.dtype}"
    if find_spec("triton") is None:
        return "triton is not installed"
    if call.device.type == "cuda":
        capability = torch.cuda.get_device_capability(call.device)
        return None if capability >= (8, 0) else f"it needs compute capability 8.0, this is {dotted(capability)}"
    return None if os.environ.get("TRITON_INTERPRET") == "1" else f"it needs a CUDA device, not {call.device.type}"


def copies(call: KernelCall) -> str | None:
    """Tell why a kernel that only moves rows cannot take them: it takes 8-bit floats too."""
    return triton(replace(call, dtype=torch.bfloat16) if call.dtype == torch.float8_e4m3fn else call)


def heads(*dims: int, masks: bool = False) -> WhyNot:
    def why_not(call: KernelCall) -> str | None:
        if call.head_dim not in dims:
            return f"it takes heads of {', '.join(map(str, dims))}, not {call.head_dim}"
        if call.masked and not masks:
            return "it takes no block mask"
        return None

    return why_not


def hopper(call: KernelCall) -> str | None:
    if call.dtype not in HALVES:
        return f"it takes float16 and bfloat16, not {call.dtype}"
    if call.device.type != "cuda":
        return f"it needs a CUDA device, not {call.device.type}"
    capability = torch.cuda.get_device_capability(call.device)
    return None if capability == (9, 0) else f"it is made for Hopper (9.0), this is {dotted(capability)}"


def flash(call: KernelCall) -> str | None:
    if find_spec("flash_attn_interface") is None and find_spec("flash_attn") is None:
        return "flash_attn is not installed"
    if call.device.type != "cuda" or call.dtype not in HALVES:
        return "it takes float16 and bfloat16 on CUDA"
    return "it takes no block mask" if call.masked else None


def sdpa(call: KernelCall) -> str | None:
    return "it takes no block mask" if call.masked else None


def cuda(call: KernelCall) -> str | None:
    if call.grad:
        return "it has no backward pass"
    return None if call.device.type == "cuda" else f"it needs a CUDA device, not {call.device.type}"


def fp8_cuda(*least: int) -> WhyNot:
    def why_not(call: KernelCall) -> str | None:
        if call.device.type != "cuda":
            return f"it needs a CUDA device, not {call.device.type}"
        capability = torch.cuda.get_device_capability(call.device)
        return None if capability >= least else f"it needs compute capability {dotted(least)}, not {dotted(capability)}"

    return why_not


def scaled_grouped_mm(call: KernelCall) -> str | None:
    if call.device.type != "cuda":
        return f"it needs a CUDA device, not {call.device.type}"
    capability = torch.cuda.get_device_capability(call.device)
    return None if capability == (9, 0) else f"torch's is made for Hopper (9.0), this is {dotted(capability)}"


def fp8_triton(call: KernelCall) -> str | None:
    if find_spec("triton") is None:
        return "triton is not installed"
    if os.environ.get("TRITON_INTERPRET") == "1" and call.device.type == "cpu":
        return None
    return fp8_cuda(9, 0)(call)


def every(*checks: WhyNot) -> WhyNot:
    return lambda call: next((reason for check in checks if (reason := check(call)) is not None), None)


def dotted(capability: tuple[int, ...]) -> str:
    return ".".join(map(str, capability))
