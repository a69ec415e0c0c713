"""Compute weights from how files store them (`model.inspection.packed`): in float32 on the host, one at a time.

A weight is its stored value times its scale. What shares a scale: the tensor, an output, a tile of 128 x 128, a run of
inputs. In mxfp8 a scale is a power of two, 2^(byte - 127), and the scales lie in the order in which tensor cores read
them: tiles of 128 x 4, in each of them row r = 32a + b at place (b, a).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from zoetrope.model.inspection.files import ModelError
from zoetrope.model.inspection.gguf_header import GGUF_TYPES
from zoetrope.model.inspection.headers import FLOATS, Header
from zoetrope.model.inspection.packed import MX_BLOCK, MX_COLUMNS, MX_ROWS, TILE, Packed

Read = Callable[[Header], torch.Tensor]
EXPONENT_BIAS = 127
BLOCK_BYTES = {kind: size for kind, _, size in GGUF_TYPES.values()}


def unpack(packed: Packed, read: Read) -> torch.Tensor:
    """Return a weight in float32, of its shape.

    Args:
        read: reads a tensor of the file; of GGUF, its weights.

    Raises:
        ModelError: a weight that is not quantised has a scale other than 1, which some writers leave beside it.
    """
    values = read(packed.values).float().reshape(packed.shape)
    if packed.scale is None:
        return values
    stored = read(packed.scale)
    if packed.scaling == "mx":
        return values * _by_input(_exponents(stored, packed.shape), MX_BLOCK)
    scale = _checked(stored, packed)
    if packed.values.dtype in FLOATS and not (scale == 1).all():
        raise ModelError(f"{packed.path}: {packed.name} is not quantised, but {packed.scale.name} is not 1")
    if packed.scaling == "tensor":
        return values * scale.reshape(())
    if packed.scaling == "rows":
        return values * scale.reshape(-1, *[1] * (values.ndim - 1))
    if packed.scaling == "runs":
        return values * _by_input(scale.reshape(packed.shape[0], -1), packed.run)
    outputs, inputs = packed.shape
    spread = scale.repeat_interleave(TILE, 0)[:outputs].repeat_interleave(TILE, 1)[:, :inputs]
    return values * spread


def has_rows(packed: Packed) -> bool:
    """Tell whether the bytes of the file are e4m3 with at most a scale for each output, which the 8-bit products take
    as they are."""
    return packed.values.dtype == "F8_E4M3" and packed.scaling in ("none", "tensor", "rows") and len(packed.shape) == 2


def rows_of(packed: Packed, read: Read) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the bytes ``[out, in]`` float8_e4m3fn and a scale for each output ``[out]`` float32; see `has_rows`."""
    values, outputs = read(packed.values), packed.shape[0]
    scale = torch.ones(1) if packed.scale is None else _checked(read(packed.scale), packed).reshape(-1)
    return values, scale.expand(outputs).contiguous()


def _checked(scale: torch.Tensor, packed: Packed) -> torch.Tensor:
    """Return scales in float32. Raises ModelError if one is no number above 0: no quantisation writes such a one."""
    scale = scale.float()
    if packed.scale is not None and not ((scale > 0) & scale.isfinite()).all():
        worst = scale[~((scale > 0) & scale.isfinite())].flatten()[0]
        raise ModelError(f"{packed.path}: {packed.scale.name} holds {float(worst):g}, scales are numbers above 0")
    return scale


def unpack_gguf(data: Any, kind: str, shape: tuple[int, ...]) -> torch.Tensor:
    """Return the weights in a tensor of a GGUF file, in float32.

    Args:
        data: its bytes, a numpy array of uint8. kind: its type, such as Q4_K.
    """
    from gguf import GGMLQuantizationType
    from gguf.quants import dequantize

    number = GGMLQuantizationType[kind]
    if kind in ("F32", "F16"):
        values = data.view("<f4" if kind == "F32" else "<f2").astype("float32")
    else:
        rows = shape[0] if len(shape) > 1 else 1
        whole = data.size % rows == 0 and data.size // rows % BLOCK_BYTES[kind] == 0
        values = dequantize(data.reshape(rows if whole else 1, -1), number)  # else an output begins within a block
    return torch.from_numpy(values.reshape(shape))


def _by_input(scale: torch.Tensor, run: int) -> torch.Tensor:
    return scale.repeat_interleave(run, 1)


def _exponents(stored: torch.Tensor, shape: tuple[int, ...]) -> torch.Tensor:
    """Return the scales ``[out, in / 32]`` of an mxfp8 weight."""
    rows, columns = stored.shape
    tiles = stored.view(torch.uint8).reshape(rows // MX_ROWS, columns // MX_COLUMNS, 32, MX_ROWS // 32, MX_COLUMNS)
    plain = tiles.permute(0, 3, 2, 1, 4).reshape(rows, columns)
    plain = plain[: shape[0], : shape[1] // MX_BLOCK]
    return torch.exp2(plain.float() - EXPONENT_BIAS)
