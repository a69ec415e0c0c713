"""Rows copied into the order of their experts, by kernel and by reference: every bit where it belongs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.draws import draws
from tests.kernels.numbers import DEVICE, randn
from zoetrope.kernels import Permutation, permute_rows
from zoetrope.kernels.gpu.permute_rows import permute_rows as kernel
from zoetrope.kernels.gpu.tiles import RowTile
from zoetrope.kernels.reference.permute_rows import permute_rows as plain
from zoetrope.kernels.reference.routing import permute_by_expert
from zoetrope.kernels.select.backends import use

EIGHT = torch.float8_e4m3fn
both = pytest.mark.parametrize("permute", [kernel, plain], ids=["kernel", "reference"])


def ragged_rows(tokens: int, k: int, seed: int) -> Permutation:
    """Tokens with 0 to ``k`` rows each, as a rank gets them."""
    random = torch.Generator().manual_seed(seed)
    known = torch.rand(tokens, k, generator=random) < 0.6
    known = known.sort(1, descending=True).values  # -1 stands behind the others
    total = int(known.sum())
    position = torch.full((tokens, k), -1, dtype=torch.int32)
    position[known] = torch.randperm(total, generator=random).int()
    token = torch.zeros(total, dtype=torch.int32)
    token[position[known].long()] = torch.arange(tokens, dtype=torch.int32)[:, None].expand_as(known)[known]
    nothing = torch.zeros(0, dtype=torch.int32)
    fields = (token, torch.ones(total), nothing, nothing, position)
    return Permutation(*(field.to(DEVICE) for field in fields))


def same_bits(a: torch.Tensor, b: torch.Tensor) -> bool:
    return a.dtype == b.dtype and torch.equal(a.contiguous().view(torch.uint8), b.contiguous().view(torch.uint8))


@settings(max_examples=draws(12), deadline=None)
@given(
    tokens=st.integers(0, 40),
    k=st.integers(1, 9),
    width=st.sampled_from([16, 48, 768, 1040]),
    dtype=st.sampled_from([torch.float32, torch.float16, torch.bfloat16, EIGHT]),
    scaled=st.booleans(),
    rows=st.sampled_from([1, 4]),
    seed=st.integers(0, 2**31),
)
def test_every_bit_where_it_belongs(
    tokens: int, k: int, width: int, dtype: torch.dtype, scaled: bool, rows: int, seed: int
) -> None:
    given = ragged_rows(tokens, k, seed)
    wide = randn(tokens, width + 16, seed=seed).to(dtype)
    x = wide[:, :width]  # rows further apart than they are long
    scale = randn(tokens, seed=seed + 1) if scaled else None
    expected = [[x[int(token)], None if scale is None else scale[int(token)]] for token in given.token]
    for result in (kernel(x, given, scale, tile=RowTile(rows, 4)), plain(x, given, scale), kernel(x, given, scale)):
        made, factors = result if isinstance(result, tuple) else (result, None)
        assert made.shape == (len(expected), width) and (factors is None) == (scale is None)
        for row, (value, factor) in enumerate(expected):
            assert value is not None and same_bits(made[row], value)
            assert factors is None or factors[row] == factor


@both
def test_rows_of_a_router(permute: Callable[..., torch.Tensor]) -> None:
    choices = randn(9, 6, seed=1).argsort(dim=1)[:, :3]
    rows = permute_by_expert(choices, randn(9, 3, seed=2), 6)
    x = randn(9, 32, seed=3)
    assert torch.equal(permute(x, rows), x[rows.token.long()])


def test_nothing_to_copy() -> None:
    rows = ragged_rows(5, 2, seed=1)
    none = replace(rows, token=rows.token[:0], position=torch.full_like(rows.position, -1))
    for permute in (kernel, plain):
        made = permute(randn(5, 16, seed=1), none)
        assert isinstance(made, torch.Tensor) and made.shape == (0, 16)


def test_wild_positions_stay_inside() -> None:
    """Numbers outside the sorted rows are not followed; the row that nobody writes keeps what it had."""
    position = torch.tensor([[0, 7], [-9, 1], [2**31 - 1, -(2**31)]], dtype=torch.int32, device=DEVICE)
    rows = Permutation(*(torch.zeros(2, dtype=torch.int32, device=DEVICE),) * 4, position)
    x = randn(3, 16, seed=1)
    made = kernel(x, rows)
    assert isinstance(made, torch.Tensor) and torch.equal(made, x[:2])


def test_gradients_go_back_to_the_tokens() -> None:
    rows = ragged_rows(6, 3, seed=4)
    x = randn(6, 8, seed=5).double().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: permute_rows(x, rows), (x,))


@pytest.mark.parametrize("dtype", [torch.float32, EIGHT])
def test_the_operation_asks_the_kernel(dtype: torch.dtype) -> None:
    rows, x = ragged_rows(6, 3, seed=4), randn(6, 32, seed=5).to(dtype)
    scale = randn(6, seed=6)
    with use("torch"):
        expected = permute_rows(x, rows, scale)
    with use("permute_rows=triton"):
        made = permute_rows(x, rows, scale)
    assert same_bits(made[0], expected[0]) and torch.equal(made[1], expected[1])


@pytest.mark.parametrize(
    "change, message",
    [
        ({"x": torch.zeros(6)}, "x is"),
        ({"x": torch.zeros(6, 6)}, "multiple of 16 bytes"),
        ({"x": torch.zeros(6, 16).double()}, "float64"),
        ({"x": torch.zeros(5, 16)}, r"rows.position is \(6, 2\)"),
        ({"x": torch.zeros(6, 32)[:, ::2]}, "last dimension"),
        ({"scale": torch.zeros(5)}, "scale is"),
        ({"scale": torch.zeros(6).double()}, "scale is"),
        ({"position": torch.zeros(6, 2).long()}, "rows.position is torch.int64"),
        ({"position": torch.zeros(6, 65).int()}, "k up to 64"),
    ],
)
def test_bad_input(change: dict[str, torch.Tensor], message: str) -> None:
    if DEVICE.type == "cuda":
        pytest.skip("the strides of some inputs are lost on the way to the device")
    rows = ragged_rows(6, 2, seed=1)
    given = {"x": torch.zeros(6, 16), "position": rows.position, **change}
    with pytest.raises(ValueError, match=message):
        kernel(given["x"], replace(rows, position=given["position"]), given.get("scale"))


def test_the_operation_refuses_shapes_that_do_not_fit() -> None:
    rows = ragged_rows(6, 2, seed=1)
    with pytest.raises(ValueError, match=r"x is \(5, 16\), rows.position \(6, 2\)"):
        permute_rows(randn(5, 16, seed=1), rows)
    with pytest.raises(ValueError, match=r"scale is \(5,\)"):
        permute_rows(randn(6, 16, seed=1), rows, randn(5, seed=1))
    with pytest.raises(ValueError, match=r"rows.token is \(13,\)"):
        permute_rows(randn(6, 16, seed=1), replace(rows, token=torch.zeros(13, dtype=torch.int32)))
