"""What is sent to experts and what comes back, all ranks played in one process; on a GPU where there is one."""

from __future__ import annotations

import pytest
import torch

from zoetrope.kernels import Permutation, arrange_arrivals, combine_experts, dispatch_tokens
from zoetrope.kernels.reference.routing import route_grouped_top1, route_top_k

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
EXPERTS, DIM = 8, 16


def routed(tokens: int, top_k: int, groups: int | None, seed: int) -> Permutation:
    logits = torch.randn(tokens, EXPERTS, generator=torch.Generator().manual_seed(seed)).to(DEVICE)
    correction = torch.zeros(EXPERTS, device=DEVICE)
    return route_grouped_top1(logits, correction, groups) if groups else route_top_k(logits, correction, top_k)


def exchange(
    parts: list[tuple[torch.Tensor, Permutation]], weights: torch.Tensor, bias: torch.Tensor, beside: torch.Tensor
) -> list[torch.Tensor]:
    """As the ranks do it, each with its tokens; expert ``e`` multiplies by ``weights[e]``."""
    ranks = len(parts)
    leaving = [dispatch_tokens(rows, ranks) for _, rows in parts]
    pairs, sizes, _ = torch.stack([d.counts[:, -3:] for d in leaving]).permute(2, 0, 1).tolist()  # by source, by rank
    sent = [
        x.index_select(0, d.tokens[: sum(size)]).split(size)
        for (x, _), d, size in zip(parts, leaving, sizes, strict=True)
    ]
    told = [d.pairs.split(count) for d, count in zip(leaving, pairs, strict=True)]
    back: list[list[torch.Tensor]] = [[] for _ in parts]
    for rank in range(ranks):
        arrived = torch.cat([message[rank] for message in sent])
        counts = torch.stack([d.counts[rank] for d in leaving])
        most = int(counts[:, -1].max())
        came = arrange_arrivals(counts, torch.cat([message[rank] for message in told]), len(arrived), most)
        each = EXPERTS // ranks
        own = weights[rank * each : (rank + 1) * each]
        experts = torch.arange(each, device=DEVICE).repeat_interleave(came.offsets.diff().long())
        made = add_up(arrived[came.rows.long()] * own[experts, None], came.position, came.gate)
        assert made.shape == arrived.shape, "one row comes back for each that came"
        for mine, part in zip(back, made.split([size[rank] for size in sizes]), strict=True):
            mine.append(part)
    return [
        add_up(torch.cat(rows), d.home, torch.ones(sum(map(len, rows)), device=DEVICE), bias, beside[: len(x)])
        for d, rows, (x, _) in zip(leaving, back, parts, strict=True)
    ]


def add_up(y: torch.Tensor, position: torch.Tensor, gate: torch.Tensor, *more: torch.Tensor) -> torch.Tensor:
    nothing = position.new_empty(0)
    return combine_experts(y, Permutation(nothing, gate, nothing, nothing, position), *more)


@pytest.mark.parametrize("ranks", [1, 2, 4, 8])
@pytest.mark.parametrize(("top_k", "groups"), [(1, None), (2, None), (5, None), (4, 4), (2, 2)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_tokens_come_back_as_the_weighted_sum_of_their_experts(
    ranks: int, top_k: int, groups: int | None, dtype: torch.dtype
) -> None:
    generator = torch.Generator().manual_seed(top_k)
    parts = []
    for rank in range(ranks):
        tokens = (7, 0, 1, 30, 4, 5, 2, 9)[rank]
        x = torch.randn(tokens, DIM, generator=generator).to(DEVICE, dtype)
        parts.append((x, routed(tokens, top_k, groups, rank)))
    weights = torch.randn(EXPERTS, generator=generator).to(DEVICE, dtype)
    bias = torch.randn(DIM, generator=generator).to(DEVICE, dtype)
    beside = torch.randn(30, DIM, generator=generator).to(DEVICE, dtype)
    made = exchange(parts, weights, bias, beside)
    for (x, rows), ours in zip(parts, made, strict=True):
        expert = torch.arange(EXPERTS, device=DEVICE).repeat_interleave(rows.counts.long())
        alone = combine_experts(x[rows.token.long()] * weights[expert, None], rows, bias, beside[: len(x)])
        assert ours.dtype == dtype
        assert torch.allclose(ours.float(), alone.float(), rtol=0, atol=1e-5 if dtype == torch.float32 else 0.1)


def test_a_value_that_is_not_finite_stays_with_its_token() -> None:
    x = torch.ones(6, DIM, device=DEVICE)
    x[2] = torch.nan
    parts = [(x, routed(6, 3, None, 1)), (torch.ones(5, DIM, device=DEVICE), routed(5, 3, None, 2))]
    zeros = torch.zeros(30, DIM, device=DEVICE)
    first, second = exchange(parts, torch.ones(EXPERTS, device=DEVICE), zeros[0], zeros)
    assert first.isfinite().all(1).tolist() == [True, True, False, True, True, True]
    assert bool(second.isfinite().all())
