"""The products of all experts in one persistent launch, with the rest of the layer in its epilogue.

A program takes every P-th tile of the list (expert, row tile, column tile). The list is never written down: each
program counts the tiles of the experts from the offsets, which stay on the device, and finds its next one by a sum
over that count. Rows and weight arrive through the tensor memory accelerator (TMA) alone, so that nothing but it writes
what the tensor cores read; rows that are not yet sorted by expert are copied into that order before
(`kernels.gpu.permute_rows`). With the two loops flattened, the first loads of a tile are in flight during the epilogue
of the last one.

The persistent schedule and the grouped order of tiles follow the persistent and grouped matmul tutorials of Triton
(triton-lang/triton, python/tutorials/08 and 09); the weighted scatter inside the second product follows ScatterMoE
(arXiv:2403.08245).
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from triton.tools.tensor_descriptor import TensorDescriptor

from zoetrope.kernels.gpu.gelu import gelu_tanh
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
    """Return expert, first row, end of the expert's rows and column tile of a tile of the list."""
    before = ends <= tile
    expert = tl.sum(before.to(tl.int32), 0)
    local = tile - tl.max(tl.where(before, ends, 0), 0)
    row_begin = tl.maximum(tl.load(offsets + expert), 0)
    row_end = tl.minimum(tl.load(offsets + expert + 1), m)
    row, column = place_tile(local, row_begin, row_end, n_tiles, BLOCK_M, GROUP_M)
    return expert, row, row_end, column


@triton.jit
def place_tile(local, row_begin, row_end, n_tiles, BLOCK_M: tl.constexpr, GROUP_M: tl.constexpr):
    """Return the first row and the column tile of an expert's tile.

    Tiles of an expert are ordered in bands of ``GROUP_M`` row tiles, down a band before across: programs that run at
    the same time share rows and columns in L2.
    """
    m_tiles = (row_end - row_begin + BLOCK_M - 1) // BLOCK_M
    band = local // (GROUP_M * n_tiles)
    height = tl.minimum(m_tiles - band * GROUP_M, GROUP_M)
    local -= band * GROUP_M * n_tiles
    return row_begin + (band * GROUP_M + local % height) * BLOCK_M, local // height


@triton.jit(do_not_specialize=["m"])  # it changes with every batch
def _grouped_gemm(
    x,  # tensor descriptor [M, K]
    weight,  # tensor descriptor [E, K, N] (or [E, N, K] when TRANSPOSED)
    y,
    offsets,  # nothing for one expert, which has all rows
    bias,
    gate,
    scatter,
    m,
    n,
    k,
    experts,
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
    if offsets is None:
        tiles = tl.cdiv(m, BLOCK_M) * n_tiles
    else:
        ends = count_tiles(offsets, m, n_tiles, experts, EXPERTS, BLOCK_M)
        tiles = tl.max(ends, 0)
    for tile in tl.range(tl.program_id(0), tiles, tl.num_programs(0), flatten=FLATTEN):
        if offsets is None:
            expert, row_end = 0, m
            row, column = place_tile(tile, 0, m, n_tiles, BLOCK_M, GROUP_M)
        else:
            expert, row, row_end, column = find_tile(tile, ends, offsets, m, n_tiles, BLOCK_M, GROUP_M)
        column *= BLOCK_N
        row_of = row + tl.arange(0, BLOCK_M)
        inside = row_of < row_end
        acc = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
        for start in range(0, k, BLOCK_K):
            a = x.load([row, start])  # past the group these are rows of the next one: computed, never stored
            if TRANSPOSED:
                b = weight.load([expert, column, start]).reshape(BLOCK_N, BLOCK_K).T
            else:
                b = weight.load([expert, start, column]).reshape(BLOCK_K, BLOCK_N)
            acc = tl.dot(a, b, acc, input_precision=PRECISION)
        column_of = column + tl.arange(0, BLOCK_N)
        if bias is not None:
            add = tl.load(bias + expert * n + column_of, mask=column_of < n, other=0.0)  # E * N fits 32 bits
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
    """Return the power of two of slots in which a program counts the tiles of all experts: 32 at least, one a lane."""
    return max(32, int(triton.next_power_of_2(experts)))


def grouped_gemm(
    x: torch.Tensor,
    weight: torch.Tensor,
    offsets: torch.Tensor,
    bias: torch.Tensor | None = None,
    *,
    gelu: bool = False,
    gate: torch.Tensor | None = None,
    scatter: torch.Tensor | None = None,
    tile: GemmTile | None = None,
) -> torch.Tensor:
    """Compute ``y[r] = epilogue(x[r] @ weight[e of r])``: one product per expert over rows sorted by expert.

    The epilogue adds the bias, applies GELU (tanh form), multiplies by the row's gate and stores, all from the float32
    accumulator; float32 inputs are multiplied in full precision. Nothing is copied to the host.

    Args:
        x: ``[M, K]``, bf16, fp16 or fp32, rows sorted by expert. The last dimension is contiguous; base and row stride
            are multiples of 16 bytes, as TMA asks.
        weight: ``[E, K, N]`` in the dtype of ``x``: contiguous, or the transposed view (``.mT``) of a contiguous
            ``[E, N, K]``; its rows in memory start at multiples of 16 bytes too.
        offsets: ``[E + 1]`` int32, expert ``e`` has the rows ``offsets[e]:offsets[e + 1]``, from 0 to ``M``.
        bias: ``[E, N]`` contiguous, the dtype of ``x`` or float32, or nothing.
        gelu: whether GELU follows.
        gate: ``[M]`` float32, a weight for each row.
        scatter: ``[M]`` int32, a permutation: row ``r`` is stored as row ``scatter[r]``.
        tile: the tile to use instead of the tuned or default one (the tuner and the tests).

    Returns:
        ``[M, N]`` in the dtype of ``x``.

    Raises:
        ValueError: an argument breaks a rule above. Values of offsets and scatter are on the device and are not looked
            at: wrong ones give a wrong result, but no access outside the tensors.
    """
    check_operands(x, weight, offsets, bias, gate=gate, scatter=scatter)
    require_device(x=x, weight=weight, offsets=offsets, bias=bias, gate=gate, scatter=scatter)
    return _launch(x, weight, offsets, bias, gelu, gate, scatter, tile)


def linear_gelu(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None, *, tile: GemmTile | None = None
) -> torch.Tensor:
    """Compute ``GELU(x @ weight.T + bias)``: one expert, which has all rows, so that no offsets need be on the device.

    Args:
        x: ``[M, K]``, as for `grouped_gemm`. weight: ``[N, K]`` contiguous, as nn.Linear stores it. bias: ``[N]``.
        tile: the tile to use instead of the tuned or default one.

    Returns:
        ``[M, N]`` in the dtype of ``x``.

    Raises:
        ValueError: a shape, dtype, device or stride that the kernel cannot take.
    """
    if weight.ndim != 2 or not weight.numel() or x.ndim != 2 or x.shape[1] != weight.shape[1]:
        raise ValueError(f"x has shape {tuple(x.shape)}, weight {tuple(weight.shape)}: they must be [M, K] and [N, K]")
    if x.dtype not in TYPES or weight.dtype != x.dtype:
        raise ValueError(f"x is {x.dtype}, weight {weight.dtype}: they must be the same, bf16, fp16 or fp32")
    if bias is not None and (
        bias.shape != weight.shape[:1] or not bias.is_contiguous() or bias.dtype not in (x.dtype, torch.float32)
    ):
        raise ValueError(
            f"bias has shape {tuple(bias.shape)} and is {bias.dtype}: "
            f"it must be [{weight.shape[0]}], contiguous, {x.dtype} or float32"
        )
    require_device(x=x, weight=weight, bias=bias)
    return _launch(x, weight.mT[None], None, bias, True, None, None, tile)


def _launch(
    x: torch.Tensor,
    weight: torch.Tensor,
    offsets: torch.Tensor | None,
    bias: torch.Tensor | None,
    gelu: bool,
    gate: torch.Tensor | None,
    scatter: torch.Tensor | None,
    tile: GemmTile | None,
) -> torch.Tensor:
    m, (experts, k, n) = x.shape[0], weight.shape
    transposed = not weight.is_contiguous()
    stored = weight.mT if transposed else weight
    require_operand_rows(x, stored)
    y = x.new_empty((m, n))
    if m == 0:
        return y
    if tile is None:
        kind = TYPES[x.dtype]
        tile = tuned(gemm_key(kind, m, experts, n, k), gemm_tile(kind, m, experts, n), x.device)
    block = (tile.block_n, tile.block_k) if transposed else (tile.block_k, tile.block_n)
    with torch.cuda.device_of(x):
        _grouped_gemm[(tile.programs * multiprocessors(x.device),)](
            row_descriptor(x, tile),
            TensorDescriptor.from_tensor(stored, [1, *block]),
            y,
            offsets,
            bias,
            gate,
            scatter,
            m,
            n,
            k,
            experts,
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
    name: str,
    dtype: str,
    tile: GemmTile,
    given: tuple[str, ...],
    *,
    transposed: bool = True,
    experts: int = 80,
    even: bool = True,
) -> Variant:
    """Return the kernel with the optional arguments in ``given`` (and ``gelu``).

    Args:
        even: whether the columns of the result are a multiple of 16, as those of ``x`` are.
    """
    types = {"offsets": "*i32", "bias": f"*{dtype}", "gate": "*fp32", "scatter": "*i32"}
    block = (tile.block_n, tile.block_k) if transposed else (tile.block_k, tile.block_n)
    constants: dict[str, Any] = {
        **{argument: None for argument in types if argument not in given},
        **({"experts": 1} if experts == 1 else {}),  # an argument of the value 1 is a constant at a launch as well
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
        "x": f"tensordesc<{dtype}[{tile.block_m},{tile.block_k}]>",
        "weight": f"tensordesc<{dtype}[1,{block[0]},{block[1]}]>",
        "y": f"*{dtype}",
        **types,
        **dict.fromkeys(("m", "n", "k", "experts"), "i32"),
    }
    signature.update(dict.fromkeys(constants, "constexpr"))
    divisible = frozenset(argument for argument, kind in signature.items() if kind.startswith("*")) | {"k"}
    divisible |= {"n"} if even else set()
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


FIRST = ("offsets", "bias", "gelu")  # the first product of an expert
SECOND = ("offsets",)  # the second one, whose rows another pass combines
COMBINED = ("offsets", "gate", "scatter")  # the second one, weighted and put in place by its epilogue
DENSE = ("bias", "gelu")  # a layer without experts


def variants() -> list[Variant]:
    """List both products of 80 experts at 32k tokens, of few tokens, of one dense layer, in both layouts of the
    weight; and one with columns that are no multiple of 16."""
    found = []
    for dtype in ("bf16", "fp16"):
        large = gemm_tile(dtype, 32768 * 8, 80, 1792)
        for layout in ("kn", "nk"):
            for name, given in (("first", FIRST), ("second", SECOND), ("combined", COMBINED)):
                found.append(_variant(f"{dtype}/{name}/{layout}", dtype, large, given, transposed=layout == "nk"))
        small = gemm_tile(dtype, 80 * 32, 80, 1792)
        found.append(_variant(f"{dtype}/small", dtype, small, FIRST))
        found.append(_variant(f"{dtype}/few-experts", dtype, large, FIRST, transposed=False, experts=10))
        uneven = gemm_tile(dtype, 32768 * 8, 80, 1784)
        found.append(_variant(f"{dtype}/uneven", dtype, uneven, (*FIRST, *COMBINED[1:]), even=False))
        dense = gemm_tile(dtype, 32768, 1, 13824)
        found.append(_variant(f"{dtype}/dense", dtype, dense, DENSE, experts=1))
    single = gemm_tile("fp32", 32768 * 8, 80, 1792)
    found.append(_variant("fp32/first", "fp32", single, FIRST))
    found.append(_variant("fp32/dense", "fp32", single, DENSE, experts=1))
    return found


def candidates() -> list[Variant]:
    """List what the tuner tries, in bf16 and with a full epilogue: for a longer check than every build's."""
    tiles = enumerate(gemm_candidates("bf16"))
    return [_variant(f"candidate/bf16/{number}", "bf16", tile, (*FIRST, *COMBINED[1:])) for number, tile in tiles]
