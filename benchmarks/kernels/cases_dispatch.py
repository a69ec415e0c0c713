"""Cases of the bookkeeping of expert parallelism, whose results must be exact."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import fields

import torch

from zoetrope.benchmarks.kernels.cases import LIMITS, KernelCase, KernelInputs, Results
from zoetrope.kernels.reference.routing import permute_by_expert
from zoetrope.kernels.select.proofs import dtype_name
from zoetrope.kernels.types.permutation import Permutation

WRONG, RIGHT = float("inf"), 0.0


def dispatch_cases(inputs: KernelInputs) -> Iterator[KernelCase]:
    """Yield cases of the departures and arrivals of one rank, for several numbers of ranks."""
    sizes = [(1, 8, 2, 2), (30, 8, 3, 4)] if inputs.tiny else [(1, 80, 8, 4), (15_810, 80, 8, 4), (7_000, 128, 8, 64)]
    for tokens, experts, choices, ranks in sizes:
        name = f"{tokens} tokens, {choices} of {experts} on {ranks} ranks"
        yield _departures(inputs, f"departures, {name}", tokens, experts, choices, ranks)
        yield _arrivals(inputs, f"arrivals, {name}", tokens, experts, choices, ranks)


def _case(name: str, run: Callable[[], Results], right: Callable[[Results], bool]) -> KernelCase:
    dtype = torch.float32

    def error(results: Results) -> float:
        # On the CPU, where a wrong index raises an exception instead of killing the process.
        return RIGHT if right(tuple(result.cpu() for result in results)) else WRONG

    return KernelCase("dispatch", "triton", dtype_name(dtype), None, name, LIMITS[dtype], run, error)


def _departures(inputs: KernelInputs, name: str, tokens: int, experts: int, choices: int, ranks: int) -> KernelCase:
    given = _routed(inputs, tokens, experts, choices)
    rows = Permutation(*(getattr(given, field.name).cpu() for field in fields(given)))
    function = inputs.function("dispatch", "triton", "dispatch_tokens")

    def right(results: Results) -> bool:
        """Check that pairs, in the order of the permutation, and the rows at home lead to their tokens."""
        counts, pairs, token_of, home = (result.long() for result in results)
        own, sizes = experts // ranks, counts[:, -2]
        rank = torch.arange(ranks, device=counts.device).repeat_interleave(counts[:, -3])
        start = sizes.cumsum(0) - sizes
        token_of = token_of[: int(sizes.sum())]
        there = torch.arange(ranks, device=counts.device).repeat_interleave(sizes)
        known = home >= 0
        token = torch.arange(tokens, device=counts.device)[:, None].expand_as(home)
        ranks_of = torch.zeros(tokens, ranks, dtype=torch.bool, device=counts.device)
        ranks_of[rows.token.long(), rank] = True
        of_rank = torch.zeros(tokens, ranks, dtype=torch.int64, device=counts.device)
        of_rank.index_put_((rows.token.long(), rank), torch.ones_like(rank), accumulate=True)
        return (
            torch.equal(counts[:, :own].flatten(), rows.counts.long())
            and torch.equal(counts[:, -3], counts[:, :own].sum(1))
            and bool((counts[:, -1] == of_rank.max()).all())
            and torch.equal(token_of[start[rank] + pairs[:, 0]], rows.token.long())
            and torch.equal(results[1][:, 2], rows.gate.view(torch.int32))
            and torch.equal(pairs[:, 1], _ordinals(rows, rank))
            and torch.equal(ranks_of.T.nonzero(), torch.stack([there, token_of], 1))
            and torch.equal(token_of[home[known]], token[known])
            and torch.equal(known.sum(1), ranks_of.sum(1))
            and bool((home.diff(dim=1) > 0)[known[:, 1:]].all())
        )

    return _case(name, lambda: function(given, ranks), right)


def _ordinals(rows: Permutation, rank: torch.Tensor) -> torch.Tensor:
    """Count, for each pair, the earlier choices of its token on the same rank."""
    found = torch.zeros_like(rank)
    position = rows.position.long()
    for later in range(position.shape[1]):
        for earlier in range(later):
            found[position[:, later]] += rank[position[:, later]] == rank[position[:, earlier]]
    return found


def _arrivals(inputs: KernelInputs, name: str, tokens: int, experts: int, choices: int, ranks: int) -> KernelCase:
    """Make a case in which each row is a token and its pairs are the token's choices among the rank's experts."""
    own, most = experts // ranks, min(choices, experts // ranks)
    sizes = inputs.ragged(ranks, tokens)
    taken = [min(size, 1 + inputs.random.randrange(most)) for size in sizes]  # pairs per row of a rank
    counts, pairs = [], []
    for size, width in zip(sizes, taken, strict=True):
        chosen = _routed(inputs, size, own, max(width, 1))
        totals = torch.tensor([size * max(width, 1), size, most], device=inputs.device, dtype=torch.int32)
        counts.append(torch.cat([chosen.counts, totals]))
        ordinal = torch.zeros_like(chosen.token)
        numbers = torch.arange(max(width, 1), device=inputs.device, dtype=torch.int32)
        ordinal[chosen.position.flatten().long()] = numbers.repeat(size)
        pairs.append(torch.stack([chosen.token, ordinal, chosen.gate.view(torch.int32)], 1))
    all_counts, all_pairs = torch.stack(counts), torch.cat(pairs)
    function = inputs.function("dispatch", "triton", "arrange_arrivals")
    given = all_counts, all_pairs
    sent, paired = all_counts.cpu(), all_pairs.cpu()

    def right(results: Results) -> bool:
        offsets, rows, gate, position = results
        by_expert = sent[:, :own].long()
        starts = torch.tensor([0, *sizes[:-1]], device=sent.device).cumsum(0)
        source = torch.arange(ranks, device=sent.device).repeat_interleave(sent[:, -3].long())
        cell = torch.arange(own, device=sent.device).repeat(ranks).repeat_interleave(by_expert.flatten())
        order = cell.argsort(stable=True)
        row = paired[:, 0].long() + starts[source]
        back = torch.full((tokens, most), -1, dtype=torch.int64, device=sent.device)
        back[row[order], paired[order, 1].long()] = torch.arange(len(order), device=sent.device)
        return (
            torch.equal(offsets.long(), torch.nn.functional.pad(by_expert.sum(0).cumsum(0), (1, 0)))
            and torch.equal(rows.long(), row[order])
            and torch.equal(gate.view(torch.int32), paired[order, 2])
            and torch.equal(position.long(), back)
        )

    return _case(name, lambda: function(*given, tokens, most), right)


def _routed(inputs: KernelInputs, tokens: int, experts: int, choices: int) -> Permutation:
    chosen = inputs.randn(tokens, experts).argsort(dim=1)[:, :choices]
    return permute_by_expert(chosen, inputs.randn(tokens, choices), experts)
