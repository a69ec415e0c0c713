"""Gated residual, LayerNorm and modulation, by kernel and by reference, against the formula in float64."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.draws import draws
from tests.kernels.numbers import DEVICE, DTYPES, LIMITS, randn, relative_error
from zoetrope.kernels.gpu import residual_norm as gpu
from zoetrope.kernels.gpu.tiles import RowTile
from zoetrope.kernels.reference import residual_norm as reference
from zoetrope.kernels.reference.quantise_fp8 import quantise_rows

few = settings(deadline=None, max_examples=draws(8))
seeds = st.integers(0, 2**31)
both = pytest.mark.parametrize("ops", [gpu, reference], ids=["kernel", "reference"])
EPS = 1e-6


def expected(
    residual: torch.Tensor,
    update: torch.Tensor | None,
    gate: torch.Tensor | None,
    row: torch.Tensor,
    shift: torch.Tensor | None = None,
    scale: torch.Tensor | None = None,
    weight: torch.Tensor | None = None,
    bias: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Row by row."""
    totals, normed = [], []
    for n in range(residual.shape[0]):
        total = residual[n].double()
        if update is not None:
            total = total + update[n].double() * (1 if gate is None else gate[int(row[n])].double())
        totals.append(total)
        # The norm is that of the sum as it is stored.
        stored = total.to(residual.dtype).double()
        value = (stored - stored.mean()) / (stored.var(unbiased=False) + EPS).sqrt()
        if scale is not None and shift is not None:
            value = value * (1 + scale[int(row[n])].double()) + shift[int(row[n])].double()
        if weight is not None:
            value = value * weight.double()
        if bias is not None:
            value = value + bias.double()
        normed.append(value)
    return torch.stack(totals), torch.stack(normed)


@both
@pytest.mark.parametrize("dtype", DTYPES)
@given(
    st.integers(1, 20),
    st.sampled_from([8, 40, 128, 192, 1544, 1536]),
    st.integers(1, 3),
    st.sampled_from(["none", "update", "gate"]),
    st.sampled_from(["plain", "adaptive", "affine", "weight"]),
    st.sampled_from([torch.int32, torch.int64]),
    seeds,
)
@few
def test_sum_and_norm(
    ops: ModuleType,
    dtype: torch.dtype,
    tokens: int,
    width: int,
    levels: int,
    change: str,
    norm: str,
    row_dtype: torch.dtype,
    seed: int,
) -> None:
    residual = randn(tokens, width, seed=seed, dtype=dtype) + 0.5
    update = None if change == "none" else randn(tokens, width, seed=seed + 1, dtype=dtype)
    # Tables as the model has them: slices of [R, 6, D].
    tables = randn(levels, 6, width, seed=seed + 2)
    gate = tables[:, 2] if change == "gate" else None
    row = torch.randint(0, levels, (tokens,), generator=torch.Generator().manual_seed(seed)).to(DEVICE, row_dtype)
    extra: dict[str, torch.Tensor] = {}
    if norm == "adaptive":
        extra = {"shift": tables[:, 0], "scale": tables[:, 1]}
    elif norm != "plain":
        extra = {"weight": randn(width, seed=seed + 3, dtype=dtype)}
        if norm == "affine":
            extra["bias"] = randn(width, seed=seed + 4)
    total, normed = ops.residual_norm(residual, update, gate, row, eps=EPS, **extra)
    wanted_total, wanted = expected(residual, update, gate, row, **extra)
    assert total.dtype == normed.dtype == dtype
    assert total is residual if update is None else relative_error(total, wanted_total) < LIMITS[dtype]
    assert relative_error(normed, wanted) < LIMITS[dtype]
    if update is not None:
        assert torch.equal(ops.residual_gate(residual, update, gate, row), total)


@both
@pytest.mark.parametrize("width", [3072, 5120, 8192])
def test_production_widths(ops: ModuleType, width: int) -> None:
    residual, update = randn(3, width, seed=1), randn(3, width, seed=2)
    tables, row = randn(2, 3, width, seed=3), torch.tensor([1, 0, 1], device=DEVICE)
    shift, scale, gate = tables.unbind(1)
    total, normed = ops.residual_norm(residual, update, gate, row, shift=shift, scale=scale, eps=EPS)
    wanted_total, wanted = expected(residual, update, gate, row, shift, scale)
    assert relative_error(total, wanted_total) < 1e-5
    assert relative_error(normed, wanted) < 1e-5


@both
@pytest.mark.parametrize("width", [512, 24, 168])  # 168 is 128 and a part of 64
def test_rows_far_from_zero_keep_their_variance(ops: ModuleType, width: int) -> None:
    residual = randn(4, width, seed=4) + 100.0
    _, normed = ops.residual_norm(residual, None, None, None, eps=EPS)
    assert relative_error(normed, expected(residual, None, None, torch.zeros(4))[1]) < 1e-5


@both
def test_constant_rows_give_the_shift(ops: ModuleType) -> None:
    residual = torch.full((2, 24), 3.0, device=DEVICE)
    shift, scale = randn(2, 1, 24, seed=5)
    row = torch.zeros(2, dtype=torch.int64, device=DEVICE)
    _, normed = ops.residual_norm(residual, None, None, row, shift=shift, scale=scale, eps=EPS)
    assert torch.equal(normed, shift.expand(2, 24))


@both
def test_no_tokens(ops: ModuleType) -> None:
    x, table = torch.zeros(0, 16, device=DEVICE), torch.zeros(2, 16, device=DEVICE)
    row = torch.zeros(0, dtype=torch.int32, device=DEVICE)
    total, normed = ops.residual_norm(x, x, table, row, shift=table, scale=table, eps=EPS)
    assert total.shape == normed.shape == ops.residual_gate(x, x, table, row).shape == (0, 16)


@both
def test_rows_further_apart_and_an_update_of_another_dtype(ops: ModuleType) -> None:
    residual, update = randn(5, 64, seed=6, dtype=torch.float16)[:, 8:48], randn(5, 48, seed=7)[:, 4:44]
    total, normed = ops.residual_norm(residual, update, None, None, eps=EPS)
    wanted_total, wanted = expected(residual, update, None, torch.zeros(5))
    assert total.is_contiguous() and total.dtype == torch.float16
    assert relative_error(total, wanted_total) < 2e-3
    assert relative_error(normed, wanted) < 2e-3


def test_a_level_that_no_table_has_gives_nan_and_reads_nothing() -> None:
    residual, update, tables = randn(5, 40, seed=8), randn(5, 40, seed=9), randn(3, 2, 40, seed=10)
    row = torch.tensor([0, -1, 1, 2, 2**31 - 1], device=DEVICE)
    for tile in (None, RowTile(1, 1)):
        total, normed = gpu.residual_norm(
            residual, update, tables[0], row, shift=tables[1], scale=tables[2], eps=EPS, tile=tile
        )
        gated = gpu.residual_gate(residual, update, tables[0], row, tile=tile)
        for result in (total, normed, gated):
            assert result.isnan().all(1).tolist() == [False, True, False, True, True]
            assert bool(result[[0, 2]].isfinite().all())


def test_any_tiling_gives_the_same_sum_and_norm() -> None:
    residual, update = randn(9, 192, seed=11), randn(9, 192, seed=12)
    tiles = (None, RowTile(1, 1), RowTile(4, 2))
    results = [gpu.residual_norm(residual, update, None, None, eps=EPS, tile=tile) for tile in tiles]
    for total, normed in results:
        assert torch.equal(total, results[0][0])
        assert torch.allclose(normed, results[0][1], atol=1e-6)


@both
def test_fp8_rows(ops: ModuleType) -> None:
    residual, update, tables = randn(6, 3072, seed=13), randn(6, 3072, seed=14), randn(3, 2, 3072, seed=15)
    residual[1], update[1], tables[1, 0] = 0, 0, 0
    row = torch.tensor([1, 0, 1, 1, 0, 1], device=DEVICE)
    total, normed, value, scale = ops.residual_norm(
        residual, update, tables[0], row, shift=tables[1], scale=tables[2], eps=EPS, quantise=True
    )
    wanted_total, wanted = expected(residual, update, tables[0], row, tables[1], tables[2])
    assert relative_error(total, wanted_total) < 1e-5 and relative_error(normed, wanted) < 1e-5
    assert value.dtype == torch.float8_e4m3fn and scale.dtype == torch.float32
    largest = wanted.abs().amax(1)
    assert float(scale[1]) == 1 and not bool(value[1].float().any())
    others = [0, 2, 3, 4, 5]
    assert torch.allclose(scale[others].double(), largest[others] / 448, rtol=1e-5)
    assert value[others].float().abs().amax(1).tolist() == [448.0] * 5
    # Three bits of mantissa: half a step is 1/16 of a number, and 2**-10 of the smallest.
    error = (value.double() * scale.double()[:, None] - wanted).abs()
    assert bool((error <= wanted.abs() / 16 + scale.double()[:, None] * 2**-9).all())


@both
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("width", [40, 192])
def test_8_bit_rows_are_those_of_the_float32_norm(ops: ModuleType, dtype: torch.dtype, width: int) -> None:
    """The other results are the same with and without them; and the 8 bits are of what is not yet rounded."""
    residual, update, gate = (randn(7, width, seed=seed, dtype=dtype) for seed in (21, 22, 23))
    weight, bias = randn(2, width, seed=24)
    row = torch.arange(7, device=DEVICE)
    given: dict[str, Any] = {"weight": weight, "bias": bias, "eps": EPS}
    plain = ops.residual_norm(residual, update, gate.float(), row, **given)
    total, normed, value, scale = ops.residual_norm(residual, update, gate.float(), row, quantise=True, **given)
    assert torch.equal(total, plain[0]) and torch.equal(normed, plain[1])
    wide = reference.residual_norm(total.float(), None, None, None, **given)[1]
    wanted, wanted_scale = quantise_rows(wide)
    assert torch.allclose(scale, wanted_scale, rtol=1e-5)
    near = value.float() - wanted.float()
    # A value next to a tie may go the other way: by one step, an eighth of its power of two.
    assert bool((near.abs() <= wanted.float().abs() / 8 + 2**-9).all()) and float((near != 0).float().mean()) < 0.01


def test_the_reference_is_differentiable() -> None:
    residual, update = randn(4, 16, seed=16), randn(4, 16, seed=17)
    gate, shift, scale = randn(3, 2, 16, seed=18)
    row = torch.tensor([0, 1, 1, 0], device=DEVICE)
    grads = []
    for dtype in (torch.float32, torch.float64):
        leaves = [t.detach().to(dtype).requires_grad_() for t in (residual, update, gate, shift, scale)]
        r, u, g, sh, sc = leaves
        if dtype == torch.float32:
            total, normed = reference.residual_norm(r, u, g, row, shift=sh, scale=sc, eps=EPS)
        else:
            total = r + u * g[row]
            normed = torch.nn.functional.layer_norm(total, (16,), eps=EPS) * (1 + sc[row]) + sh[row]
        (total.square().sum() + (normed**3).sum()).backward()
        grads.append([leaf.grad for leaf in leaves])
    for got, wanted in zip(*grads, strict=True):
        assert got is not None and wanted is not None
        assert relative_error(got, wanted) < 1e-5


def test_bad_input() -> None:
    x, table = torch.zeros(4, 16, device=DEVICE), torch.zeros(2, 16, device=DEVICE)
    row, vector = torch.zeros(4, dtype=torch.int64, device=DEVICE), torch.zeros(16, device=DEVICE)
    wide = torch.zeros(1, 8200, device=DEVICE)

    def norm(
        residual: torch.Tensor = x,
        update: torch.Tensor | None = x,
        gate: torch.Tensor | None = table,
        rows: torch.Tensor | None = row,
        shift: torch.Tensor | None = None,
        scale: torch.Tensor | None = None,
        weight: torch.Tensor | None = None,
        bias: torch.Tensor | None = None,
    ) -> Callable[[], object]:
        return lambda: gpu.residual_norm(
            residual, update, gate, rows, shift=shift, scale=scale, weight=weight, bias=bias, eps=EPS
        )

    bad: list[tuple[str, Callable[[], object]]] = [
        (r"residual is \(4, 12\)", norm(x[:, :12])),
        ("residual has rows of 8200", norm(wide, wide, None)),
        ("residual is torch.float64", norm(x.double())),
        (r"update is \(3, 16\)", norm(update=x[:3])),
        ("update is torch.int32", norm(update=x.int())),
        ("gate is given without update", norm(update=None)),
        (r"gate is \(2, 16\) torch.float16", norm(gate=table.half())),
        (r"gate is \(16,\)", norm(gate=vector)),
        (r"shift is \(3, 16\)", norm(shift=torch.zeros(3, 16, device=DEVICE), scale=table)),
        ("row is None: it must be given with gate", norm(rows=None)),
        (r"row is \(3,\)", norm(rows=row[:3])),
        (r"row is \(4,\) torch.int16", norm(rows=row.short())),
        ("shift and scale must be given together", norm(shift=table)),
        ("weight and bias exclude", norm(shift=table, scale=table, weight=vector)),
        (r"weight is \(8,\)", norm(weight=vector[:8])),
        ("bias is torch.int64", norm(bias=vector.long())),
        ("residual has strides", norm(torch.zeros(16, 4, device=DEVICE).T)),
        ("update has stride 17", norm(update=torch.zeros(4, 17, device=DEVICE)[:, :16])),
        ("scale is on meta", norm(shift=table, scale=table.to("meta"))),
        (r"update is \(3, 16\)", lambda: gpu.residual_gate(x, x[:3], None, None)),
    ]
    for message, call in bad:
        with pytest.raises(ValueError, match=message):
            call()
