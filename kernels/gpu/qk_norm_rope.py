"""RMSNorm across all heads, 3D rotary positions and 8-bit quantisation of queries or keys, in one pass over the rows.

The norm spans all heads, so it cannot live in a kernel that attends by head. A program holds whole rows as ``[ROWS,
heads, d]``, the heads as two powers of two (40 is 32 + 8): they are loaded and stored contiguously, and the
neighbouring pairs that Wan rotates together lie in the same thread, where `tl.split` and `tl.join` part and pair them
without moving anything. RMSNorm: Zhang & Sennrich, arXiv 1910.07467; rotation: RoFormer, 2104.09864; int8 with one
scale for a row and head: SageAttention, 2410.02367.
"""

# mypy: disable-error-code="no-untyped-def, untyped-decorator"

from __future__ import annotations

import torch
import triton
import triton.language as tl

from zoetrope.kernels.gpu.launch import on_device, require_device, require_rows_contiguous
from zoetrope.kernels.gpu.tiles import RowTile, row_key, row_parts, row_tile, tuned
from zoetrope.kernels.gpu.variant import Variant

FLOATS = (torch.float32, torch.float16, torch.bfloat16)
MAX_WIDTH = 8192  # of a row as the kernel holds it
ROUND = tl.constexpr(12582912.0)  # 1.5 * 2**23: added to a small number, it leaves only the nearest (even) integer


@triton.jit
def load_heads(x, token, here, head, within, stride, HEADS: tl.constexpr, DIM: tl.constexpr, FULL: tl.constexpr):
    """Load ``[ROWS, heads, BLOCK_DIM]`` of the row, 0 beyond its heads and their width."""
    inside = here if FULL else here & (head < HEADS) & (within < DIM)
    place = x + token * stride + head * DIM + within
    return tl.load(place, mask=inside, other=0.0, cache_modifier=".cg").to(tl.float32)


@triton.jit
def turn_heads(
    value,
    weight,
    cos,
    sin,
    token,
    here,
    head,
    within,
    cos_stride,
    sin_stride,
    HEADS: tl.constexpr,
    DIM: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK_HEADS: tl.constexpr,
    BLOCK_DIM: tl.constexpr,
):
    """Weight and rotate some heads of normed rows."""
    known = (head < HEADS) & (within < DIM)
    value *= tl.load(weight + head * DIM + within, mask=known, other=0.0).to(tl.float32)
    if cos is not None:
        # Every head needs the same few numbers: the first head fetches them, the others find them in L1.
        pair = tl.arange(0, BLOCK_DIM // 2)[None, None, :] + tl.zeros([1, BLOCK_HEADS, 1], tl.int32)
        paired = here if BLOCK_DIM == DIM else here & (pair < DIM // 2)
        c = tl.load(cos + token * cos_stride + pair, mask=paired, other=0.0)
        s = tl.load(sin + token * sin_stride + pair, mask=paired, other=0.0)
        even, odd = tl.split(tl.reshape(value, [ROWS, BLOCK_HEADS, BLOCK_DIM // 2, 2]))
        value = tl.reshape(tl.join(even * c - odd * s, even * s + odd * c), [ROWS, BLOCK_HEADS, BLOCK_DIM])
    return value


@triton.jit
def _finish(
    value,
    weight,
    cos,
    sin,
    smooth,
    out,
    out_scale,
    token,
    here,
    head,
    within,
    cos_stride,
    sin_stride,
    HEADS: tl.constexpr,
    DIM: tl.constexpr,
    FULL: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK_HEADS: tl.constexpr,
    BLOCK_DIM: tl.constexpr,
):
    """Weight, rotate and store some heads of normed rows."""
    value = turn_heads(
        value, weight, cos, sin, token, here, head, within, cos_stride, sin_stride,
        HEADS, DIM, ROWS, BLOCK_HEADS, BLOCK_DIM,
    )  # fmt: skip
    known = (head < HEADS) & (within < DIM)
    column = head * DIM + within
    if out_scale is not None:
        if smooth is not None:
            value -= tl.load(smooth + column, mask=known, other=0.0)
        largest = tl.max(tl.abs(value), 2, keep_dims=True)
        scale = tl.where(largest < 1e-30, 1.0, largest / 127.0)  # NaN, which has no integer, stays NaN here
        tl.store(out_scale + token * HEADS + head, scale, mask=here & (head < HEADS))
        value = value * (1.0 / scale) + ROUND - ROUND
        column = tl.max_contiguous(column, [1, 1, 8])  # threads keep their 8 neighbours
    inside = here if FULL else here & known
    tl.store(out + token * (HEADS * DIM) + column, value.to(out.dtype.element_ty), mask=inside)


@triton.jit
def _qk_norm_rope(
    x,
    weight,
    cos,
    sin,
    smooth,
    out,
    out_scale,
    tokens,
    x_stride,
    cos_stride,
    sin_stride,
    eps,
    HEADS: tl.constexpr,
    DIM: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK_HEADS: tl.constexpr,
    REST: tl.constexpr,
    BLOCK_DIM: tl.constexpr,
):
    FIRST: tl.constexpr = BLOCK_HEADS <= HEADS and BLOCK_DIM == DIM
    LAST: tl.constexpr = BLOCK_HEADS + REST == HEADS and BLOCK_DIM == DIM
    token = (tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS))[:, None, None]
    here = token < tokens
    if ROWS == 1:
        here = tl.full([1, 1, 1], True, tl.int1)  # known at compile time, so that nothing is masked
    within = tl.arange(0, BLOCK_DIM)[None, None, :]
    a = tl.arange(0, BLOCK_HEADS)[None, :, None]
    v = load_heads(x, token, here, a, within, x_stride, HEADS, DIM, FIRST)
    squares = v * v
    if REST:
        b = BLOCK_HEADS + tl.arange(0, REST)[None, :, None]
        w = load_heads(x, token, here, b, within, x_stride, HEADS, DIM, LAST)
        # Both parts in the same threads: one exchange between them makes the sum.
        squares = tl.sum(tl.reshape(squares, [ROWS, BLOCK_HEADS // REST, REST, BLOCK_DIM]), 1) + w * w
    total = tl.sum(tl.sum(squares, 2, keep_dims=True), 1, keep_dims=True)
    inverse = tl.rsqrt(total / (HEADS * DIM) + eps)
    _finish(
        v * inverse, weight, cos, sin, smooth, out, out_scale, token, here, a, within, cos_stride, sin_stride,
        HEADS, DIM, FIRST, ROWS, BLOCK_HEADS, BLOCK_DIM,
    )  # fmt: skip
    if REST:
        _finish(
            w * inverse, weight, cos, sin, smooth, out, out_scale, token, here, b, within, cos_stride, sin_stride,
            HEADS, DIM, LAST, ROWS, REST, BLOCK_DIM,
        )  # fmt: skip


def qk_norm_rope(
    x: torch.Tensor,
    weight: torch.Tensor,
    cos: torch.Tensor | None,
    sin: torch.Tensor | None,
    heads: int,
    eps: float,
    *,
    int8: bool = False,
    smooth: torch.Tensor | None = None,
    tile: RowTile | None = None,
) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
    """Normalise ``x`` over its whole width, rotate neighbouring pairs inside each head, quantise if asked; in float32.

    Args:
        x: ``[N, heads * d]`` float32, float16 or bfloat16, d a multiple of 8; rows may be further apart than their
            width (a slice of a fused QKV). A row as `row_parts` and a power of two for d hold it has up to 8,192.
        weight: ``[heads * d]``, any of these dtypes.
        cos, sin: ``[N, d / 2]`` float32, or None for no rotation (cross-attention).
        int8: quantise, with one scale for each row and head.
        smooth: ``[heads, d]`` float32, subtracted after the rotation and before quantisation (the mean of the keys).
        tile: instead of the tuned or default one (the tuner and the tests).

    Returns:
        ``[N, heads, d]`` in the dtype of ``x``, contiguous; with ``int8``, int8 ``[N, heads, d]`` and scale
        ``[N, heads]`` float32: the value is their product, the scale ``max|.| / 127`` (1 where all are 0).

    Raises:
        ValueError: a shape, dtype, device or stride that the kernel cannot take, or ``smooth`` without ``int8``.
    """
    if smooth is not None and not int8:
        raise ValueError("smooth is given with int8=False: only quantised keys are smoothed")
    if x.ndim != 2 or heads < 1 or x.shape[1] < 1 or x.shape[1] % (8 * heads):
        raise ValueError(f"x is {tuple(x.shape)}: it must be [N, heads * d] with {heads} heads and d a multiple of 8")
    tokens, width = x.shape
    dim = width // heads
    (block_heads, rest), block_dim = row_parts(heads), triton.next_power_of_2(dim)
    if (block_heads + rest) * block_dim > MAX_WIDTH:
        raise ValueError(f"x has {heads} heads of {dim}: {block_heads + rest} of {block_dim} are more than {MAX_WIDTH}")
    if weight.shape != (width,):
        raise ValueError(f"weight is {tuple(weight.shape)}: it must be {(width,)}")
    for name, tensor in {"x": x, "weight": weight}.items():
        if tensor.dtype not in FLOATS:
            raise ValueError(f"{name} is {tensor.dtype}: it must be float32, float16 or bfloat16")
    if (cos is None) != (sin is None):
        raise ValueError("cos and sin must be given together")
    for name, table, shape in (
        ("cos", cos, (tokens, dim // 2)),
        ("sin", sin, (tokens, dim // 2)),
        ("smooth", smooth, (heads, dim)),
    ):
        if table is not None and (table.shape != shape or table.dtype != torch.float32):
            raise ValueError(f"{name} is {tuple(table.shape)} {table.dtype}: it must be {shape} float32")
    if smooth is not None and not smooth.is_contiguous():
        raise ValueError(f"smooth has strides {smooth.stride()}: it must be contiguous")
    device = require_device(x=x, weight=weight, cos=cos, sin=sin, smooth=smooth)
    require_rows_contiguous(x=x, weight=weight, cos=cos, sin=sin, smooth=smooth)
    out = torch.empty(tokens, heads, dim, dtype=torch.int8 if int8 else x.dtype, device=device)
    out_scale = torch.empty(tokens, heads, dtype=torch.float32, device=device) if int8 else None
    if tile is None:
        tile = tuned(row_key("qk_norm_rope", width), row_tile(heads * block_dim), device)
    if tokens:
        with on_device(device):
            _qk_norm_rope[(triton.cdiv(tokens, tile.rows),)](
                x,
                weight,
                cos,
                sin,
                smooth,
                out,
                out_scale,
                tokens,
                x.stride(0),
                cos.stride(0) if cos is not None else 0,
                sin.stride(0) if sin is not None else 0,
                eps,
                HEADS=heads,
                DIM=dim,
                ROWS=tile.rows,
                BLOCK_HEADS=block_heads,
                REST=rest,
                BLOCK_DIM=block_dim,
                num_warps=tile.num_warps,
            )
    return out if out_scale is None else (out, out_scale)


def variants() -> list[Variant]:
    """List both production widths: rotated, not rotated, and quantised with and without smoothing."""
    forms = {
        "rope": {"cos", "sin"},
        "norm": set[str](),
        "rope-int8": {"cos", "sin", "out_scale"},
        "rope-int8-smooth": {"cos", "sin", "smooth", "out_scale"},
    }
    return [
        _variant(dtype, heads, form, given)
        for dtype in ("bf16", "fp16", "fp32")
        for heads in (24, 40)
        for form, given in forms.items()
    ]


def _variant(dtype: str, heads: int, form: str, given: set[str]) -> Variant:
    dim = 128
    block_heads, rest = row_parts(heads)
    tile = row_tile(heads * dim)
    present = {"x", "weight", "out"} | given
    types = {
        **dict.fromkeys(("x", "weight"), f"*{dtype}"),
        **dict.fromkeys(("cos", "sin", "smooth", "out_scale"), "*fp32"),
        "out": "*i8" if "out_scale" in given else f"*{dtype}",
    }
    strides = ("x_stride", "cos_stride", "sin_stride")
    signature = {name: type_ if name in present else "constexpr" for name, type_ in types.items()}
    signature |= {**dict.fromkeys(("tokens", *strides), "i32"), "eps": "fp32"}
    constants = {"HEADS": heads, "DIM": dim, "ROWS": tile.rows, "BLOCK_HEADS": block_heads}
    constants |= {"REST": rest, "BLOCK_DIM": dim}
    return Variant(
        name=f"qk_norm_rope/triton/{dtype}/h{heads}-{form}",
        kernel=_qk_norm_rope,
        signature={name: signature.get(name, "constexpr") for name in _qk_norm_rope.arg_names},
        constexprs={**constants, **{name: None for name in types if name not in present}},
        divisible=frozenset({*present, *strides}),
        num_warps=tile.num_warps,
    )
