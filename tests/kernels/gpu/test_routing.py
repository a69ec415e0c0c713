"""Routing by kernel and by reference against plain loops: choices, gates, and a stable sort by expert."""

from __future__ import annotations

import math
from collections.abc import Callable
from types import ModuleType

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.draws import draws
from tests.kernels.numbers import DEVICE
from zoetrope.kernels.gpu import routing as gpu
from zoetrope.kernels.gpu.tiles import RowTile
from zoetrope.kernels.reference import routing as reference
from zoetrope.kernels.types.permutation import Permutation

few = settings(deadline=None, max_examples=draws(8))
seeds = st.integers(0, 2**31)
both = pytest.mark.parametrize("routing", [gpu, reference], ids=["kernel", "reference"])
FIELDS = ("token", "gate", "counts", "offsets", "position")


def coarse(*shape: int, seed: int, step: float = 0.125) -> torch.Tensor:
    """Multiples of ``step``: many ties, and otherwise differences far above rounding."""
    numbers = torch.randint(-20, 21, shape, generator=torch.Generator().manual_seed(seed))
    return (numbers * step).to(DEVICE)


def top_k(logits: list[float], correction: list[float], k: int) -> list[tuple[int, float]]:
    """Experts and gates of one token, in float64; `sorted` is stable, so ties go to the lower number."""
    scores = [1 / (1 + math.exp(-value)) for value in logits]
    # Rounded to tell what float32 cannot: sums that differ in float64 alone.
    order = sorted(range(len(logits)), key=lambda e: -round(scores[e] + correction[e], 6))[:k]
    total = sum(scores[e] for e in order)
    return [(e, scores[e] / total) for e in order]


def check(rows: Permutation, choices: list[list[tuple[int, float]]], experts: int) -> None:
    """Every field is that of a stable sort by expert of the (token, choice) pairs."""
    pairs = [(expert, n, j, gate) for n, token in enumerate(choices) for j, (expert, gate) in enumerate(token)]
    pairs.sort(key=lambda pair: pair[0])
    counts = [sum(pair[0] == expert for pair in pairs) for expert in range(experts)]
    assert rows.token.tolist() == [pair[1] for pair in pairs]
    assert rows.counts.tolist() == counts
    assert rows.offsets.tolist() == [sum(counts[:expert]) for expert in range(experts + 1)]
    assert rows.position.shape == (len(choices), len(choices[0]) if choices else rows.position.shape[1])
    for place, (_, n, j, gate) in enumerate(pairs):
        assert int(rows.position[n, j]) == place
        assert float(rows.gate[place]) == pytest.approx(gate, rel=1e-5)
    assert rows.gate.dtype == torch.float32
    assert all(getattr(rows, name).dtype == torch.int32 for name in FIELDS if name != "gate")


@both
@given(st.integers(1, 70), st.sampled_from([1, 2, 3, 16, 20, 80, 256]), st.integers(1, 8), st.booleans(), seeds)
@few
def test_the_k_best_of_a_sigmoid_gate(
    routing: ModuleType, tokens: int, experts: int, k: int, steered: bool, seed: int
) -> None:
    k = min(k, experts)
    logits, correction = coarse(tokens, experts, seed=seed), coarse(experts, seed=seed + 1) * float(steered)
    rows = routing.route_top_k(logits, correction, k)
    check(rows, [top_k(token, correction.tolist(), k) for token in logits.tolist()], experts)


@both
@given(st.integers(1, 70), st.sampled_from([1, 2, 3, 8, 16]), st.sampled_from([1, 2, 5, 10, 16]), seeds)
@few
def test_the_best_of_each_group(routing: ModuleType, tokens: int, groups: int, size: int, seed: int) -> None:
    logits, correction = coarse(tokens, groups * size, seed=seed), coarse(groups * size, seed=seed + 1)
    rows = routing.route_grouped_top1(logits, correction, groups)
    scores = (logits + correction).view(tokens, groups, size).tolist()
    best = [[(g * size + max(range(size), key=group.__getitem__), 1.0) for g, group in enumerate(t)] for t in scores]
    check(rows, best, groups * size)
    assert bool((rows.gate == 1).all())


@both
def test_ties_go_to_the_lower_expert(routing: ModuleType) -> None:
    logits = torch.zeros(3, 8, device=DEVICE)
    logits[1] = 30.0  # all sigmoids are 1
    logits[2, ::2] = -0.0
    zeros = torch.full((8,), -0.0, device=DEVICE)  # added to -0 it stays -0, which is no less than 0
    check(routing.route_top_k(logits, zeros, 3), [[(0, 1 / 3), (1, 1 / 3), (2, 1 / 3)]] * 3, 8)
    check(routing.route_grouped_top1(logits, zeros, 2), [[(0, 1.0), (4, 1.0)]] * 3, 8)


@both
def test_choosing_all_experts(routing: ModuleType) -> None:
    logits = coarse(9, 8, seed=5)
    rows = routing.route_top_k(logits, torch.zeros(8, device=DEVICE), 8)
    assert rows.counts.tolist() == [9] * 8
    assert rows.token.tolist() == list(range(9)) * 8
    sums = rows.gate[rows.position.long()].sum(1)
    assert torch.allclose(sums, torch.ones_like(sums))


@both
def test_no_tokens(routing: ModuleType) -> None:
    logits, correction = torch.zeros(0, 6, device=DEVICE), torch.zeros(6, device=DEVICE)
    for route, k in ((routing.route_top_k, 2), (routing.route_grouped_top1, 3)):
        rows = route(logits, correction, k)
        assert rows.position.shape == (0, k)
        check(rows, [], 6)


@both
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_logits_that_are_no_numbers_choose_valid_and_different_experts(routing: ModuleType, bad: float) -> None:
    logits = coarse(6, 12, seed=1)
    logits[0] = bad
    logits[1, 3:] = bad
    logits[2, 5] = bad
    correction = torch.zeros(12, device=DEVICE)
    for rows in (routing.route_top_k(logits, correction, 4), routing.route_grouped_top1(logits, correction, 4)):
        assert int(rows.counts.sum()) == 24
        assert rows.offsets.tolist() == [0, *rows.counts.cumsum(0).tolist()]
        assert sorted(rows.position.flatten().tolist()) == list(range(24))
        assert torch.equal(rows.token[rows.position.long()], torch.arange(6, device=DEVICE)[:, None].int().expand(6, 4))
        expert = torch.repeat_interleave(torch.arange(12, device=DEVICE), rows.counts)[rows.position.long()]
        assert all(len(set(token)) == 4 for token in expert.tolist())
    if math.isnan(bad):  # it is seen in the gates, not hidden
        gates = gpu.route_top_k(logits, correction, 4)
        assert bool(gates.gate[gates.position[:2].long()].isnan().all())
        assert bool(gates.gate[gates.position[3:].long()].isfinite().all())


def test_any_tiling_gives_the_same_bits_as_the_reference() -> None:
    logits, correction = coarse(60, 16, seed=3), coarse(16, seed=4)
    expected = reference.route_top_k(logits, correction, 2), reference.route_grouped_top1(logits, correction, 4)
    for tile in (None, RowTile(2, 1), RowTile(16, 2)):
        found = (
            gpu.route_top_k(logits, correction, 2, tile=tile),
            gpu.route_grouped_top1(logits, correction, 4, tile=tile),
        )
        for rows, wanted in zip(found, expected, strict=True):
            for name in FIELDS:
                same = getattr(rows, name), getattr(wanted, name)
                assert torch.allclose(*same, rtol=1e-6) if name == "gate" else torch.equal(*same)


def test_rows_may_be_further_apart() -> None:
    wide = coarse(20, 24, seed=6)
    zeros = torch.zeros(10, device=DEVICE)
    apart, packed = gpu.route_top_k(wide[:, 3:13], zeros, 2), gpu.route_top_k(wide[:, 3:13].contiguous(), zeros, 2)
    assert all(torch.equal(getattr(apart, name), getattr(packed, name)) for name in FIELDS)


def test_the_reference_learns_through_its_gates() -> None:
    logits = coarse(5, 6, seed=7).requires_grad_()
    zeros = torch.zeros(6, device=DEVICE)
    factor = torch.arange(1.0, 11.0, device=DEVICE).view(5, 2)
    rows = reference.route_top_k(logits, zeros, 2)
    (rows.gate[rows.position.long()] * factor).sum().backward()
    copy = logits.detach().double().requires_grad_()
    expert = torch.repeat_interleave(torch.arange(6, device=DEVICE), rows.counts)[rows.position.long()]
    chosen = copy.sigmoid().gather(1, expert)
    (chosen / chosen.sum(1, keepdim=True) * factor).sum().backward()
    assert logits.grad is not None and copy.grad is not None
    assert torch.allclose(logits.grad.double(), copy.grad, atol=1e-6)

    logits.grad = None
    rows = reference.route_grouped_top1(logits, zeros, 2)
    rows.gate.sum().backward()
    assert logits.grad is not None
    shares = logits.detach().view(5, 2, 3).softmax(-1).view(5, 6)
    expert = torch.repeat_interleave(torch.arange(6, device=DEVICE), rows.counts)[rows.position.long()]
    assert torch.allclose(logits.grad, torch.zeros_like(shares).scatter(1, expert, 1.0) - shares, atol=1e-6)


def test_bad_input() -> None:
    logits, correction = torch.zeros(4, 6, device=DEVICE), torch.zeros(6, device=DEVICE)
    bad: list[tuple[str, Callable[[], object]]] = [
        ("k is 0", lambda: gpu.route_top_k(logits, correction, 0)),
        ("k is 7: it must be 1 to 6", lambda: gpu.route_top_k(logits, correction, 7)),
        ("k is 17: it must be 1 to 16", lambda: gpu.route_top_k(logits.repeat(1, 4), correction.repeat(4), 17)),
        ("groups is 4: it must divide 6", lambda: gpu.route_grouped_top1(logits, correction, 4)),
        ("groups is 0", lambda: gpu.route_grouped_top1(logits, correction, 0)),
        ("logits is .*E from 1 to 256", lambda: gpu.route_top_k(logits.repeat(1, 50), correction.repeat(50), 1)),
        ("logits is", lambda: gpu.route_top_k(logits[0], correction, 1)),
        ("logits is torch.float16", lambda: gpu.route_top_k(logits.half(), correction, 1)),
        ("correction is torch.float64", lambda: gpu.route_top_k(logits, correction.double(), 1)),
        (r"correction is \(5,\)", lambda: gpu.route_top_k(logits, correction[:5], 1)),
        ("logits has strides", lambda: gpu.route_top_k(torch.zeros(6, 4, device=DEVICE).T, correction, 1)),
        ("correction is on meta", lambda: gpu.route_top_k(logits, correction.to("meta"), 1)),
    ]
    for message, call in bad:
        with pytest.raises(ValueError, match=message):
            call()
