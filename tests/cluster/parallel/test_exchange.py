"""Heads and experts reach the tokens of other ranks exactly, in whatever uneven numbers."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from tests.cluster.parallel.exchange_jobs import (
    EXPERTS,
    Routing,
    attend,
    layer_of,
    meet_in_flight,
    qkv,
    quantised_layer_of,
    route,
    route_in_8_bits,
    tokens_of,
)
from tests.cluster.parallel.gangs import Gangs
from zoetrope.cluster.parallel.exchange import GangExchange
from zoetrope.kernels import CuSeqlens

CASES = {
    2: [
        Routing((7, 6)),
        Routing((1, 12), top_k=3, seed=1),
        Routing((5, 4), top_k=4, groups=4, seed=2),
        Routing((3, 3), top_k=2, groups=2, seed=3),
        Routing((0, 1), seed=4),
        Routing((7, 6), chunks=2),
        Routing((5, 1), top_k=4, groups=4, seed=2, chunks=4),  # more chunks than a rank has tokens
    ],
    1: [Routing((6,)), Routing((5,), top_k=4, groups=4, seed=2)],
    4: [
        Routing((5, 5, 4, 4)),
        Routing((9, 0, 2, 1), top_k=4, groups=4, seed=5),
        Routing((4, 4, 4, 4), favour=((3, -9.0), (6, -9.0)), seed=6),  # experts that get nothing
        Routing((4, 4, 4, 4), favour=((0, 9.0), (1, 9.0)), seed=7),  # all to the first rank
        Routing((2, 0, 0, 0), top_k=1, seed=8),
        Routing((3, 2, 2, 2), top_k=8, seed=9),  # everything everywhere
        Routing((6, 5, 5, 5), dtype=torch.bfloat16, seed=10),
        Routing((9, 0, 2, 1), top_k=3, seed=5, chunks=2),
        Routing((8, 9, 7, 7), top_k=2, groups=2, favour=((0, 9.0),), seed=12, chunks=8),
    ],
}


def choices(case: Routing, x: torch.Tensor) -> tuple[list[int], list[float]]:
    """Experts of a token and their weights, from the definition."""
    layer = layer_of(case)
    score = layer.gate.weight.float() @ x.float()
    if case.groups is None:
        score = score.sigmoid()
        chosen = (score + layer.correction.float()).topk(case.top_k).indices.tolist()
        return chosen, (score[chosen] / score[chosen].sum()).tolist()
    size = EXPERTS // case.groups
    best = (score + layer.correction.float()).view(case.groups, size).argmax(1)
    return [g * size + int(b) for g, b in enumerate(best)], [1.0] * case.groups


def by_loop(case: Routing) -> torch.Tensor:
    """A token at a time, from the definition."""
    layer, out = layer_of(case), []
    for x in tokens_of(case):
        chosen, weights = choices(case, x)
        assert layer.shared is not None
        total = layer.shared(x).float()
        for expert, weight in zip(chosen, weights, strict=True):
            hidden = x.float() @ layer.w1[expert].float() + (0 if layer.b1 is None else layer.b1[expert].float())
            total = total + weight * (F.gelu(hidden, approximate="tanh") @ layer.w2[expert].float())
        out.append(total if layer.b2 is None else total + layer.b2.float())
    return torch.stack(out)


def rows_between(case: Routing, rank: int, ranks: int, chunk: int) -> list[int]:
    """Tokens in a chunk of a rank's that have chosen an expert of each rank."""
    first = sum(case.parts[:rank])
    tokens = tokens_of(case)[first : first + case.parts[rank]].tensor_split(case.chunks)[chunk]
    mine = [choices(case, x)[0] for x in tokens]
    return [sum(any(e * ranks // EXPERTS == other for e in chosen) for chosen in mine) for other in range(ranks)]


@pytest.mark.parametrize("ranks", CASES)
def test_experts_of_other_ranks_are_the_loop_over_the_tokens(ranks: int, gangs: Gangs) -> None:
    cases = CASES[ranks]
    answers = gangs.run(ranks, route, cases)
    for i, case in enumerate(cases):
        made = torch.cat([answer[i][0] for answer in answers])
        assert made.dtype == case.dtype
        limit = 1e-5 if case.dtype == torch.float32 else 2e-2
        assert float((made.float() - by_loop(case)).norm()) <= limit * float(by_loop(case).norm()), case
        sent = [answer[i][1] for answer in answers if ranks > 1]
        for rank, (counts, *rest) in enumerate(sent):
            pairs, there, back = rest[: 2 * case.chunks : 2], rest[1 : 2 * case.chunks : 2], rest[2 * case.chunks :]
            assert len(rest) == 3 * case.chunks
            assert {message.dtype for message in (counts, *pairs)} == {torch.int32}
            assert {message.dtype for message in (*there, *back)} == {case.dtype}
            assert sum(sum(p.rows) for p in pairs) == case.parts[rank] * case.top_k, "a pair for each choice"
            for chunk in range(case.chunks):
                wanted = rows_between(case, rank, ranks, chunk)
                assert there[chunk].rows == wanted, "a token once to each rank that it has chosen"
                came = [other[2 + 2 * chunk].rows[rank] for other in sent]
                assert back[chunk].rows == came, "they go back where they came from"


@pytest.mark.parametrize(
    "case",
    [
        Routing((7, 6), top_k=3, chunks=2),
        Routing((9, 0, 2, 1), top_k=4, groups=4, seed=5),
        Routing((2, 0, 0, 0), top_k=1, seed=8),
        Routing((6, 5, 5, 5), dtype=torch.bfloat16, seed=10),
    ],
)
def test_rows_travel_in_8_bits_and_give_what_they_give_at_home(case: Routing, gangs: Gangs) -> None:
    ranks = len(case.parts)
    with torch.inference_mode():
        expected = quantised_layer_of(case)(tokens_of(case))
    answers = gangs.run(ranks, route_in_8_bits, case)
    made = torch.cat([out for out, _ in answers])
    assert made.dtype == case.dtype
    limit = 1e-5 if case.dtype == torch.float32 else 2e-2
    assert float((made.float() - expected.float()).norm()) <= limit * float(expected.float().norm())
    for rank, (_, (_, *messages)) in enumerate(answers):
        there, back = messages[: 3 * case.chunks], messages[3 * case.chunks :]
        assert [message.dtype for message in there] == [torch.int32, torch.uint8, torch.float32] * case.chunks
        assert {message.dtype for message in back} == {case.dtype}, "results are as exact as ever"
        for chunk in range(case.chunks):
            wanted = rows_between(case, rank, ranks, chunk)
            assert there[3 * chunk + 1].rows == there[3 * chunk + 2].rows == wanted, "a scale for each row"


@pytest.mark.parametrize("ranks", [2, 4])
def test_the_shared_expert_works_while_tokens_are_under_way(ranks: int, gangs: Gangs) -> None:
    case = Routing((3,) * ranks, top_k=3, seed=11)
    answers = gangs.run(ranks, meet_in_flight, case)
    expected = by_loop(case)
    assert float((torch.cat([made for made, _ in answers]) - expected).norm()) <= 1e-5 * float(expected.norm())
    for _, done in answers:
        assert done == [
            "counts sent", "pairs sent", "tokens sent", "shared expert", "pairs landed", "tokens landed",
            "results sent", "results landed",
        ]  # fmt: skip


def test_experts_work_on_a_chunk_while_others_are_under_way(gangs: Gangs) -> None:
    case = Routing((4, 5), top_k=3, seed=11, chunks=2)
    answers = gangs.run(2, meet_in_flight, case)
    expected = by_loop(case)
    assert float((torch.cat([made for made, _ in answers]) - expected).norm()) <= 1e-5 * float(expected.norm())
    for _, done in answers:
        assert done == [
            "counts sent", *["pairs sent", "tokens sent"] * 2, "shared expert",
            *["pairs landed", "tokens landed", "results sent"] * 2, *["results landed"] * 2,
        ]  # fmt: skip


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_attention_over_the_tokens_of_all_ranks(dtype: torch.dtype, gangs: Gangs) -> None:
    for ranks, heads, lengths, parts in (
        (2, 6, [5, 1, 7], [7, 6]),
        (4, 4, [9], [4, 0, 3, 2]),
        (4, 8, [2, 2, 2], [2, 2, 1, 1]),
        (4, 4, [1], [0, 0, 0, 1]),
    ):
        answers = gangs.run(ranks, attend, lengths, parts, heads, dtype)
        q, k, v = (x.float() for x in qkv(sum(lengths), heads, dtype))
        cu = CuSeqlens.of(lengths)
        expected = []
        for start, stop in zip(cu.offsets, cu.offsets[1:], strict=False):
            scores = torch.einsum("nhd,mhd->hnm", q[start:stop], k[start:stop]) / q.shape[-1] ** 0.5
            expected.append(torch.einsum("hnm,mhd->nhd", scores.softmax(-1), v[start:stop]))
        made = torch.cat([out for out, _ in answers])
        assert made.dtype == dtype
        limit = 1e-5 if dtype == torch.float32 else 1e-2
        assert float((made.float() - torch.cat(expected)).norm()) <= limit * float(torch.cat(expected).norm())
        for rank, (_, sent) in enumerate(answers):
            assert [s.rows for s in sent] == [[parts[rank]] * ranks] * 3 + [parts]
            assert {s.dtype for s in sent} == {dtype}


def test_heads_and_experts_that_the_ranks_do_not_divide_are_refused() -> None:
    exchange = GangExchange(None, CuSeqlens.of([4]), CuSeqlens.of([2, 1, 1]))  # type: ignore[arg-type]
    x = torch.zeros(2, 4, 8)
    with pytest.raises(ValueError, match="4 heads cannot be split evenly over 3 ranks"):
        exchange.share(x)
    layer = layer_of(Routing((2,)))
    with pytest.raises(ValueError, match="8 experts cannot be split evenly over 3 ranks"):
        layer(torch.zeros(2, 16), exchange)
