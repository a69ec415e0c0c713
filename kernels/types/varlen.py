"""Lengths of packed sequences."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate, groupby

import torch

from zoetrope.kernels.types.upload import keep_tables, upload_numbers


@dataclass(frozen=True)
class CuSeqlens:
    """Lengths of the sequences in a packed tensor, known on the host.

    ``offsets`` has one entry more than there are sequences: sequence ``i`` is rows ``offsets[i]:offsets[i + 1]``.
    """

    lengths: tuple[int, ...]

    @classmethod
    def of(cls, lengths: Iterable[int]) -> CuSeqlens:
        return cls(tuple(lengths))

    @cached_property
    def offsets(self) -> tuple[int, ...]:
        return (0, *accumulate(self.lengths))

    @property
    def total(self) -> int:
        return self.offsets[-1]

    def tensor(self, device: torch.device) -> torch.Tensor:
        """Return the offsets as int32 ``[len(lengths) + 1]`` on ``device``, the same tensor each time: read only."""
        return _offsets(self, device)


@keep_tables
def _offsets(cu: CuSeqlens, device: torch.device) -> torch.Tensor:
    return upload_numbers(cu.offsets, device)


def equal_runs(q: CuSeqlens, k: CuSeqlens) -> list[tuple[int, int]]:
    """Return the maximal runs ``(start, count)`` of neighbouring sequences with equal lengths, which form batches."""
    runs: list[tuple[int, int]] = []
    for _, group in groupby(range(len(q.lengths)), key=lambda i: (q.lengths[i], k.lengths[i])):
        members = list(group)
        runs.append((members[0], len(members)))
    return runs
