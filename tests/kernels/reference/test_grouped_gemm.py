"""The form of the grouped product that a GPU takes, computed on the CPU."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.draws import draws
from zoetrope.kernels.reference import grouped_gemm as reference


def randn(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module", autouse=True)
def gpu() -> object:
    """Take the operands as if they were on a GPU."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reference, "_on_gpu", lambda x, weight: True)
        yield


@given(
    counts=st.lists(st.integers(0, 5), min_size=2, max_size=6),
    k=st.integers(1, 9),
    n=st.integers(1, 9),
    shift=st.integers(0, 2),
    stored=st.booleans(),
    biased=st.booleans(),
    seed=st.integers(0, 2**31),
)
@settings(max_examples=draws(60))
def test_any_shape_and_layout_gives_each_row_the_product_and_bias_of_its_expert(
    counts: list[int], k: int, n: int, shift: int, stored: bool, biased: bool, seed: int
) -> None:
    m, experts = sum(counts), len(counts)
    x = randn(m, k + shift, seed=seed)[:, shift:].requires_grad_()
    weight = randn(experts, n, k, seed=seed + 1).mT if stored else randn(experts, k, n, seed=seed + 1)
    bias = randn(experts, n, seed=seed + 2) if biased else None
    offsets = torch.tensor([0, *counts]).cumsum(0).int()
    y = reference.grouped_gemm(x, weight, offsets, bias)
    owner = torch.arange(experts).repeat_interleave(torch.tensor(counts))
    wanted = torch.einsum("mk,mkn->mn", x.double(), weight[owner].double())
    wanted = wanted if bias is None else wanted + bias[owner]
    assert y.shape == (m, n) and y.is_contiguous()
    assert torch.allclose(y.double(), wanted, rtol=1e-5, atol=1e-5)
    if m:
        (slope,) = torch.autograd.grad(y.sum(), x)
        assert torch.allclose(slope, weight[owner].sum(2), rtol=1e-5, atol=1e-5)
