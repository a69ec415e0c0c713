"""Choose the implementation of an operation: by the call, the proofs for this device, and the user's request.

By default it is torch's, the first that can take a call, unless one of our kernels is proved on this GPU
(`kernels.select.proofs`) **and** was measured faster than that on this class of shapes; of several, the fastest. Until
then ours run only when asked for. 8-bit kernels change the result, so they run only when asked for, proved or not.

``ZOETROPE_KERNELS`` asks: ``triton`` for all operations that have it, ``attention=gluon,grouped_gemm=triton`` for some,
``torch,attention=sdpa`` to keep our own kernels out. A call that the requested kernel cannot take is an error,
never a silent change.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cache

import torch

from zoetrope.kernels.gpu.tiles import device_table
from zoetrope.kernels.select.abilities import (
    FP8,
    FP8_CAPABILITY,
    KernelCall,
    WhyNot,
    always,
    copies,
    cuda,
    every,
    flash,
    fp8_cuda,
    fp8_triton,
    heads,
    hopper,
    scaled_grouped_mm,
    sdpa,
    triton,
)
from zoetrope.kernels.select.proofs import Speed, Standing, standing

VARIABLE = "ZOETROPE_KERNELS"
ASK = "runs only when asked for"
PROOF_OF = {"linear_gelu": "grouped_gemm"}  # operations that use another's kernel


@dataclass(frozen=True)
class Backend:
    """One implementation of an operation.

    Attributes:
        why_not: returns why it cannot take a call, or None.
        ours: needs a proof and a measured speed to be chosen by default.
        exact: computes the operation itself, not an 8-bit form of it.
    """

    name: str
    why_not: WhyNot
    ours: bool = False
    exact: bool = True


@dataclass(frozen=True)
class Choice:
    """An entry of `report`: a backend, and whether it is chosen or why not.

    Attributes:
        unproved: it could run here and should give the same result, but no proof shows that.
        untimed: it is proved, but nothing was measured that could show it faster than torch.
    """

    op: str
    backend: str
    chosen: bool
    reason: str
    unproved: bool = False
    untimed: bool = False

    @property
    def why(self) -> str:
        """The reason without what a user may do about it."""
        return self.reason.partition(f": {ASK}")[0]


TORCH = Backend("torch", always)
TRITON = Backend("triton", triton, ours=True)
# torch's in order of preference; among ours the measured speed decides.
BACKENDS: Mapping[str, tuple[Backend, ...]] = {
    "attention": (
        Backend("gluon", every(triton, hopper, heads(64, 128)), ours=True),
        Backend("triton", every(triton, heads(32, 64, 128, masks=True)), ours=True),
        Backend("flash_attn", flash),
        Backend("sdpa", sdpa),
        Backend("reference", always),
        Backend("int8", every(triton, heads(32, 64, 128, masks=True)), ours=True, exact=False),
        Backend("int8_fp8", every(triton, hopper, heads(64, 128, masks=True)), ours=True, exact=False),
    ),
    "grouped_gemm": (TRITON, TORCH),
    "linear_gelu": (TRITON, Backend("cublas", cuda), TORCH),
    "router_logits": (TRITON, TORCH),
    "routing": (TRITON, TORCH),
    "permute_rows": (Backend("triton", copies, ours=True), TORCH),
    "combine": (TRITON, TORCH),
    "dispatch": (TRITON, TORCH),
    "residual_norm": (TRITON, TORCH),
    "qk_norm_rope": (TRITON, TORCH),
    "quantise_fp8": (TRITON, TORCH),
    "linear_fp8": (Backend("scaled_mm", fp8_cuda(*FP8_CAPABILITY)), TORCH),
    "grouped_gemm_fp8": (
        Backend("triton", fp8_triton, ours=True),
        Backend("scaled_grouped_mm", scaled_grouped_mm),
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
    return _choose(op, call, _requested(op) if asked is None else asked)


def _requested(op: str) -> str | None:
    given = _asked.get()
    return (given if given is not None else parse(os.environ.get(VARIABLE, ""))).get(op)


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
    default = _torch(op, call)
    faster = {
        backend.name: speed.ratio
        for backend in _ours(op, call)
        if (speed := _speed(_standing(op, backend, call), op, call.shape, default)) is not None and speed.ratio > 1
    }
    return max(faster, key=faster.__getitem__, default=default)


def _torch(op: str, call: KernelCall) -> str:
    """Return which implementation that needs no proof runs a call."""
    return next(b.name for b in BACKENDS[op] if not b.ours and b.exact and b.why_not(call) is None)


def _ours(op: str, call: KernelCall) -> list[Backend]:
    """Return those kernels of ours that can take a call and compute the operation itself. On a CPU, where the
    interpreter is there for tests, none is ever chosen."""
    backends = BACKENDS[op] if call.device.type == "cuda" else ()
    return [backend for backend in backends if backend.ours and backend.exact and backend.why_not(call) is None]


def _standing(op: str, backend: Backend, call: KernelCall) -> Standing:
    return standing(
        PROOF_OF.get(op, op),
        backend.name,
        call.dtype,
        torch.cuda.get_device_capability(call.device),
        head_dim=call.head_dim or None,
        table=device_table(call.device),
    )


def _speed(found: Standing, op: str, shape: str, default: str) -> Speed | None:
    """Return the measured speed on a class of shapes, if what would run instead was measured too."""
    speed = None if found.proof is None else found.proof.speed(op, shape)
    return speed if speed is not None and default in speed.against else None


def report(device: torch.device, dtype: torch.dtype = torch.bfloat16, head_dim: int = 128) -> list[Choice]:
    """List every implementation of every operation: whether a step of a model with such heads runs it, on which shapes,
    and if not, why."""
    choices: list[Choice] = []
    for op, backends in BACKENDS.items():
        call = KernelCall(device, FP8 if op in FP8_OPS else dtype, False, head_dim if op == "attention" else 0)
        usual, default = choose(op, call), _torch(op, call)
        wins = _wins(op, call, default) if _requested(op) is None else {}
        for backend in backends:
            reason = backend.why_not(call)
            asked = f"{ASK} ({VARIABLE}={op}={backend.name})"
            if backend.name == usual:
                rest = any(wins.values())
                choices.append(Choice(op, backend.name, True, "chosen" + " on all other shapes" * rest))
            elif reason is not None:
                choices.append(Choice(op, backend.name, False, reason))
            elif not backend.exact:
                choices.append(Choice(op, backend.name, False, f"changes the result: {asked}"))
            elif device.type != "cuda" and backend.ours:
                choices.append(Choice(op, backend.name, False, f"in the interpreter, {asked}"))
            elif wins.get(backend.name):
                choices.append(Choice(op, backend.name, True, f"chosen on {_listed(wins[backend.name])}"))
            elif backend.ours:
                choices.append(_why_not_ours(op, backend, call, default, asked))
            else:
                choices.append(Choice(op, backend.name, False, "another comes first"))
    return choices


def _wins(op: str, call: KernelCall, default: str) -> dict[str, list[Speed]]:
    """Return, for each kernel of ours, the classes of shapes on which it is chosen."""
    best: dict[str, tuple[str, Speed]] = {}
    for backend in _ours(op, call):
        found = _standing(op, backend, call)
        for speed in found.proof.speeds if found.proof is not None else ():
            more = _speed(found, op, speed.shape, default)
            least = best[speed.shape][1].ratio if speed.shape in best else 1.0
            if more is not None and more.ratio > least:
                best[speed.shape] = backend.name, more
    wins: dict[str, list[Speed]] = {}
    for name, speed in best.values():
        wins.setdefault(name, []).append(speed)
    return wins


def _why_not_ours(op: str, backend: Backend, call: KernelCall, default: str, asked: str) -> Choice:
    found = _standing(op, backend, call)
    if found.proof is None:
        return Choice(op, backend.name, False, f"{found.why}: {asked}", unproved=True)
    timed = [speed for speed in found.proof.speeds if speed.op == op]
    against = [speed for speed in timed if default in speed.against]
    if not against:
        what = f"not timed against {default}" if timed else "not timed against torch"
        return Choice(op, backend.name, False, f"proved on this device, but {what}: {asked}", untimed=True)
    if best := [speed for speed in against if speed.ratio > 1]:
        return Choice(op, backend.name, False, f"another is faster on {_listed(best)}: {asked}")
    return Choice(op, backend.name, False, f"not faster than torch on {_listed(against)}: {asked}")


def _listed(speeds: list[Speed]) -> str:
    return "; ".join(f"{speed.shape} ({speed.ratio:.2f} x {speed.fastest}, {speed.device})" for speed in speeds)


def _names(op: str) -> str:
    return ", ".join(backend.name for backend in BACKENDS[op])


def _known() -> str:
    return "; ".join(f"{op}={'|'.join(backend.name for backend in backends)}" for op, backends in BACKENDS.items())
