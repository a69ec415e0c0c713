"""Cases of grouped matrix products and of the pass that quantises their inputs."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F

from zoetrope.benchmarks.kernels.cases import FP8_LIMIT, LIMITS, QUANTISED_LIMIT, KernelCase, KernelInputs, case
from zoetrope.kernels.gpu.tiles import GemmTile, device_table, tuned_tiles
from zoetrope.kernels.select.proofs import DTYPES

E4M3_MAX = 448.0
TUNED = re.compile(r"grouped_gemm/(\w+)(?:/(rows|blocks))?/n(\d+)k(\d+)/m(\d+)")  # a name in a table of tiles
TUNED_ROWS = 400  # of a group at most: what a tile computes, it computes in the first few


def gemm_cases(inputs: KernelInputs) -> Iterator[KernelCase]:
    """Yield random ragged shapes and epilogues, the models' shapes with few rows, and NaN in neighbouring groups."""
    shapes = [(80, 3072, 1792, 3000), (80, 1792, 3072, 3000), (1, 5120, 13824, 300), (1, 13824, 5120, 300)]
    for dtype in inputs.dtypes:
        for _ in range(2 if inputs.tiny else 8):
            yield _random(inputs, dtype)
        for experts, k, n, rows in [] if inputs.tiny else shapes:
            yield _case(inputs, dtype, inputs.ragged(experts, rows), k, n, {"bias", "gelu"})
        yield _case(inputs, dtype, [0, 1, 0], 64, 48, {"bias"})
        yield _case(inputs, dtype, [0, 0], 64, 48, set())
        yield _case(inputs, dtype, [40, 0, 33], 64, 48, {"bias", "nan"})


def tile_cases(inputs: KernelInputs) -> Iterator[KernelCase]:
    """Yield the products of every tuned tile of this device: random shapes hardly ever reach those."""
    if not inputs.kernels:
        return
    for key, values in tuned_tiles(device_table(inputs.device)).items():
        found = TUNED.fullmatch(key)
        if found is None:
            continue
        kind, scales, *sizes = found.groups()
        n, k, rows = map(int, sizes)
        lengths, tile = inputs.ragged(3, 3 * min(rows, TUNED_ROWS)), GemmTile(**values)
        if scales is not None:
            reference = __import__("zoetrope.kernels.reference.quantise_fp8", fromlist=["quantise_rows"])
            yield _fp8(inputs, reference, 128 if scales == "blocks" else None, lengths, k, n, tile)
        else:
            dtype = next(dtype for dtype, name in DTYPES.items() if name == kind)
            yield _case(inputs, dtype, lengths, k, n, {"bias", "gelu"}, tile)


def _random(inputs: KernelInputs, dtype: torch.dtype) -> KernelCase:
    pick = inputs.random
    experts = pick.choice([1, 2, 5] if inputs.tiny else [1, 2, 7, 33, 64])
    rows = pick.randrange(1, 150 if inputs.tiny else 3000)
    k, n = (8 * pick.randrange(1, 12 if inputs.tiny else 100) for _ in range(2))
    choices = [name for name in ("bias", "gelu", "gate", "scatter", "stored") if pick.random() < 0.5]
    return _case(inputs, dtype, inputs.ragged(experts, rows), k, n, set(choices))


def _case(
    inputs: KernelInputs,
    dtype: torch.dtype,
    lengths: list[int],
    k: int,
    n: int,
    given: set[str],
    tile: GemmTile | None = None,
) -> KernelCase:
    """Make one case. ``given``: bias, gelu, gate, scatter, stored (nn.Linear's layout), nan; ``tile``:
    not the one that the kernel would take."""
    rows, experts = sum(lengths), len(lengths)
    offsets = inputs.offsets(lengths)
    x = inputs.randn(rows, k, dtype=dtype)
    if "stored" in given:
        weight = inputs.randn(experts, n, k, dtype=dtype, scale=k**-0.5).mT
    else:
        weight = inputs.randn(experts, k, n, dtype=dtype, scale=k**-0.5)
    keep = None
    if "nan" in given:  # in the last group's rows and in the weights of the empty group
        x[rows - lengths[-1] :] = float("nan")
        weight[lengths.index(0)] = float("nan")
        keep = torch.arange(rows - lengths[-1], device=x.device)
    options: dict[str, Any] = {"gelu": "gelu" in given}
    bias = inputs.randn(experts, n, dtype=dtype) if "bias" in given else None
    if "gate" in given:
        options["gate"] = inputs.randn(rows)
    if "scatter" in given:
        options["scatter"] = inputs.permutation(rows)
    if tile is not None:
        options["tile"] = tile

    def expected() -> list[torch.Tensor]:
        return [_exact(x, weight, lengths, bias, options)]

    function = inputs.function("grouped_gemm", "triton", "grouped_gemm")
    name = f"{experts} experts, {rows} rows, {k} to {n}, {' '.join(sorted(given)) or 'plain'}{_tuned(tile)}"
    return case(
        "grouped_gemm",
        "triton",
        dtype,
        name,
        lambda: function(x, weight, offsets, bias, **options),
        expected,
        keep=keep,
    )


def _tuned(tile: GemmTile | None) -> str:
    return "" if tile is None else f", tile {tile.block_m} x {tile.block_n} x {tile.block_k}"


def _exact(
    x: torch.Tensor, weight: torch.Tensor, lengths: list[int], bias: torch.Tensor | None, options: dict[str, Any]
) -> torch.Tensor:
    parts = []
    for e, rows in enumerate(x.split(lengths)):
        part = rows.double() @ weight[e].double()
        parts.append(part if bias is None else part + bias[e].double())
    y = torch.cat(parts)
    if options.get("gelu"):
        y = F.gelu(y, approximate="tanh")
    if options.get("gate") is not None:
        y = y * options["gate"].double()[:, None]
    if options.get("scatter") is not None:
        y = torch.empty_like(y).index_copy_(0, options["scatter"].long(), y)
    return y


def fp8_cases(inputs: KernelInputs) -> Iterator[KernelCase]:
    """Yield 8-bit products with row and block scales, and the quantisation of rows."""
    reference = __import__("zoetrope.kernels.reference.quantise_fp8", fromlist=["quantise_rows"])
    shapes = [(3, 40, 128, 128)] if inputs.tiny else [(5, 700, 512, 384), (80, 3000, 3072, 1792), (1, 300, 5120, 13824)]
    for block in (None, 128):
        for experts, rows, k, n in shapes:
            if inputs.device.type == "cuda" or not inputs.kernels:  # the interpreter cannot cast to fp8
                yield _fp8(inputs, reference, block, inputs.ragged(experts, rows), k, n)
            for dtype in inputs.dtypes:
                if inputs.device.type == "cuda" or not inputs.kernels:
                    yield _quantise(inputs, dtype, block, rows, k)


def _fp8(
    inputs: KernelInputs,
    reference: Any,
    block: int | None,
    lengths: list[int],
    k: int,
    n: int,
    tile: GemmTile | None = None,
) -> KernelCase:
    x, x_scale = reference.quantise_rows(inputs.randn(sum(lengths), k), block)
    weight, weight_scale = reference.quantise_weight(inputs.randn(len(lengths), k, n, scale=k**-0.5), block)
    offsets = inputs.offsets(lengths)
    bias = inputs.randn(len(lengths), n)
    function = inputs.function("grouped_gemm_fp8", "triton", "grouped_gemm_fp8")

    def expected() -> list[torch.Tensor]:
        size = block or k
        wide = x_scale.double().reshape(len(x), -1).repeat_interleave(size, 1)
        scale = weight_scale.double()
        scale = scale[..., None] if block is None else scale.repeat_interleave(block, 1).repeat_interleave(block, 2)
        return [_exact(x.double() * wide, (weight.double() * scale).mT, lengths, bias, {})]

    name = f"{'row' if block is None else 'block'} scales, {len(lengths)} experts, {sum(lengths)} rows, {k} to {n}"
    options = {} if tile is None else {"tile": tile}
    return case(
        "grouped_gemm_fp8",
        "triton",
        "fp8",
        f"{name}{_tuned(tile)}",
        lambda: function(x, x_scale, weight, weight_scale, offsets, bias, out_dtype=torch.bfloat16, **options),
        expected,
        limit=max(FP8_LIMIT, LIMITS[torch.bfloat16]),
    )


def _quantise(inputs: KernelInputs, dtype: torch.dtype, block: int | None, rows: int, k: int) -> KernelCase:
    x = inputs.randn(rows, k, dtype=dtype)
    x[rows // 2] = 0.0
    function = inputs.function("quantise_fp8", "triton", "quantise_rows")

    def run() -> tuple[torch.Tensor, ...]:
        values, scale = function(x, block)
        parts = values.double().unflatten(1, (-1, block or k)) * scale.double().reshape(rows, -1, 1)
        return values, parts.flatten(1), scale

    def expected() -> list[torch.Tensor]:
        largest = x.double().unflatten(1, (-1, block or k)).abs().amax(-1)
        scale = torch.where(largest == 0, 1.0, largest / E4M3_MAX)
        return [x.double(), scale if block is not None else scale[:, 0]]

    name = f"{'row' if block is None else 'block'} scales, {rows} rows of {k}"
    return case("quantise_fp8", "triton", dtype, name, run, expected, limit=QUANTISED_LIMIT, skip=1)
