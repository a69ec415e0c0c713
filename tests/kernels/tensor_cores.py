"""Tensor cores as they sum, for kernels that run in Triton's interpreter.

The model is that of published measurements (Fasi et al., PeerJ CS 2021; Li et al., CCGrid 2024): products are exact;
those of one step of the inner dimension and the accumulator are aligned to the largest exponent among them; digits more
than a few bits below a float32's last one are cut off, not rounded; the exact sum of the rest is cut off to float32. A
step is taken to be 16 wide, with 2 bits beside the 24, as reported for Hopper.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import numpy as np
import numpy.typing as npt
import triton.language as tl
from triton.runtime.interpreter import InterpreterBuilder, TensorHandle

WIDTH = 16
EXTRA_BITS = 2
Array = npt.NDArray[Any]


def product(a: Array, b: Array, start: Array, width: int = WIDTH, extra: int = EXTRA_BITS) -> Array:
    """Return ``start + a @ b`` in float32 as tensor cores sum it: ``a`` [M, K], ``b`` [K, N], ``start`` [M, N]."""
    rows, columns = np.any(a, 1), np.any(b, 0)  # the rest, which masks filled with zeros, keeps its start
    left, right = a[rows].astype(np.float64).T, b[:, columns].astype(np.float64)
    total = _cut(start.astype(np.float64))
    kept = total[np.ix_(rows, columns)]
    for k in range(0, a.shape[1], width):
        terms = np.concatenate([kept[None], left[k : k + width, :, None] * right[k : k + width, None, :]])
        unit = np.ldexp(1.0, np.frexp(terms)[1].max(0) - 24 - extra)
        kept = _cut((np.trunc(terms / unit) * unit).sum(0))
    total[np.ix_(rows, columns)] = kept
    return total.astype(np.float32)


def _cut(x: Array) -> Array:
    """Cut float64 off to the 24 digits of float32."""
    mantissa, exponent = np.frexp(x)
    cut: Array = np.ldexp(np.trunc(np.ldexp(mantissa, 24)), exponent - 24)
    return cut


def to_bfloat16(x: Array) -> Array:
    """Return the upper halves ``uint16`` of float32 numbers, rounded to nearest even, as a GPU converts them."""
    bits = np.ascontiguousarray(x, dtype=np.float32).view(np.uint32)
    rounded: Array = (bits + 0x7FFF + (bits >> 16 & 1) >> 16).astype(np.uint16)
    return rounded


def from_bfloat16(x: Array) -> Array:
    return (x.astype(np.uint32) << 16).view(np.float32)


@contextmanager
def tensor_cores() -> Iterator[list[tuple[int, int, int]]]:
    """Multiply bfloat16 in the interpreter as tensor cores do, and convert to it as a GPU does.

    Yields a list that gets ``(M, K, N)`` of every such product, in the order in which the kernel asks for them.
    """
    made: list[tuple[int, int, int]] = []
    plain_dot, plain_trunc = InterpreterBuilder.create_dot, InterpreterBuilder.create_fp_trunc

    def create_dot(builder: Any, a: Any, b: Any, d: Any, *options: Any) -> Any:
        if a.dtype.scalar != tl.bfloat16:
            return plain_dot(builder, a, b, d, *options)
        made.append((*a.data.shape, b.data.shape[1]))
        return TensorHandle(product(from_bfloat16(a.data), from_bfloat16(b.data), d.data), d.dtype.scalar)

    def create_fp_trunc(builder: Any, src: Any, dst_type: Any) -> Any:
        if src.dtype.scalar == tl.float32 and dst_type.scalar == tl.bfloat16:
            return TensorHandle(to_bfloat16(src.data), tl.bfloat16)
        return plain_trunc(builder, src, dst_type)

    with (
        patch.object(InterpreterBuilder, "create_dot", create_dot),
        patch.object(InterpreterBuilder, "create_fp_trunc", create_fp_trunc),
    ):
        yield made
