"""Splits a step: groups get sequences, ranks an even slice of their tokens. Pure functions."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from zoetrope.kernels import CuSeqlens


def assign(costs: Sequence[float], groups: int) -> list[list[int]]:
    """Distribute sequences over groups: the most expensive first, each to the group with the least so far.

    Ties go to the first, so that every rank gets the same answer and the two branches of a segment, which are equally
    long and adjacent, end up in different groups.

    Args:
        costs: of each sequence, in any unit.

    Returns:
        For each group the indices of its sequences, ascending.
    """
    loads = [0.0] * groups
    members: list[list[int]] = [[] for _ in range(groups)]
    for i in sorted(range(len(costs)), key=lambda i: -costs[i]):
        least = loads.index(min(loads))
        loads[least] += costs[i]
        members[least].append(i)
    return [sorted(m) for m in members]


def even_parts(total: int, ranks: int) -> CuSeqlens:
    """Return the tokens of each rank, which differ by one at most; some have none if there are fewer tokens than
    ranks."""
    from zoetrope.kernels import CuSeqlens  # which loads torch

    bounds = [total * rank // ranks for rank in range(ranks + 1)]
    return CuSeqlens.of(stop - start for start, stop in pairwise(bounds))
