"""Who computes what of a step: a group its sequences, a rank an even slice of their tokens. Pure functions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

import torch

from kernels import CuSeqlens
from model.exchange import Exchange
from model.sequences import PackedBatch


def assign(costs: Sequence[float], groups: int) -> list[list[int]]:
    """Spread sequences over groups: the dearest first, each to the group with the least so far.

    Of equal ones the first goes first, to the first of equal groups, so that every rank comes to the same answer and
    the two branches of a segment, equally long and side by side, end up in different groups.

    Args:
        costs: of each sequence, in any unit.

    Returns:
        For each group the numbers of its sequences, rising.
    """
    loads = [0.0] * groups
    members: list[list[int]] = [[] for _ in range(groups)]
    for i in sorted(range(len(costs)), key=lambda i: -costs[i]):
        least = loads.index(min(loads))
        loads[least] += costs[i]
        members[least].append(i)
    return [sorted(m) for m in members]


def even_parts(total: int, ranks: int) -> CuSeqlens:
    """Tokens of each rank, one apart at most; some have none where there are fewer tokens than ranks."""
    bounds = [total * rank // ranks for rank in range(ranks + 1)]
    return CuSeqlens.of(stop - start for start, stop in pairwise(bounds))


def slice_batch(batch: PackedBatch, start: int, stop: int, exchange: Exchange) -> PackedBatch:
    """The tokens ``start:stop`` of a batch, with the text and image tokens of the sequences that have some of them.

    Noise levels stay those of the whole batch. Targets are left out: they may lie elsewhere.
    """
    offsets = batch.cu_tokens.offsets
    present = [i for i in range(len(batch.cu_tokens.lengths)) if max(start, offsets[i]) < min(stop, offsets[i + 1])]
    rows = slice(start, stop)
    text, cu_text = _sequences(batch.text, batch.cu_text, present)
    image, cu_image = None, None
    if batch.image is not None and batch.cu_image is not None:
        image, cu_image = _sequences(batch.image, batch.cu_image, present)
    return replace(
        batch,
        tokens=batch.tokens[rows],
        cos=batch.cos[rows],
        sin=batch.sin[rows],
        noise_row=batch.noise_row[rows],
        cu_tokens=CuSeqlens.of(min(stop, offsets[i + 1]) - max(start, offsets[i]) for i in present),
        text=text,
        cu_text=cu_text,
        targets=(),
        image=image,
        cu_image=cu_image,
        hints=None if batch.hints is None else batch.hints[rows],
        hint_scales=None if batch.hint_scales is None else batch.hint_scales[rows],
        exchange=exchange,
    )


def _sequences(x: torch.Tensor, cu: CuSeqlens, present: list[int]) -> tuple[torch.Tensor, CuSeqlens]:
    """The rows of some sequences, which are neighbours."""
    lengths = CuSeqlens.of(cu.lengths[i] for i in present)
    first = cu.offsets[present[0]] if present else 0
    return x[first : first + lengths.total], lengths
