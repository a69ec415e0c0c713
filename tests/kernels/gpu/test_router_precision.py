"""A router decides: its logits must be float32's also where tensor cores cut off the digits of their sums."""

# mypy: disable-error-code="no-untyped-def, untyped-decorator"

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import triton
import triton.language as tl
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.draws import draws
from tests.kernels.compiled import compiled_ptx
from tests.kernels.numbers import DEVICE, randn, relative_error
from tests.kernels.tensor_cores import EXTRA_BITS, from_bfloat16, product, tensor_cores, to_bfloat16
from zoetrope.kernels.gpu import router_logits as gpu

simulated = pytest.mark.skipif(DEVICE.type == "cuda", reason="a GPU has tensor cores of its own")
PROMISED = 1e-6
PROVED = 1e-5  # what a kernel of float32 may differ by, in the proofs of `benchmarks.kernels`


@triton.jit
def _chained(
    x,
    weight,
    out,
    tokens,
    x_stride,
    D: tl.constexpr,
    E: tl.constexpr,
    SPLIT: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_E: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """The router's kernel as it was first written: one sum in the tensor cores over all of D."""
    token = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    expert = tl.program_id(1) * BLOCK_E + tl.arange(0, BLOCK_E)
    column = tl.arange(0, BLOCK_K)
    total = tl.zeros([BLOCK_M, BLOCK_E], tl.float32)
    for start in range(0, D, BLOCK_K):
        a = tl.load(x + token[:, None] * x_stride + start + column, mask=token[:, None] < tokens, other=0.0)
        w = tl.load(weight + expert[None, :] * D + start + column[:, None], mask=expert[None, :] < E, other=0.0)
        high = w.to(tl.bfloat16)
        rest = w - high.to(tl.float32)
        middle = rest.to(tl.bfloat16)
        low = (rest - middle.to(tl.float32)).to(tl.bfloat16)
        total = tl.dot(a, low, total)
        total = tl.dot(a, middle, total)
        total = tl.dot(a, high, total)
    tl.store(out + token[:, None] * E + expert, total, mask=(token[:, None] < tokens) & (expert < E))


def drawn(width: int, experts: int, tokens: int = 8) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Tokens, a router's weight, and its logits in float64."""
    x, weight = randn(tokens, width, seed=width, dtype=torch.bfloat16), randn(experts, width, seed=experts)
    return x, weight, x.double() @ weight.double().T


@simulated
@pytest.mark.parametrize(("width", "experts"), [(3072, 80), (5120, 48)])
def test_logits_are_float32_on_tensor_cores_that_cut_off(
    width: int, experts: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    x, weight, wanted = drawn(width, experts)
    products = [(128, 64, 64)] * (3 * width // 64 * -(-experts // 64))
    with tensor_cores() as made:
        logits = gpu.router_logits(x, weight)
    assert made == products
    assert relative_error(logits, wanted) <= PROMISED
    # What the rule is for: one sum over all of D is not even good enough to be proved, and the simulation shows it.
    monkeypatch.setattr(gpu, "_logits", _chained)
    with tensor_cores() as made:
        chained = gpu.router_logits(x, weight)
    assert made == products
    assert relative_error(chained, wanted) > PROVED


@simulated
def test_near_experts_keep_their_order() -> None:
    """Of two experts whose float64 logits differ by 3e-6 of their size, the better one is chosen."""
    x, weight, wanted = drawn(3072, 16)
    aligned = torch.where(wanted[0, 0] > 0, 1.0, -1.0) * weight[0]
    weight[1] = aligned * (1 + 3e-6)
    weight[0] = aligned
    with tensor_cores():
        logits = gpu.router_logits(x[:1], weight)
    assert bool(logits[0, 1] > logits[0, 0])


@pytest.mark.long
def test_the_compiler_leaves_every_tile_a_sum_of_its_own() -> None:
    """It fuses ``total + dot(a, b)`` into the product where it can: here each tile must end with float32 additions."""
    name = "router_logits/triton/bf16/d3072-e80"
    ptx = compiled_ptx(name)
    products = [at for at, line in enumerate(ptx) if "wgmma.mma_async" in line]
    additions = [at for at, line in enumerate(ptx) if "add.f32" in line or "add.rn.f32" in line]
    loop = next(at for at, line in enumerate(ptx) if at > products[-1] and " bra " in line)
    assert len(products) == 3 * 64 // 16
    assert sum(products[-1] < at < loop for at in additions) == 128 * 64 // 256  # of each of 256 threads


@given(st.integers(1, 40), st.integers(0, 2**31))
@settings(deadline=None, max_examples=draws(20))
def test_the_simulation_cuts_off_and_never_adds(k: int, seed: int) -> None:
    """Sums of positive numbers come out too small, by no more than a unit of the alignment for each number."""
    draw = np.random.default_rng(seed)
    a, b, start = (np.abs(draw.standard_normal(shape)).astype(np.float32) for shape in ((3, k), (k, 2), (3, 2)))
    a, b = from_bfloat16(to_bfloat16(a)), from_bfloat16(to_bfloat16(b))
    exact = start.astype(np.float64) + a.astype(np.float64) @ b.astype(np.float64)
    lost = exact - product(a, b, start)
    steps = -(-k // 16)
    assert bool((lost >= 0).all())
    assert bool((lost <= exact * 2.0**-23 * (steps + (k + steps) * 2.0**-EXTRA_BITS)).all())


def test_the_simulation_is_exact_where_no_digit_is_lost() -> None:
    whole = np.random.default_rng(0).integers(-8, 9, (20, 50)).astype(np.float32)
    assert np.array_equal(product(whole, whole.T, np.ones((20, 20), np.float32)), whole @ whole.T + 1)


def test_bfloat16_is_rounded_to_nearest_even() -> None:
    x = randn(1000, seed=0).cpu()
    theirs: Any = x.bfloat16().float().numpy()
    assert np.array_equal(from_bfloat16(to_bfloat16(x.numpy())), theirs)
    halves = torch.tensor([1 + 2**-8, 1 + 3 * 2**-8, -1 - 2**-8])
    assert from_bfloat16(to_bfloat16(halves.numpy())).tolist() == [1.0, 1 + 2**-6, -1.0]
