"""Collectives over rows of uneven numbers: nothing is padded to a capacity, nothing dropped."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist
import torch.nn.functional as F


@dataclass(frozen=True)
class Flight:
    """Rows in flight. On CUDA, `land` makes the stream wait, not the host."""

    rows: torch.Tensor
    sent: torch.Tensor  # kept alive until they have landed
    work: dist.Work | None

    def land(self) -> torch.Tensor:
        if self.work is not None:
            self.work.wait()
        return self.rows


def send_rows(x: torch.Tensor, sent: Sequence[int], received: Sequence[int], group: dist.ProcessGroup) -> Flight:
    """Send the first ``sent[0]`` rows of ``x`` to the group's first rank, and so on (all-to-all).

    Args:
        x: ``[sum(sent), ...]``, contiguous. received: number of rows that each rank sends to this one.

    Returns:
        ``[sum(received), ...]``, ordered by the sending rank.
    """
    rows = x.new_empty(sum(received), *x.shape[1:])
    work = dist.all_to_all_single(rows, x, list(received), list(sent), group=group, async_op=True)
    return Flight(rows, x, work)


def gather_rows(x: torch.Tensor, counts: Sequence[int], group: dist.ProcessGroup) -> torch.Tensor:
    """Gather the rows of all ranks ``[sum(counts), ...]`` on each, bitwise equal; ``x`` holds this rank's."""
    longest = max(counts)
    if longest == 0:
        return x
    missing = longest - x.shape[0]
    mine = F.pad(x, (0, 0) * (x.ndim - 1) + (0, missing)) if missing else x.contiguous()
    rows = x.new_empty(len(counts), longest, *x.shape[1:])
    dist.all_gather(list(rows.unbind()), mine, group=group)
    return torch.cat([rows[rank, :count] for rank, count in enumerate(counts)])
