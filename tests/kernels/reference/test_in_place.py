"""Where no gradient is recorded, passes write over their own results: the same bits, and no input is changed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from zoetrope.kernels import linear_gelu, qk_norm_rope, residual_gate, residual_norm

N, D, HEADS = 6, 32, 2
Pass = Callable[[dict[str, torch.Tensor]], Any]


def inputs(dtype: torch.dtype, levels: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(levels)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator)

    rows = {name: draw(N, D).to(dtype) for name in ("residual", "update")}
    tables = {name: draw(levels, D) for name in ("gate", "shift", "scale")}
    angles = draw(N, D // HEADS // 2)
    return {
        **rows,
        **tables,
        "row": torch.arange(N) % levels,
        "weight": draw(D).to(dtype),
        "cos": angles.cos(),
        "sin": angles.sin(),
        "hidden": draw(2 * D, D).to(dtype),
        "bias": draw(2 * D).to(dtype),
    }


PASSES: dict[str, Pass] = {
    "residual_norm": lambda x: residual_norm(
        x["residual"], x["update"], x["gate"], x["row"], shift=x["shift"], scale=x["scale"], eps=1e-6
    ),
    "first_norm": lambda x: residual_norm(
        x["residual"], None, None, x["row"], shift=x["shift"], scale=x["scale"], eps=1e-6
    ),
    "residual_gate": lambda x: (residual_gate(x["residual"], x["update"], x["gate"], x["row"]),),
    "rotated": lambda x: (qk_norm_rope(x["residual"], x["weight"], x["cos"], x["sin"], HEADS, 1e-6),),
    "rotated_columns": lambda x: (
        qk_norm_rope(x["residual"].T.contiguous().T, x["weight"], x["cos"], x["sin"], HEADS, 1e-6),
    ),
    "linear_gelu": lambda x: (linear_gelu(x["residual"], x["hidden"], x["bias"]),),
}


@pytest.mark.parametrize("levels", [1, 3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", PASSES)
def test_the_bits_are_those_with_gradients_and_inputs_stay(name: str, dtype: torch.dtype, levels: int) -> None:
    given, kept = inputs(dtype, levels), inputs(dtype, levels)
    with torch.no_grad():
        found = PASSES[name](given)
    with torch.enable_grad():
        expected = PASSES[name](kept)
    assert all(torch.equal(mine, plain) for mine, plain in zip(found, expected, strict=True))
    assert all(torch.equal(given[key], value) for key, value in inputs(dtype, levels).items())


def test_a_single_noise_level_gives_the_bits_of_a_row_for_each_token() -> None:
    one = inputs(torch.float32, 1)
    many = {**one, **{name: one[name].expand(N, D).contiguous() for name in ("gate", "shift", "scale")}}
    many["row"] = torch.arange(N)
    for name in ("residual_norm", "residual_gate"):
        for mine, other in zip(PASSES[name](one), PASSES[name](many), strict=True):
            assert torch.equal(mine, other)
