"""RMSNorm, rotation and int8 of queries and keys, by kernel and by reference, against the formula in float64."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.draws import draws
from tests.kernels.numbers import DEVICE, DTYPES, LIMITS, randn, relative_error
from zoetrope.kernels.gpu import qk_norm_rope as gpu
from zoetrope.kernels.gpu.tiles import RowTile
from zoetrope.kernels.reference import qk_norm_rope as reference

few = settings(deadline=None, max_examples=draws(8))
seeds = st.integers(0, 2**31)
both = pytest.mark.parametrize("ops", [gpu, reference], ids=["kernel", "reference"])
EPS = 1e-6


def expected(
    x: torch.Tensor, weight: torch.Tensor, cos: torch.Tensor | None, sin: torch.Tensor | None, heads: int
) -> torch.Tensor:
    y = x.double() / (x.double().square().mean(1, keepdim=True) + EPS).sqrt() * weight.double()
    y = y.view(x.shape[0], heads, -1)
    out = y.clone()
    if cos is not None and sin is not None:
        for pair in range(y.shape[2] // 2):  # each pair is a complex number, turned by its angle
            c, s = cos[:, None, pair].double(), sin[:, None, pair].double()
            even, odd = y[..., 2 * pair], y[..., 2 * pair + 1]
            out[..., 2 * pair], out[..., 2 * pair + 1] = even * c - odd * s, even * s + odd * c
    return out


@both
@pytest.mark.parametrize("dtype", DTYPES)
@given(
    st.integers(1, 12),
    st.sampled_from([(1, 8), (3, 32), (5, 64), (6, 128), (2, 24), (7, 40)]),
    st.booleans(),
    st.booleans(),
    seeds,
)
@few
def test_norm_and_rotation(
    ops: ModuleType, dtype: torch.dtype, tokens: int, shape: tuple[int, int], rotated: bool, sliced: bool, seed: int
) -> None:
    heads, dim = shape
    width = heads * dim
    x = randn(tokens, 3 * width if sliced else width, seed=seed, dtype=dtype)
    x = x[:, width : 2 * width] if sliced else x  # the keys of a fused QKV
    weight, angle = randn(width, seed=seed + 1, dtype=dtype), randn(tokens, dim // 2, seed=seed + 2)
    cos, sin = (angle.cos(), angle.sin()) if rotated else (None, None)
    y = ops.qk_norm_rope(x, weight, cos, sin, heads, EPS)
    assert y.dtype == dtype and y.is_contiguous()
    assert relative_error(y, expected(x, weight, cos, sin, heads)) < LIMITS[dtype]


@both
@pytest.mark.parametrize("heads", [24, 40])
def test_production_shapes(ops: ModuleType, heads: int) -> None:
    x, weight, angle = randn(2, heads * 128, seed=1), randn(heads * 128, seed=2), randn(2, 64, seed=3)
    y = ops.qk_norm_rope(x, weight, angle.cos(), angle.sin(), heads, EPS)
    assert relative_error(y, expected(x, weight, angle.cos(), angle.sin(), heads)) < 1e-5


@both
@pytest.mark.parametrize("dtype", DTYPES)
@given(
    st.integers(1, 12),
    st.sampled_from([(1, 8), (3, 32), (6, 64), (2, 128), (2, 24)]),
    st.booleans(),
    st.booleans(),
    seeds,
)
@few
def test_int8(
    ops: ModuleType, dtype: torch.dtype, tokens: int, shape: tuple[int, int], rotated: bool, smoothed: bool, seed: int
) -> None:
    heads, dim = shape
    x, weight = randn(tokens, heads * dim, seed=seed, dtype=dtype), randn(heads * dim, seed=seed + 1, dtype=dtype)
    angle = randn(tokens, dim // 2, seed=seed + 2)
    cos, sin = (angle.cos(), angle.sin()) if rotated else (None, None)
    smooth = randn(heads, dim, seed=seed + 3, scale=2.0) if smoothed else None
    value, scale = ops.qk_norm_rope(x, weight, cos, sin, heads, EPS, int8=True, smooth=smooth)
    wanted = expected(x, weight, cos, sin, heads) - (0 if smooth is None else smooth.double())
    assert value.dtype == torch.int8 and value.shape == (tokens, heads, dim) and value.is_contiguous()
    assert scale.dtype == torch.float32 and scale.shape == (tokens, heads)
    # The reference rounds to the dtype before it rotates.
    rounding = wanted.abs().amax() * (LIMITS[dtype] if ops is reference else 1e-5)
    assert bool((scale.double() - wanted.abs().amax(2) / 127).abs().amax() <= rounding / 127)
    assert value.abs().amax(2).tolist() == [[127] * heads] * tokens
    error = (value.double() * scale.double()[..., None] - wanted).abs()
    assert bool((error <= 0.5 * scale.double()[..., None] + 2 * rounding).all())


@both
def test_zeros_have_a_scale_of_one_and_nan_shows_in_the_scale(ops: ModuleType) -> None:
    x = randn(3, 32, seed=4)
    x[0], x[1, 5] = 0, torch.nan
    weight = torch.ones(32, device=DEVICE)
    value, scale = ops.qk_norm_rope(x, weight, None, None, 2, EPS, int8=True)
    assert scale[0].tolist() == [1.0, 1.0] and not bool(value[0].any())
    assert bool(scale[1].isnan().all()) and bool(scale[2].isfinite().all())


@both
def test_no_tokens(ops: ModuleType) -> None:
    x, weight = torch.zeros(0, 64, device=DEVICE), torch.ones(64, device=DEVICE)
    table = torch.zeros(0, 16, device=DEVICE)
    assert ops.qk_norm_rope(x, weight, table, table, 2, EPS).shape == (0, 2, 32)
    value, scale = ops.qk_norm_rope(x, weight, table, table, 2, EPS, int8=True)
    assert value.shape == (0, 2, 32) and scale.shape == (0, 2)


def test_any_tiling_gives_the_same_result() -> None:
    x, weight, angle = randn(9, 192, seed=5), randn(192, seed=6), randn(9, 16, seed=7)
    results = [
        gpu.qk_norm_rope(x, weight, angle.cos(), angle.sin(), 6, EPS, tile=tile)
        for tile in (None, RowTile(1, 1), RowTile(4, 2))
    ]
    for result in results:
        assert isinstance(result, torch.Tensor) and isinstance(results[0], torch.Tensor)
        assert torch.allclose(result, results[0], atol=1e-6)


def test_the_reference_is_differentiable() -> None:
    angle = randn(3, 4, seed=8)
    got = [randn(3, 16, seed=9).requires_grad_(), randn(16, seed=10).requires_grad_()]
    y = reference.qk_norm_rope(got[0], got[1], angle.cos(), angle.sin(), 2, EPS)
    assert isinstance(y, torch.Tensor)
    (y**3).sum().backward()
    wanted = [leaf.detach().double().requires_grad_() for leaf in got]
    z = wanted[0] / (wanted[0].square().mean(1, keepdim=True) + EPS).sqrt() * wanted[1]
    turned = torch.view_as_complex(z.view(3, 2, 4, 2)) * torch.polar(torch.ones_like(angle), angle)[:, None]
    (torch.view_as_real(turned) ** 3).sum().backward()
    for a, b in zip(got, wanted, strict=True):
        assert a.grad is not None and b.grad is not None
        assert relative_error(a.grad, b.grad) < 1e-5


def test_bad_input() -> None:
    x, weight = torch.zeros(4, 64, device=DEVICE), torch.ones(64, device=DEVICE)
    table = torch.zeros(4, 16, device=DEVICE)
    smooth = torch.zeros(2, 32, device=DEVICE)

    def call(
        x: torch.Tensor = x,
        weight: torch.Tensor = weight,
        cos: torch.Tensor | None = table,
        sin: torch.Tensor | None = table,
        heads: int = 2,
        int8: bool = False,
        smooth: torch.Tensor | None = None,
    ) -> Callable[[], object]:
        return lambda: gpu.qk_norm_rope(x, weight, cos, sin, heads, EPS, int8=int8, smooth=smooth)

    wide = torch.zeros(1, 8448, device=DEVICE)
    bad: list[tuple[str, Callable[[], object]]] = [
        (r"x is \(4, 64\): .* 3 heads", call(heads=3)),
        ("0 heads", call(heads=0)),
        ("d a multiple of 8", call(heads=16)),
        (r"x is \(64,\)", call(x[0])),
        ("x has 66 heads of 128", call(wide, wide[0], None, None, 66)),
        ("x is torch.float64", call(x.double())),
        (r"weight is \(32,\)", call(weight=weight[:32])),
        ("weight is torch.int64", call(weight=weight.long())),
        ("cos and sin must be given together", call(sin=None)),
        (r"cos is \(3, 16\)", call(cos=table[:3])),
        ("sin is .* torch.float16", call(sin=table.half())),
        ("smooth is given with int8=False", call(smooth=smooth)),
        (r"smooth is \(2, 16\)", call(int8=True, smooth=smooth[:, :16])),
        ("smooth has strides", call(int8=True, smooth=torch.zeros(32, 2, device=DEVICE).T)),
        ("x has strides", call(torch.zeros(64, 4, device=DEVICE).T)),
        ("x has stride 65", call(torch.zeros(4, 65, device=DEVICE)[:, :64])),
        ("cos is on meta", call(cos=table.to("meta"))),
    ]
    for message, bad_call in bad:
        with pytest.raises(ValueError, match=message):
            bad_call()
    with pytest.raises(ValueError, match="smooth is given with int8=False"):
        reference.qk_norm_rope(x, weight, None, None, 2, EPS, smooth=smooth)
