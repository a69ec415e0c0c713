"""The bookkeeping of expert parallelism by kernel and by reference, against plain loops."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.draws import draws
from tests.kernels.numbers import DEVICE, randn
from zoetrope.kernels import Arrivals, Departures, Permutation, arrange_arrivals, dispatch_tokens
from zoetrope.kernels.gpu import dispatch as gpu
from zoetrope.kernels.ops.dispatch import PAIR_BYTES
from zoetrope.kernels.reference import dispatch as reference
from zoetrope.kernels.reference.routing import permute_by_expert

few = settings(deadline=None, max_examples=draws(8))
seeds = st.integers(0, 2**31)
both = pytest.mark.parametrize("dispatch", [gpu, reference], ids=["kernel", "reference"])
# Experts, choices of a token, ranks.
SHAPES = [(8, 3, 2), (8, 1, 8), (16, 2, 4), (12, 12, 3), (6, 2, 1), (80, 8, 4), (128, 16, 64)]


def chosen(tokens: int, experts: int, choices: int, seed: int) -> list[list[int]]:
    scores = randn(tokens, experts, seed=seed)
    picked: list[list[int]] = scores.argsort(dim=1)[:, :choices].tolist()
    return picked


def permutation(choices: list[list[int]], width: int, experts: int, seed: int) -> Permutation:
    picked = torch.tensor(choices, dtype=torch.int64, device=DEVICE).view(-1, width)
    return permute_by_expert(picked, randn(len(choices), width, seed=seed), experts)


def check_departures(found: Departures, choices: list[list[int]], rows: Permutation, experts: int, ranks: int) -> None:
    """Every field, from what the tokens have chosen."""
    own, k = experts // ranks, rows.position.shape[1]
    to = [[token for token, picks in enumerate(choices) if any(e // own == r for e in picks)] for r in range(ranks)]
    most = max((sum(e // own == r for e in picks) for picks in choices for r in range(ranks)), default=0)
    counts, pairs = [], []
    for rank in range(ranks):
        experts_here = range(rank * own, (rank + 1) * own)
        takers = [[t for t, picks in enumerate(choices) if e in picks] for e in experts_here]
        counts.append([*map(len, takers), sum(map(len, takers)), len(to[rank]), most])
        for expert, tokens in zip(experts_here, takers, strict=True):
            for token in tokens:
                at = choices[token].index(expert)
                ordinal = sum(e // own == rank for e in choices[token][:at])
                gate = rows.gate[rows.position[token, at].long()]
                pairs.append([to[rank].index(token), ordinal, int(gate.view(torch.int32))])
    assert found.counts.tolist() == counts
    assert found.pairs.tolist() == pairs
    places = [token for tokens in to for token in tokens]
    assert found.tokens[: len(places)].tolist() == places
    starts = [sum(map(len, to[:rank])) for rank in range(ranks)]
    width = min(k, ranks)
    assert found.home.shape == (len(choices), width)
    for token in range(len(choices)):
        home = [starts[rank] + to[rank].index(token) for rank in range(ranks) if token in to[rank]]
        assert found.home[token].tolist() == home + [-1] * (width - len(home))
    assert {x.dtype for x in (found.counts, found.pairs, found.tokens, found.home)} == {torch.int32}


@both
@given(st.sampled_from(SHAPES), st.integers(0, 70), seeds)
@few
def test_departures(dispatch: ModuleType, shape: tuple[int, int, int], tokens: int, seed: int) -> None:
    experts, k, ranks = shape
    choices = chosen(tokens, experts, k, seed)
    rows = permutation(choices, k, experts, seed + 1)
    check_departures(Departures(*dispatch.dispatch_tokens(rows, ranks)), choices, rows, experts, ranks)


@both
def test_departures_where_all_tokens_go_to_one_rank(dispatch: ModuleType) -> None:
    for first in (0, 2, 4, 6):
        choices = [[first, first + 1], [first + 1, first], [first, first + 1]]
        rows = permutation(choices, 2, 8, seed=first)
        check_departures(Departures(*dispatch.dispatch_tokens(rows, 4)), choices, rows, 8, 4)


@pytest.mark.long
def test_departures_of_more_programs_than_one_looks_at_at_once() -> None:
    """The kernel's last step reads the largest number of every program, 256 at a time."""
    spread, crowded = [8 * rank + i for rank in range(4) for i in range(4)], [*range(16)]
    choices = [spread] * (4 * 256 + 2) + [crowded]  # 16 choices: 4 tokens to a program
    rows = permutation(choices, 16, 32, seed=2)
    ours, plain = (Departures(*m.dispatch_tokens(rows, 4)) for m in (gpu, reference))
    assert ours.counts[:, -1].tolist() == [8] * 4
    assert torch.equal(ours.counts, plain.counts)
    assert torch.equal(ours.pairs, plain.pairs)
    assert torch.equal(ours.home, plain.home)


@both
@given(st.sampled_from(SHAPES), st.data(), seeds)
@few
def test_arrivals(dispatch: ModuleType, shape: tuple[int, int, int], data: st.DataObject, seed: int) -> None:
    """What one rank gets from all, from what all have chosen."""
    experts, k, ranks = shape
    own, mine = experts // ranks, data.draw(st.integers(0, ranks - 1))
    sources = min(ranks, 4)
    sent: list[Departures] = []
    for source in range(ranks):
        tokens = data.draw(st.integers(0, 12)) if source < sources else 0
        rows = permutation(chosen(tokens, experts, k, seed + source), k, experts, seed + 99 + source)
        sent.append(Departures(*reference.dispatch_tokens(rows, ranks)))
    counts = torch.stack([departures.counts for departures in sent], dim=1)[mine]  # [sources, ...]
    pairs = torch.cat([d.pairs.split(d.counts[:, -3].tolist())[mine] for d in sent])
    sizes, most = counts[:, -2].tolist(), int(counts[:, -1].max())
    found = Arrivals(*dispatch.arrange_arrivals(counts, pairs, sum(sizes), most))

    expected: list[tuple[int, int, int, int]] = []  # expert, row, ordinal, bits
    place = 0
    for source in range(ranks):
        for expert in range(own):
            for _ in range(int(counts[source, expert])):
                row, ordinal, bits = pairs[place].tolist()
                expected.append((expert, sum(sizes[:source]) + row, ordinal, bits))
                place += 1
    expected.sort(key=lambda pair: pair[0])
    assert found.offsets.tolist() == [sum(p[0] < e for p in expected) for e in range(own + 1)]
    assert found.rows.tolist() == [row for _, row, _, _ in expected]
    assert found.gate.view(torch.int32).tolist() == [bits for *_, bits in expected]
    position = [[-1] * most for _ in range(sum(sizes))]
    for at, (_, row, ordinal, _) in enumerate(expected):
        position[row][ordinal] = at
    assert found.position.tolist() == position
    assert found.position.shape == (sum(sizes), most)


def test_arrivals_of_rows_that_lie_further_apart() -> None:
    """The counts of one chunk among those of several."""
    rows = [permutation(chosen(9, 8, 3, seed), 3, 8, seed) for seed in (1, 2)]
    sent = [Departures(*reference.dispatch_tokens(r, 1)) for r in rows]
    told = torch.stack([d.counts for d in sent], dim=1)
    for chunk, departures in enumerate(sent):
        for arrange in (gpu.arrange_arrivals, reference.arrange_arrivals):
            made: Any = arrange(told[:, chunk], departures.pairs, 9, 3)
            assert torch.equal(made[2], rows[chunk].gate)
            assert torch.equal(made[3], rows[chunk].position)


def test_a_token_leaves_once_for_each_rank_with_twelve_bytes_for_each_expert() -> None:
    chosen = torch.tensor([[0, 1, 7], [4, 2, 3], [6, 7, 5]], device=DEVICE)
    rows = permute_by_expert(chosen, torch.rand(3, 3, device=DEVICE), 8)
    leaving = dispatch_tokens(rows, 2)
    assert leaving.counts[:, -2].tolist() == [2, 3]
    assert leaving.counts[:, -1].tolist() == [3, 3]
    assert leaving.tokens[:5].tolist() == [0, 1, 0, 1, 2]
    assert leaving.pairs.shape[1] * leaving.pairs.element_size() == PAIR_BYTES
    assert leaving.pairs[:, 0].tolist() == [0, 0, 1, 1, 1, 2, 2, 0, 2], "by expert, rows as the rank gets them"


def test_what_cannot_be_dispatched_is_refused() -> None:
    rows = permutation(chosen(3, 8, 2, 0), 2, 8, 0)
    with pytest.raises(ValueError, match="8 experts cannot be split evenly over 3 ranks"):
        dispatch_tokens(rows, 3)
    with pytest.raises(ValueError, match=r"ranks is 128: it must be 1 to 64 and divide 256 experts"):
        gpu.dispatch_tokens(permutation(chosen(1, 256, 1, 0), 1, 256, 0), 128)
    with pytest.raises(ValueError, match=r"rows.position is \(1, 17\): it must be \[N, 1 to 16\]"):
        gpu.dispatch_tokens(permutation(chosen(1, 32, 17, 0), 17, 32, 0), 2)
    with pytest.raises(ValueError, match=r"counts is \(3,\), pairs \(1, 3\)"):
        arrange_arrivals(torch.zeros(3), torch.zeros(1, 3), 1, 1)
    counts, pairs = (torch.zeros(*shape, dtype=torch.int32, device=DEVICE) for shape in ((2, 5), (1, 3)))
    with pytest.raises(ValueError, match=r"pairs is torch\.int64: it must be int32"):
        gpu.arrange_arrivals(counts, pairs.long(), 1, 1)
    with pytest.raises(ValueError, match=r"counts is torch\.int64: it must be int32"):
        gpu.arrange_arrivals(counts.long(), pairs, 1, 1)
