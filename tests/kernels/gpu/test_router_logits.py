"""A router's logits, by kernel and by reference, against float64."""

from __future__ import annotations

from types import ModuleType

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.draws import draws
from tests.kernels.numbers import DEVICE, DTYPES, randn, relative_error
from zoetrope.kernels.gpu import router_logits as gpu
from zoetrope.kernels.reference import router_logits as reference

few = settings(deadline=None, max_examples=draws(6))


@pytest.mark.parametrize("module", [gpu, reference], ids=["kernel", "reference"])
@pytest.mark.parametrize("dtype", DTYPES)
@given(st.integers(0, 150), st.sampled_from([8, 72, 128]), st.integers(1, 70), st.integers(0, 2**31))
@few
def test_logits_are_those_of_float64(
    module: ModuleType, dtype: torch.dtype, tokens: int, width: int, experts: int, seed: int
) -> None:
    x, weight = randn(tokens, width, seed=seed, dtype=dtype), randn(experts, width, seed=seed + 1)
    logits = module.router_logits(x, weight)
    assert logits.dtype == torch.float32
    # The tokens are what they are; nothing is lost after them, in no dtype.
    assert relative_error(logits, x.double() @ weight.double().T) < 2e-6


def test_tokens_may_be_a_slice_of_wider_rows() -> None:
    wide, weight = randn(20, 64, seed=0), randn(4, 16, seed=1)
    logits = gpu.router_logits(wide[:, 16:32], weight)
    assert relative_error(logits, wide[:, 16:32].double() @ weight.double().T) < 2e-6


@pytest.mark.parametrize("precision", ["high", "medium"])
def test_the_reference_is_float32_where_other_products_may_be_less(
    precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    x, weight = randn(40, 128, seed=2), randn(16, 128, seed=3).requires_grad_()
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(precision)
    dtypes: list[torch.dtype] = []
    linear = F.linear

    def watched(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        dtypes.append(x.dtype)
        return linear(x, weight)

    monkeypatch.setattr(F, "linear", watched)
    try:
        logits = reference.router_logits(x, weight)
        logits.sum().backward()
    finally:
        torch.set_float32_matmul_precision(before)
    assert dtypes == [torch.float64] and logits.dtype == torch.float32
    assert weight.grad is not None and weight.grad.dtype == torch.float32
    assert relative_error(logits.detach(), x.double() @ weight.detach().double().T) < 2e-6


def test_what_the_kernel_cannot_take() -> None:
    x, weight = torch.zeros(2, 16, device=DEVICE), torch.zeros(3, 16, device=DEVICE)
    with pytest.raises(ValueError, match="D a multiple of 8"):
        gpu.router_logits(x[:, :15], weight)
    with pytest.raises(ValueError, match=r"weight is \(3, 8\)"):
        gpu.router_logits(x, weight[:, :8])
    with pytest.raises(ValueError, match="1 to 256"):
        gpu.router_logits(x, torch.zeros(257, 16, device=DEVICE))
    with pytest.raises(ValueError, match=r"x is torch\.float64"):
        gpu.router_logits(x.double(), weight)
    with pytest.raises(ValueError, match="must be contiguous"):
        gpu.router_logits(x, torch.zeros(16, 3, device=DEVICE).T)
