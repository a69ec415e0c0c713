"""Gated residual, LayerNorm and modulation (or affine), also quantised to fp8, in one pass over the rows.

``sum = residual + update * gate[row]`` is rounded to its dtype and written, its LayerNorm made from the same registers,
and the 8-bit rows from the norm before it is rounded: each operand is read once and each result written once. A program
holds whole rows, each as two powers of two (5120 is 4096 + 1024), so that no lane is idle. Rows pass by the L1 cache,
which is left to the tables: neighbouring tokens share their noise level. The operation is adaLN-Zero's (Peebles & Xie,
arXiv 2212.09748) with a row of tables for each token.

A program takes one row of a model's width: a multiprocessor has registers for five to eight of them, which have about
100 KiB of operands in flight. Programs of more rows need as many registers more, and have no more in flight.
"""

# mypy: disable-error-code="no-untyped-def, untyped-decorator"

from __future__ import annotations

import torch
import triton
import triton.language as tl

from zoetrope.kernels.gpu.launch import interpreting, on_device
from zoetrope.kernels.gpu.quantise_fp8 import scale_of, to_fp8
from zoetrope.kernels.gpu.residual_norm_inputs import check_rows
from zoetrope.kernels.gpu.tiles import RowTile, column_block, row_key, row_parts, row_tile, tuned
from zoetrope.kernels.gpu.variant import Variant

MAX_WIDTH = 8192


@triton.jit
def _table_part(rows, known, column, D: tl.constexpr, FULL: tl.constexpr):
    """Load some columns of a table's rows; NaN for a level that it does not have, where nothing may be read."""
    mask = known[:, None] if FULL else known[:, None] & (column < D)[None, :]
    return tl.load(rows + column[None, :], mask=mask, other=float("nan"))


@triton.jit
def _sum(residual, update, gate, known, here, column, dtype: tl.constexpr, D: tl.constexpr, FULL: tl.constexpr):
    """Compute some columns of ``residual + update * gate``, each given by pointers to its rows, rounded to
    ``dtype``."""
    inside = here[:, None] if FULL else here[:, None] & (column < D)[None, :]
    x = tl.load(residual + column[None, :], mask=inside, other=0.0, cache_modifier=".cg")
    if update is not None:
        change = tl.load(update + column[None, :], mask=inside, other=0.0, cache_modifier=".cg").to(tl.float32)
        if gate is not None:
            change *= _table_part(gate, known, column, D, FULL)
        x = (x.to(tl.float32) + change).to(dtype)
    return x


@triton.jit
def _store(out, token, here, column, value, D: tl.constexpr, FULL: tl.constexpr):
    inside = here[:, None] if FULL else here[:, None] & (column < D)[None, :]
    place = token[:, None] * D + column[None, :]
    if out.dtype.element_ty == tl.float8e4nv:
        place = tl.max_contiguous(place, [1, 8])  # threads keep their 8 neighbours instead of gathering 16 to store
    tl.store(out + place, value.to(out.dtype.element_ty), mask=inside)


@triton.jit
def _only(x, column, D: tl.constexpr, FULL: tl.constexpr):
    """Replace values beyond the row by zeros."""
    return x if FULL else tl.where((column < D)[None, :], x, 0.0)


@triton.jit
def _modulated(x, shift, scale, weight, bias, known, column, D: tl.constexpr, FULL: tl.constexpr):
    if scale is not None:
        x *= 1.0 + _table_part(scale, known, column, D, FULL)
        x += _table_part(shift, known, column, D, FULL)
    if weight is not None:
        x *= tl.load(weight + column, mask=column < D, other=0.0).to(tl.float32)[None, :]
    if bias is not None:
        x += tl.load(bias + column, mask=column < D, other=0.0).to(tl.float32)[None, :]
    return _only(x, column, D, FULL)


@triton.jit
def _levels(row, token, here, levels, ROWS: tl.constexpr):
    """Return which row of the tables each token uses, and whether it exists."""
    level = tl.zeros([ROWS], tl.int64)
    known = level == 0
    if row is not None:
        level = tl.load(row + token, mask=here, other=0).to(tl.int64)
        known = (level >= 0) & (level < levels)
    return level, known


@triton.jit
def _row_sum(x, y, ROWS: tl.constexpr, BLOCK: tl.constexpr, REST: tl.constexpr):
    """Sum rows in two parts, which are in the same threads: one exchange between these is enough."""
    if REST:
        x = tl.sum(tl.reshape(x, [ROWS, BLOCK // REST, REST]), 1) + y
    return tl.sum(x, 1)


@triton.jit
def _row_max(x, y, ROWS: tl.constexpr, BLOCK: tl.constexpr, REST: tl.constexpr):
    if REST:
        x = tl.maximum(tl.max(tl.reshape(x, [ROWS, BLOCK // REST, REST]), 1), y)
    return tl.max(x, 1)


@triton.jit
def _residual_norm(
    residual,
    update,
    gate,
    row,
    shift,
    scale,
    weight,
    bias,
    total,
    normed,
    quantised,
    quantised_scale,
    tokens,
    levels,
    residual_stride,
    update_stride,
    gate_stride,
    shift_stride,
    scale_stride,
    eps,
    D: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
    REST: tl.constexpr,
    ROUND: tl.constexpr,
):
    FIRST: tl.constexpr = BLOCK <= D  # no column of this part is beyond the row
    LAST: tl.constexpr = BLOCK + REST == D
    dtype: tl.constexpr = total.dtype.element_ty
    token = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    here = token < tokens
    if ROWS == 1:
        here = tl.full([ROWS], True, tl.int1)  # known at compile time, so that nothing is masked
    level, known = _levels(row, token, here, levels, ROWS)
    residual += token[:, None] * residual_stride
    if update is not None:
        update += token[:, None] * update_stride
    if gate is not None:
        gate += level[:, None] * gate_stride
    if scale is not None:
        shift += level[:, None] * shift_stride
        scale += level[:, None] * scale_stride
    a = tl.arange(0, BLOCK)
    x = _sum(residual, update, gate, known, here, a, dtype, D, FIRST)
    y = x
    if REST:
        b = BLOCK + tl.arange(0, REST)
        y = _sum(residual, update, gate, known, here, b, dtype, D, LAST)
    if update is not None:  # stored after all loads, which would otherwise wait for the stores
        _store(total, token, here, a, x, D, FIRST)
        if REST:
            _store(total, token, here, b, y, D, LAST)
    x = _only(x.to(tl.float32), a, D, FIRST)
    if REST:
        y = _only(y.to(tl.float32), b, D, LAST)
    mean = (_row_sum(x, y, ROWS, BLOCK, REST) / D)[:, None]
    x = _only(x - mean, a, D, FIRST)
    if REST:
        y = _only(y - mean, b, D, LAST)
    variance = (_row_sum(x * x, y * y, ROWS, BLOCK, REST) / D)[:, None]
    inverse = tl.rsqrt(variance + eps)
    x = _modulated(x * inverse, shift, scale, weight, bias, known, a, D, FIRST)
    if REST:
        y = _modulated(y * inverse, shift, scale, weight, bias, known, b, D, LAST)
    _store(normed, token, here, a, x, D, FIRST)
    if REST:
        _store(normed, token, here, b, y, D, LAST)
    if quantised is not None:
        row_scale = scale_of(_row_max(tl.abs(x), tl.abs(y), ROWS, BLOCK, REST))
        tl.store(quantised_scale + token, row_scale, mask=here)
        factor = tl.div_rn(1.0, row_scale)[:, None]
        _store(quantised, token, here, a, to_fp8(x * factor, ROUND), D, FIRST)
        if REST:
            _store(quantised, token, here, b, to_fp8(y * factor, ROUND), D, LAST)


@triton.jit
def _residual_gate(
    residual,
    update,
    gate,
    row,
    total,
    tokens,
    levels,
    residual_stride,
    update_stride,
    gate_stride,
    D: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    FULL: tl.constexpr = D % BLOCK == 0
    token = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    here = token < tokens
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    level, known = _levels(row, token, here, levels, ROWS)
    residual += token[:, None] * residual_stride
    update += token[:, None] * update_stride
    if gate is not None:
        gate += level[:, None] * gate_stride
    x = _sum(residual, update, gate, known, here, column, total.dtype.element_ty, D, FULL)
    _store(total, token, here, column, x, D, FULL)


def residual_norm(
    residual: torch.Tensor,
    update: torch.Tensor | None,
    gate: torch.Tensor | None,
    row: torch.Tensor | None,
    *,
    shift: torch.Tensor | None = None,
    scale: torch.Tensor | None = None,
    weight: torch.Tensor | None = None,
    bias: torch.Tensor | None = None,
    eps: float,
    quantise: bool = False,
    tile: RowTile | None = None,
) -> tuple[torch.Tensor, ...]:
    """Compute ``sum = residual + update * gate[row]`` and its LayerNorm, modulated by ``row`` or affine, in one launch.

    The statistics are those of the sum as it is stored, in float32.

    Args:
        residual, update: ``[N, D]`` float32, float16 or bfloat16; D a multiple of 8 up to 8,192. Rows may be further
            apart than D. No update leaves the residual as it is.
        gate, shift, scale: ``[R, D]`` float32, one row for each distinct noise level in the batch; views with a row
            stride are fine. Without a gate the update is added as it is; ``shift`` and ``scale`` come together:
            ``norm * (1 + scale[row]) + shift[row]``.
        row: ``[N]`` int32 or int64, which row of the tables a token uses; may be None where there is no table. A token
            whose number is not in 0..R-1 gets NaN, since looking at the numbers would stop the host.
        weight, bias: ``[D]``, any of these dtypes: ``norm * weight + bias`` instead.
        eps: added to the variance. quantise: also give the norm in 8 bits, with a scale for each row.
        tile: instead of the tuned or default one (the tuner and the tests).

    Returns:
        ``(sum, normed)``, both ``[N, D]`` in the dtype of ``residual``; the sum is ``residual`` itself where there is
        no update. With ``quantise``, ``(sum, normed, q, scale)``: ``q`` ``[N, D]`` float8_e4m3fn and ``scale`` ``[N]``
        float32 are `kernels.gpu.quantise_fp8.quantise_rows` of the norm before it is rounded to its dtype.

    Raises:
        ValueError: a shape, dtype, device or stride that the kernel cannot take, or arguments that exclude each other.
    """
    device = check_rows(residual, update, gate, row, shift=shift, scale=scale, weight=weight, bias=bias)
    tokens, width = residual.shape
    if width > MAX_WIDTH:
        raise ValueError(f"residual has rows of {width}: the norm takes at most {MAX_WIDTH}")
    if update is None and gate is not None:
        raise ValueError("gate is given without update: there is nothing to weight")
    if (shift is None) != (scale is None):
        raise ValueError("shift and scale must be given together")
    if scale is not None and (weight is not None or bias is not None):
        raise ValueError("weight and bias exclude shift and scale: the norm is adaptive or affine")
    total = residual if update is None else torch.empty(tokens, width, dtype=residual.dtype, device=device)
    normed = torch.empty(tokens, width, dtype=residual.dtype, device=device)
    quantised = torch.empty(tokens, width, dtype=torch.float8_e4m3fn, device=device) if quantise else None
    quantised_scale = torch.empty(tokens, dtype=torch.float32, device=device) if quantise else None
    if tile is None:
        tile = tuned(row_key("residual_norm", width), row_tile(width), device)
    if tokens:
        block, rest = row_parts(width)
        table = gate if gate is not None else scale
        with on_device(device):
            _residual_norm[(triton.cdiv(tokens, tile.rows),)](
                residual,
                update,
                gate,
                row if table is not None else None,
                shift,
                scale,
                weight,
                bias,
                total,
                normed,
                quantised,
                quantised_scale,
                tokens,
                table.shape[0] if table is not None else 0,
                *(0 if t is None else t.stride(0) for t in (residual, update, gate, shift, scale)),
                eps,
                D=width,
                ROWS=tile.rows,
                BLOCK=block,
                REST=rest,
                ROUND=interpreting(),
                num_warps=tile.num_warps,
            )
    if quantised is None or quantised_scale is None:
        return total, normed
    return total, normed, quantised, quantised_scale


def residual_gate(
    residual: torch.Tensor,
    update: torch.Tensor,
    gate: torch.Tensor | None,
    row: torch.Tensor | None,
    *,
    tile: RowTile | None = None,
) -> torch.Tensor:
    """Compute ``residual + update * gate[row]``, or ``residual + update`` without a gate: the first half of
    `residual_norm`.

    Returns:
        ``[N, D]`` in the dtype of ``residual``; the arguments are those of `residual_norm`, with D of any size.

    Raises:
        ValueError: a shape, dtype, device or stride that the kernel cannot take.
    """
    device = check_rows(residual, update, gate, row)
    tokens, width = residual.shape
    total = torch.empty(tokens, width, dtype=residual.dtype, device=device)
    block = column_block(width)
    if tile is None:
        tile = tuned(row_key("residual_gate", width), row_tile(block), device)
    if tokens:
        with on_device(device):
            _residual_gate[(triton.cdiv(tokens, tile.rows), triton.cdiv(width, block))](
                residual,
                update,
                gate,
                row if gate is not None else None,
                total,
                tokens,
                gate.shape[0] if gate is not None else 0,
                residual.stride(0),
                update.stride(0),
                gate.stride(0) if gate is not None else 0,
                D=width,
                ROWS=tile.rows,
                BLOCK=block,
                num_warps=tile.num_warps,
            )
    return total


def variants() -> list[Variant]:
    """List the forms that the model calls, at both production widths; ``gate`` and ``update`` are `residual_gate`."""
    quantised = ("quantised", "quantised_scale")
    norms = {
        "adaptive": {"row", "shift", "scale"},
        "gate-adaptive": {"update", "gate", "row", "shift", "scale"},
        "gate-affine": {"update", "gate", "row", "weight", "bias"},
        "update-adaptive": {"update", "row", "shift", "scale"},
        "gate-adaptive-fp8": {"update", "gate", "row", "shift", "scale", *quantised},
        "gate-affine-fp8": {"update", "gate", "row", "weight", "bias", *quantised},
        "update-adaptive-fp8": {"update", "row", "shift", "scale", *quantised},
    }
    sums = {"gate": {"update", "gate", "row"}, "update": {"update"}}
    return [
        _variant(dtype, width, form, given | {"residual", "total"}, norm=form in norms)
        for dtype in ("bf16", "fp16", "fp32")
        for width in (3072, 5120)
        for form, given in {**norms, **sums}.items()
    ]


def _variant(dtype: str, width: int, form: str, given: set[str], *, norm: bool) -> Variant:
    kernel = _residual_norm if norm else _residual_gate
    given = given | ({"normed"} if norm else set())
    if norm:
        tile, (block, rest) = row_tile(width), row_parts(width)
        constants = {"D": width, "ROWS": tile.rows, "BLOCK": block, "REST": rest, "ROUND": False}
    else:
        tile, block = row_tile(column_block(width)), column_block(width)
        constants = {"D": width, "ROWS": tile.rows, "BLOCK": block}
    strides = ("residual_stride", "update_stride", "gate_stride", "shift_stride", "scale_stride")
    types = {
        **dict.fromkeys(("residual", "update", "weight", "bias", "total", "normed"), f"*{dtype}"),
        **dict.fromkeys(("gate", "shift", "scale", "quantised_scale"), "*fp32"),
        "row": "*i64",
        "quantised": "*fp8e4nv",
    }
    types = {name: type_ if name in given else "constexpr" for name, type_ in types.items()}
    types |= {**dict.fromkeys(("tokens", "levels", *strides), "i32"), "eps": "fp32"}
    signature = {name: types.get(name, "constexpr") for name in kernel.arg_names}
    absent = {name: None for name, type_ in signature.items() if type_ == "constexpr" and name not in constants}
    return Variant(
        name=f"residual_norm/triton/{dtype}/d{width}-{form}",
        kernel=kernel,
        signature=signature,
        constexprs={**constants, **absent},
        divisible=frozenset(name for name in (*given, *strides) if name in signature),
        num_warps=tile.num_warps,
    )
