"""When attention takes projections, and that it then gives what norm, rotation and attention give one by one."""

from __future__ import annotations

import pytest
import torch

from tests.kernels.numbers import DEVICE, randn, relative_error
from zoetrope.kernels import CuSeqlens, attends_in_8bit, attention_of_projections, qk_norm_rope, varlen_attention
from zoetrope.kernels.select.backends import use

pytest.importorskip("triton")
EPS = 1e-6


@pytest.mark.parametrize(
    ("asked", "answer"),
    [
        ("triton,attention=int8", True),
        ("triton,attention=int8,qk_norm_rope=torch", False),
        ("attention=sdpa,qk_norm_rope=triton", False),
        ("torch,attention=reference", False),
    ],
)
def test_it_is_so_where_8_bits_and_our_norm_are_requested(asked: str, answer: bool) -> None:
    x, weight = torch.zeros(3, 64, device=DEVICE), torch.ones(64, device=DEVICE)
    with use(asked):
        assert attends_in_8bit(x, weight, 32) is answer


def test_a_call_that_8_bits_cannot_take_is_refused() -> None:
    x, weight = torch.zeros(3, 48, device=DEVICE), torch.ones(48, device=DEVICE)
    with use("triton,attention=int8"), pytest.raises(ValueError, match="heads of 32, 64, 128, not 48"):
        attends_in_8bit(x, weight, 48)


def test_projections_give_what_the_separate_operations_give() -> None:
    heads, dim, cu = 2, 32, CuSeqlens.of([9, 6])
    q, k, v = (randn(15, heads * dim, seed=seed) for seed in range(3))
    q_weight, k_weight = (1 + randn(heads * dim, seed=seed, scale=0.1) for seed in (3, 4))
    angle = randn(15, dim // 2, seed=5)
    cos, sin = angle.cos(), angle.sin()
    values = v.unflatten(1, (heads, dim))
    with use("triton,attention=int8"):
        found = attention_of_projections(q, k, values, q_weight, k_weight, cos, sin, EPS, cu, cu)
    queries = qk_norm_rope(q, q_weight, cos, sin, heads, EPS)
    keys = qk_norm_rope(k, k_weight, cos, sin, heads, EPS)
    assert relative_error(found, varlen_attention(queries, keys, values, cu, cu, backend="reference")) < 0.02
    with pytest.raises(ValueError, match="from projections, attention is by int8 or int8_fp8"):
        attention_of_projections(q, k, values, q_weight, k_weight, cos, sin, EPS, cu, cu, backend="sdpa")
