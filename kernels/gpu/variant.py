"""One compiled form of a kernel, as the ahead-of-time check compiles it without a GPU."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Variant:
    """A kernel with the types of its arguments and its compile-time constants.

    Attributes:
        name: ``op/backend/what is special``, e.g. ``attention/triton/bf16/d128``; unique.
        kernel: the function under ``@triton.jit`` or ``@gluon.jit``.
        signature: every parameter and its type (``*bf16``, ``i32``, ``fp32``, ``tensordesc<bf16[128,64]>``,
            ``constexpr``), in the order of the function.
        constexprs: the values of the parameters of type ``constexpr``.
        divisible: parameters known to be multiples of 16 (pointers: of 16 bytes), as at a launch.
        gluon: compiled by Gluon instead of Triton.
        wgmma: the code must contain warpgroup matrix instructions.
        tma: the code must contain copies by the tensor memory accelerator.
        setmaxnreg: the code must hand registers from one warpgroup to another.
    """

    name: str
    kernel: Any
    signature: Mapping[str, str]
    constexprs: Mapping[str, Any]
    divisible: frozenset[str] = field(default_factory=frozenset)
    num_warps: int = 4
    num_stages: int = 3
    gluon: bool = False
    wgmma: bool = False
    tma: bool = False
    setmaxnreg: bool = False
