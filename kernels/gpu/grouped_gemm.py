"""The products of all experts in one persistent launch, with the rest of the layer in its epilogue.

A program takes every P-th tile of the list (expert, row tile, column tile). The list is never written down: each
program counts the tiles of the experts from the offsets, which stay on the device, and finds its next one by a sum
over that count. The weight always arrives through the tensor memory accelerator (TMA), the rows too unless they are
gathered.

The persistent schedule and the grouped order of tiles follow the persistent and grouped matmul tutorials of Triton
(triton-lang/triton, python/tutorials/08 and 09); the gather and the weighted scatter inside the products follow
ScatterMoE (arXiv:2403.08245).
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from triton.tools.tensor_descriptor import TensorDescriptor

from zoetrope.kernels.gpu.launch import multiprocessors, require_device, require_rows_contiguous
from zoetrope.kernels.gpu.tiles import GemmTile, gemm_candidates, gemm_key, gemm_tile, tuned
from zoetrope.kernels.gpu.variant import Variant
from zoetrope.kernels.reference.grouped_gemm import check_operands

TYPES = {torch.bfloat16: "bf16", torch.float16: "fp16", torch.float32: "fp32"}


@triton.jit
def count_tiles(offsets, m, n_tiles, experts, EXPERTS: tl.constexpr, BLOCK_M: tl.constexpr):
    """Return ``[EXPERTS]``: the number of tiles of all experts up to and including each one."""
    expert = tl.arange(0, EXPERTS)
    begin = tl.load(offsets + expert, mask=expert < experts, other=0)
    end = tl.load(offsets + expert + 1, mask=expert < experts, other=0)
    rows = tl.minimum(end, m) - tl.maximum(begin, 0)  # wrong offsets never lead outside the tensors
    return tl.cumsum(tl.maximum(rows + BLOCK_M - 1, 0) // BLOCK_M, 0) * n_tiles


@triton.jit
def find_tile(tile, ends, offsets, m, n_tiles, BLOCK_M: tl.constexpr, GROUP_M: tl.constexpr):
    """Return expert, first row, end of the expert's rows and column tile of a tile of the list.

    Tiles of an expert are ordered in bands of ``GROUP_M`` row tiles, down a band before across: programs that run at
    the same time share rows and columns in L2.
    """
    before = ends <= tile
    expert = tl.sum(before.to(tl.int32), 0)
    local = tile - tl.max(tl.where(before, ends, 0), 0)
    row_begin = tl.maximum(tl.load(offsets + expert), 0)
    row_end = tl.minimum(tl.load(offsets + expert + 1), m)
    m_tiles = (row_end - row_begin + BLOCK_M - 1) // BLOCK_M
    band = local // (GROUP_M * n_tiles)
    height = tl.minimum(m_tiles - band * GROUP_M, GROUP_M)
    local -= band * GROUP_M * n_tiles
    row = row_begin + (band * GROUP_M + local % height) * BLOCK_M
    return expert, row, row_end, local // height


@triton.jit
def gelu_tanh(x):
    """Compute GELU's tanh approximation as ``x * sigmoid(2 u)``: the same function without cancellation for x < 0."""
    u = 0.7978845608028654 * (x + 0.044715 * x * x * x)
    return x * tl.sigmoid(2.0 * u)


@triton.jit(do_not_specialize=["m", "x_rows"])  # they change with every batch
def _grouped_gemm(
    x,  # tensor descriptor [M, K], or a pointer when rows are gathered
    weight,  # tensor descriptor [E, K, N] (or [E, N, K] when TRANSPOSED)
    y,
    offsets,
    bias,
    rows,
    gate,
    scatter,
    m,
    n,
    k,
    experts,
    x_rows,
    x_stride,
    TRANSPOSED: tl.constexpr,
    GELU: tl.constexpr,
    EXPERTS: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    GROUP_M: tl.constexpr,
    PRECISION: tl.constexpr,
    FLATTEN: tl.constexpr,
):
    tl.assume(k > 0)
    n_tiles = tl.cdiv(n, BLOCK_N)
    ends = count_tiles(offsets, m, n_tiles, experts, EXPERTS, BLOCK_M)
    for tile in tl.range(tl.program_id(0), tl.max(ends, 0), tl.num_programs(0), flatten=FLATTEN):
        expert, row, row_end, column = find_tile(tile, ends, offsets, m, n_tiles, BLOCK_M, GROUP_M)
        column *= BLOCK_N
        row_of = row + tl.arange(0, BLOCK_M)
        inside = row_of < row_end
        acc = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
        if rows is not None:
            step: tl.constexpr = 128 // x.dtype.element_ty.primitive_bitwidth
            stride = x_stride // step * step  # it is a multiple of 16 bytes, which the compiler must know
            width = k // step * step
            source = tl.load(rows + row_of, mask=inside, other=0)
            source = tl.minimum(tl.maximum(source, 0), x_rows - 1).to(tl.int64)
            depth = tl.arange(0, BLOCK_K)
            pointers = x + source[:, None] * stride + depth[None, :]
        for start in range(0, k, BLOCK_K):
            if rows is not None:
                a = tl.load(pointers, mask=depth[None, :] < width - start, other=0.0)
                pointers += BLOCK_K
            else:
                a = x.load([row, start])  # past the group these are rows of the next one: computed, never stored
            if TRANSPOSED:
                b = weight.load([expert, column, start]).reshape(BLOCK_N, BLOCK_K).T
            else:
                b = weight.load([expert, start, column]).reshape(BLOCK_K, BLOCK_N)
            acc = tl.dot(a, b, acc, input_precision=PRECISION)
        column_of = column + tl.arange(0, BLOCK_N)
        if bias is not None:
            add = tl.load(bias + expert.to(tl.int64) * n + column_of, mask=column_of < n, other=0.0)
            acc += add.to(tl.float32)[None, :]
        if GELU:
            acc = gelu_tanh(acc)
        if gate is not None:
            acc *= tl.load(gate + row_of, mask=inside, other=0.0)[:, None]
        target = row_of
        if scatter is not None:
            target = tl.load(scatter + row_of, mask=inside, other=-1)
            inside = (target >= 0) & (target < m)
        place = y + target.to(tl.int64)[:, None] * n + column_of[None, :]
        tl.store(place, acc.to(y.dtype.element_ty), mask=inside[:, None] & (column_of[None, :] < n))


def require_operand_rows(x: torch.Tensor, stored: torch.Tensor) -> None:
    """Raise ValueError where TMA cannot read the rows, or the weight as it is stored."""
    if not stored.is_contiguous():
        raise ValueError(
            f"weight has shape {tuple(stored.shape)} and strides {stored.stride()}: it must be contiguous, "
            "or (not in 8 bit) the .mT of a contiguous tensor"
        )
    step = 16 // stored.element_size()
    for name, tensor in (("x", x), ("weight", stored)):
        if tensor.shape[-1] % step:
            raise ValueError(f"{name} has rows of {tensor.shape[-1]} values: not a multiple of {step} (16 bytes)")
    require_rows_contiguous(x=x, weight=stored)
    if x.shape[0] > 1 and x.stride(0) < x.shape[1]:
        raise ValueError(f"x has strides {x.stride()}: its rows overlap")


def row_descriptor(x: torch.Tensor, tile: GemmTile) -> TensorDescriptor:
    """Describe the rows for TMA, where, unlike in torch, the stride of a single row matters."""
    stride = x.stride(0) if x.shape[0] > 1 else x.shape[1]
    return TensorDescriptor(x, list(x.shape), [stride, 1], [tile.block_m, tile.block_k])


def expert_slots(experts: int) -> int:
    """Return the power of two of slots in which a program counts the tiles of all experts."""
    return max(16, int(triton.next_power_of_2(experts)))


def grouped_gemm(
    x: torch.Tensor,
    weight: torch.Tensor,
    offsets: torch.Tensor,
    bias: torch.Tensor | None = None,
    *,
    gelu: bool = False,
    rows: torch.Tensor | None = None,
    gate: torch.Tensor | None = None,
    scatter: torch.Tensor | None = None,
    tile: GemmTile | None = None,
) -> torch.Tensor:
    """Compute ``y[r] = epilogue(x[r] @ weight[e of r])``: one product per expert over rows sorted by expert.

    The epilogue adds the bias, applies GELU (tanh form), multiplies by the row's gate and stores, all from the float32
    accumulator; float32 inputs are multiplied in full precision. Nothing is copied to the host.

    Args:
        x: ``[M, K]``, bf16, fp16 or fp32, rows sorted by expert; with ``rows`` ``[X, K]`` in any order. The last
            dimension is contiguous; base and row stride are multiples of 16 bytes, as TMA asks.
        weight: ``[E, K, N]`` in the dtype of ``x``: contiguous, or the transposed view (``.mT``) of a contiguous
            ``[E, N, K]``; its rows in memory start at multiples of 16 bytes too.
        offsets: ``[E + 1]`` int32, expert ``e`` has the rows ``offsets[e]:offsets[e + 1]``, from 0 to ``M``.
        bias: ``[E, N]`` contiguous, the dtype of ``x`` or float32, or nothing.
        gelu: whether GELU follows.
        rows: ``[M]`` int32: row ``r`` of the product reads ``x[rows[r]]``.
        gate: ``[M]`` float32, a weight for each row.
        scatter: ``[M]`` int32, a permutation: row ``r`` is stored as row ``scatter[r]``.
        tile: the tile to use instead of the tuned or default one (the tuner and the tests).

    Returns:
        ``[M, N]`` in the dtype of ``x``.

    Raises:
        ValueError: an argument breaks a rule above. Values of offsets, rows and scatter are on the device and are not
            looked at: wrong ones give a wrong result, but no access outside the tensors.
    """
    m, n, k = check_operands(x, weight, offsets, bias, rows, gate, scatter)
    device = require_device(x=x, weight=weight, offsets=offsets, bias=bias, rows=rows, gate=gate, scatter=scatter)
    transposed = not weight.is_contiguous()
    stored = weight.mT if transposed else weight
    require_operand_rows(x, stored)
    y = x.new_empty((m, n))
    if m == 0:
        return y
    experts = weight.shape[0]
    if tile is None:
        kind = TYPES[x.dtype] + ("/gathered" if rows is not None else "")
        tile = tuned(gemm_key(kind, m, experts, n, k), gemm_tile(kind, m, experts, n), device)
    block = (tile.block_n, tile.block_k) if transposed else (tile.block_k, tile.block_n)
    operand = x if rows is not None else row_descriptor(x, tile)
    with torch.cuda.device_of(x):
        _grouped_gemm[(tile.programs * multiprocessors(device),)](
            operand,
            TensorDescriptor.from_tensor(stored, [1, *block]),
            y,
            offsets,
            bias,
            rows,
            gate,
            scatter,
            m,
            n,
            k,
            experts,
            x.shape[0],
            x.stride(0),
            TRANSPOSED=transposed,
            GELU=gelu,
            EXPERTS=expert_slots(experts),
            BLOCK_M=tile.block_m,
            BLOCK_N=tile.block_n,
            BLOCK_K=tile.block_k,
            GROUP_M=tile.group_m,
            PRECISION="ieee" if x.dtype == torch.float32 else "tf32",
            FLATTEN=tile.flatten,
            num_warps=tile.num_warps,
            num_stages=tile.num_stages,
        )
    return y


def _variant(
    name: str, kind: str, tile: GemmTile, given: tuple[str, ...], *, transposed: bool = True, experts: int = 80
) -> Variant:
    """Return the kernel with the optional arguments in ``given`` (and ``gelu``), all sizes multiples of 16."""
    dtype, *gathered = kind.split("/")
    types = {"bias": f"*{dtype}", "rows": "*i32", "gate": "*fp32", "scatter": "*i32"}
    block = (tile.block_n, tile.block_k) if transposed else (tile.block_k, tile.block_n)
    constants: dict[str, Any] = {
        **{argument: None for argument in types if argument not in given},
        "TRANSPOSED": transposed,
        "GELU": "gelu" in given,
        "EXPERTS": expert_slots(experts),
        "BLOCK_M": tile.block_m,
        "BLOCK_N": tile.block_n,
        "BLOCK_K": tile.block_k,
        "GROUP_M": tile.group_m,
        "PRECISION": "ieee" if dtype == "fp32" else "tf32",
        "FLATTEN": tile.flatten,
    }
    signature = {
        "x": f"*{dtype}" if gathered else f"tensordesc<{dtype}[{tile.block_m},{tile.block_k}]>",
        "weight": f"tensordesc<{dtype}[1,{block[0]},{block[1]}]>",
        "y": f"*{dtype}",
        "offsets": "*i32",
        **types,
        **dict.fromkeys(("m", "n", "k", "experts", "x_rows", "x_stride"), "i32"),
    }
    signature.update(dict.fromkeys(constants, "constexpr"))
    divisible = frozenset(a for a, kind in signature.items() if kind.startswith("*")) | {"n", "k", "x_stride"}
    return Variant(
        f"grouped_gemm/triton/{name}",
        _grouped_gemm,
        signature,
        constants,
        divisible,
        tile.num_warps,
        tile.num_stages,
        wgmma=dtype != "fp32",
        tma=True,
    )


FIRST = ("bias", "gelu")  # the first product of an expert
SECOND: tuple[str, ...] = ()  # the second one, whose rows another pass combines
COMBINED = ("gate", "scatter")  # the second one, weighted and put in place by its epilogue


def variants() -> list[Variant]:
    """List both products of 80 experts at 32k tokens, of few tokens, of one dense layer, in both layouts of the
    weight."""
    found = []
    for dtype in ("bf16", "fp16"):
        for layout in ("kn", "nk"):
            for name, given in (("first", FIRST), ("second", SECOND), ("combined", COMBINED), ("gathered", FIRST)):
                kind = f"{dtype}/gathered" if name == "gathered" else dtype
                given = (*given, "rows") if name == "gathered" else given
                tile = gemm_tile(kind, 32768 * 8, 80, 1792)
                found.append(_variant(f"{dtype}/{name}/{layout}", kind, tile, given, transposed=layout == "nk"))
        small = gemm_tile(dtype, 80 * 32, 80, 1792)
        found.append(_variant(f"{dtype}/small", dtype, small, FIRST))
        dense = gemm_tile(dtype, 32768, 1, 13824)
        found.append(_variant(f"{dtype}/dense", dtype, dense, FIRST, experts=1))
    single = gemm_tile("fp32", 32768 * 8, 80, 1792)
    found.append(_variant("fp32/first", "fp32", single, FIRST))
    gathered = gemm_tile("fp32/gathered", 32768 * 8, 80, 1792)
    found.append(_variant("fp32/gathered", "fp32/gathered", gathered, (*FIRST, "rows"), transposed=False))
    return found


def candidates() -> list[Variant]:
    """List what the tuner tries, in bf16 and with a full epilogue: for a longer check than every build's."""
    found = []
    for kind in ("bf16", "bf16/gathered"):
        given = (*FIRST, *COMBINED, "rows") if kind.endswith("gathered") else (*FIRST, *COMBINED)
        for number, tile in enumerate(gemm_candidates(kind)):
            found.append(_variant(f"candidate/{kind}/{number}", kind, tile, given))
    return found
