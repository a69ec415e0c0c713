"""Choose the implementation of an operation: by the call, the proofs for this device, and the user's request.

Of several that can take a call, the first trusted one runs. torch's own are always trusted. Our kernels are trusted on
a GPU where a committed result shows them correct (`kernels.select.proofs`); until then they run only when asked for.
8-bit kernels change the result, so they run only when asked for, proved or not.

``ZOETROPE_KERNELS`` asks: ``triton`` for all operations that have it, ``attention=gluon,grouped_gemm=triton`` for some,
``torch,attention=sdpa`` to keep our own kernels out. A call that the requested kernel cannot take is an error,
never a silent change.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec

import torch

from zoetrope.kernels.select.proofs import proved

VARIABLE = "ZOETROPE_KERNELS"
PROOF_OF = {"linear_gelu": "grouped_gemm"}  # operations that use another's kernel
HALVES = (torch.bfloat16, torch.float16)
FLOATS = (torch.float32, *HALVES)
FP8 = torch.float8_e4m3fn
FP8_CAPABILITY = (8, 9)  # of the first GPUs that multiply 8-bit floats


@dataclass(frozen=True)
class KernelCall:
    """What a choice depends on.

    Attributes:
        grad: a backward pass is needed. head_dim: 0 outside attention. masked: attention with a block mask.
    """

    device: torch.device
    dtype: torch.dtype
    grad: bool
    head_dim: int = 0
    masked: bool = False

    @classmethod
    def of(cls, *tensors: torch.Tensor | None, head_dim: int = 0, masked: bool = False) -> KernelCall:
        """Return the call with these inputs, the first of which determines device and dtype."""
        given = [tensor for tensor in tensors if tensor is not None]
        grad = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in given)
        return cls(given[0].device, given[0].dtype, grad, head_dim, masked)


WhyNot = Callable[[KernelCall], str | None]


@dataclass(frozen=True)
class Backend:
    """One implementation of an operation.

    Attributes:
        why_not: returns why it cannot take a call, or None.
        ours: needs a proof to be chosen by default. exact: computes the operation itself, not an 8-bit form of it.
    """

    name: str
    why_not: WhyNot
    ours: bool = False
    exact: bool = True


@dataclass(frozen=True)
class Choice:
    """An entry of `report`: a backend, and whether it is chosen or why not.

    ``unproved``: it could run here and should give the same result, but no proof shows that.
    """

    op: str
    backend: str
    chosen: bool
    reason: str
    unproved: bool = False


def _always(call: KernelCall) -> str | None:
    return None


def _triton(call: KernelCall) -> str | None:
    if call.grad:
        return "it has no backward pass"
    if call.dtype not in FLOATS:
        return f"it takes float32, float16 and bfloat16, not {call.dtype}"
    if find_spec("triton") is None:
        return "triton is not installed"
    if call.device.type == "cuda":
        capability = torch.cuda.get_device_capability(call.device)
        return None if capability >= (8, 0) else f"it needs compute capability 8.0, this is {_dotted(capability)}"
    return None if os.environ.get("TRITON_INTERPRET") == "1" else f"it needs a CUDA device, not {call.device.type}"


def _heads(*dims: int, masks: bool = False) -> WhyNot:
    def why_not(call: KernelCall) -> str | None:
        if call.head_dim not in dims:
            return f"it takes heads of {', '.join(map(str, dims))}, not {call.head_dim}"
        if call.masked and not masks:
            return "it takes no block mask"
        return None

    return why_not


def _hopper(call: KernelCall) -> str | None:
    if call.dtype not in HALVES:
        return f"it takes float16 and bfloat16, not {call.dtype}"
    if call.device.type != "cuda":
        return f"it needs a CUDA device, not {call.device.type}"
    capability = torch.cuda.get_device_capability(call.device)
    return None if capability == (9, 0) else f"it is made for Hopper (9.0), this is {_dotted(capability)}"


def _flash(call: KernelCall) -> str | None:
    if find_spec("flash_attn_interface") is None and find_spec("flash_attn") is None:
        return "flash_attn is not installed"
    if call.device.type != "cuda" or call.dtype not in HALVES:
        return "it takes float16 and bfloat16 on CUDA"
    return "it takes no block mask" if call.masked else None


def _sdpa(call: KernelCall) -> str | None:
    return "it takes no block mask" if call.masked else None


def _cuda(call: KernelCall) -> str | None:
    if call.grad:
        return "it has no backward pass"
    return None if call.device.type == "cuda" else f"it needs a CUDA device, not {call.device.type}"


def _fp8_cuda(*least: int) -> WhyNot:
    def why_not(call: KernelCall) -> str | None:
        if call.device.type != "cuda":
            return f"it needs a CUDA device, not {call.device.type}"
        capability = torch.cuda.get_device_capability(call.device)
        return (
            None if capability >= least else f"it needs compute capability {_dotted(least)}, not {_dotted(capability)}"
        )

    return why_not


def _scaled_grouped_mm(call: KernelCall) -> str | None:
    if call.device.type != "cuda":
        return f"it needs a CUDA device, not {call.device.type}"
    capability = torch.cuda.get_device_capability(call.device)
    return None if capability == (9, 0) else f"torch's is made for Hopper (9.0), this is {_dotted(capability)}"


def _fp8_triton(call: KernelCall) -> str | None:
    if find_spec("triton") is None:
        return "triton is not installed"
    if os.environ.get("TRITON_INTERPRET") == "1" and call.device.type == "cpu":
        return None
    return _fp8_cuda(9, 0)(call)


def _all(*checks: WhyNot) -> WhyNot:
    return lambda call: next((reason for check in checks if (reason := check(call)) is not None), None)


TORCH = Backend("torch", _always)
TRITON = Backend("triton", _triton, ours=True)
# In order of preference.
BACKENDS: Mapping[str, tuple[Backend, ...]] = {
    "attention": (
        Backend("gluon", _all(_triton, _hopper, _heads(64, 128)), ours=True),
        Backend("triton", _all(_triton, _heads(32, 64, 128, masks=True)), ours=True),
        Backend("flash_attn", _flash),
        Backend("sdpa", _sdpa),
        Backend("reference", _always),
        Backend("int8", _all(_triton, _heads(32, 64, 128, masks=True)), ours=True, exact=False),
        Backend("int8_fp8", _all(_triton, _hopper, _heads(64, 128, masks=True)), ours=True, exact=False),
    ),
    "grouped_gemm": (TRITON, TORCH),
    "linear_gelu": (TRITON, Backend("cublas", _cuda), TORCH),
    "router_logits": (TRITON, TORCH),
    "routing": (TRITON, TORCH),
    "combine": (TRITON, TORCH),
    "dispatch": (TRITON, TORCH),
    "residual_norm": (TRITON, TORCH),
    "qk_norm_rope": (TRITON, TORCH),
    "quantise_fp8": (TRITON, TORCH),
    "linear_fp8": (Backend("scaled_mm", _fp8_cuda(*FP8_CAPABILITY)), TORCH),
    "grouped_gemm_fp8": (
        Backend("triton", _fp8_triton, ours=True),
        Backend("scaled_grouped_mm", _scaled_grouped_mm),
        TORCH,
    ),
}
# Operations on 8-bit floats: only a network that was quantised calls them.
FP8_OPS = ("linear_fp8", "grouped_gemm_fp8")

_asked: ContextVar[Mapping[str, str] | None] = ContextVar("kernels_asked_for", default=None)


@contextmanager
def use(choices: str) -> Iterator[None]:
    """Request implementations, in the form of ``ZOETROPE_KERNELS``, which this overrides.

    Raises:
        ValueError: an operation or an implementation of that name does not exist.
    """
    token = _asked.set(parse(choices))
    try:
        yield
    finally:
        _asked.reset(token)


@cache
def parse(choices: str) -> Mapping[str, str]:
    """Parse ``triton`` or ``attention=gluon,routing=torch`` into implementations by operation.

    Raises:
        ValueError: an operation or an implementation of that name does not exist.
    """
    asked: dict[str, str] = {}
    for part in filter(None, (part.strip() for part in choices.split(","))):
        op, _, name = part.rpartition("=")
        if not op:
            having = [op for op, backends in BACKENDS.items() if any(b.name == name for b in backends)]
            if not having:
                raise ValueError(f"{VARIABLE}: no operation has an implementation {name!r}; there are {_known()}")
            asked.update(dict.fromkeys(having, name))
        elif op not in BACKENDS:
            raise ValueError(f"{VARIABLE}: there is no operation {op!r}; there are {_known()}")
        elif name not in [backend.name for backend in BACKENDS[op]]:
            raise ValueError(f"{VARIABLE}: {op} has no implementation {name!r}; there are {_known()}")
        else:
            asked[op] = name
    return asked


def choose(op: str, call: KernelCall, asked: str | None = None) -> str:
    """Return the name of the implementation for a call.

    Args:
        asked: the one to use, whatever the settings say.

    Raises:
        ValueError: the requested one cannot take the call.
    """
    if asked is None:
        given = _asked.get()
        asked = (given if given is not None else parse(os.environ.get(VARIABLE, ""))).get(op)
    return _choose(op, call, asked)


@cache
def _choose(op: str, call: KernelCall, asked: str | None) -> str:
    backends = BACKENDS[op]
    if asked is not None:
        backend = next((backend for backend in backends if backend.name == asked), None)
        if backend is None:
            raise ValueError(f"backend: {op} has no implementation {asked!r}; there are {_names(op)}")
        reason = backend.why_not(call)
        if reason is not None:
            raise ValueError(f"{op} by {asked}: {reason}")
        return asked
    return next(backend.name for backend in backends if backend.why_not(call) is None and trusted(op, backend, call))


def trusted(op: str, backend: Backend, call: KernelCall) -> bool:
    """Tell whether a backend that can take a call may be chosen by default."""
    if not backend.exact:
        return False
    if not backend.ours:
        return True
    if call.device.type != "cuda":
        return False  # the interpreter is there for tests
    capability = torch.cuda.get_device_capability(call.device)
    kernel, head_dim = PROOF_OF.get(op, op), call.head_dim or None
    return proved(kernel, backend.name, call.dtype, capability, head_dim=head_dim) is not None


def report(device: torch.device, dtype: torch.dtype = torch.bfloat16, head_dim: int = 128) -> list[Choice]:
    """List every implementation of every operation: whether a step of a model with such heads runs it, and if not,
    why."""
    choices: list[Choice] = []
    for op, backends in BACKENDS.items():
        call = KernelCall(device, FP8 if op in FP8_OPS else dtype, False, head_dim if op == "attention" else 0)
        chosen = choose(op, call)
        for backend in backends:
            reason = backend.why_not(call)
            asked = f"runs only when asked for ({VARIABLE}={op}={backend.name})"
            if backend.name == chosen:
                choices.append(Choice(op, backend.name, True, "chosen"))
            elif reason is not None:
                choices.append(Choice(op, backend.name, False, reason))
            elif not backend.exact:
                choices.append(Choice(op, backend.name, False, f"changes the result: {asked}"))
            elif device.type != "cuda" and backend.ours:
                choices.append(Choice(op, backend.name, False, f"in the interpreter, {asked}"))
            elif not trusted(op, backend, call):
                choices.append(Choice(op, backend.name, False, f"not proved on this device: {asked}", unproved=True))
            else:
                choices.append(Choice(op, backend.name, False, "another comes first"))
    return choices


def _dotted(capability: tuple[int, ...]) -> str:
    return ".".join(map(str, capability))


def _names(op: str) -> str:
    return ", ".join(backend.name for backend in BACKENDS[op])


def _known() -> str:
    return "; ".join(f"{op}={'|'.join(backend.name for backend in backends)}" for op, backends in BACKENDS.items())
