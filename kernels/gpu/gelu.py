"""GELU (tanh form) in eight instructions an element, for the epilogue of the products and the pass that quantises."""

from __future__ import annotations

import math

import triton
import triton.language as tl

_TO_EXP2 = -2.0 * math.sqrt(2.0 / math.pi) / math.log(2.0)
LINEAR = tl.constexpr(_TO_EXP2)
CUBIC = tl.constexpr(_TO_EXP2 * 0.044715)


@triton.jit
def gelu_tanh(x):
    """Compute ``x * sigmoid(2 u)``, ``u = sqrt(2 / pi) (x + 0.044715 x^3)``: GELU's tanh form, float32 in and out.

    It is ``x / (1 + 2^t)`` with ``t = -2 u / ln 2``, whose constants are folded into one polynomial. Nothing cancels
    for x < 0, as it does in ``1 + tanh(u)``; a power that overflows gives 0. The reciprocal is the square of
    ``rsqrt``, one instruction of the special function unit and a product; a division takes four more to reach the last
    bit. ``tanh.approx.f32`` would save the second special function, but its relative error of up to 2^-11 (PTX ISA)
    becomes, for x < -1, more than what rounding to bf16 loses.
    """
    t = x * (LINEAR + CUBIC * (x * x))
    root = tl.rsqrt(1.0 + tl.exp2(t))
    return x * root * root
