"""The bookkeeping of expert parallelism in plain torch; `kernels.gpu.dispatch` does the same."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from zoetrope.kernels.types.permutation import Permutation

Tensors = tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]


def dispatch_tokens(rows: Permutation, ranks: int) -> Tensors:
    """Return the fields of `kernels.ops.dispatch.Departures`. Nothing here waits for the device."""
    (n, k), device = rows.position.shape, rows.counts.device
    by_expert = rows.counts.view(ranks, -1)
    to = torch.arange(ranks, device=device).repeat_interleave(by_expert.sum(1), output_size=n * k)
    cell = to * n + rows.token  # in tables of [ranks, n]
    hit = torch.zeros(ranks, n, dtype=torch.int32, device=device)
    hit.view(-1)[cell] = 1
    place = (hit.view(-1).cumsum(0) - 1)[cell]
    flat = rows.position.flatten().long()
    rank = to[flat].view(n, k)
    earlier = (rank[:, :, None] == rank[:, None, :]).tril(-1).sum(-1)
    ordinal = torch.empty_like(to).scatter(0, flat, earlier.flatten())
    most = ordinal.amax() + 1 if n else ordinal.sum()
    sizes = hit.sum(1)
    totals = torch.stack([by_expert.sum(1), sizes, most.expand(ranks)], dim=1)
    row = place - (sizes.cumsum(0) - sizes)[to]
    pairs = torch.stack([row.int(), ordinal.int(), rows.gate.view(torch.int32)], dim=1)
    width = min(k, ranks)
    tokens = torch.zeros(n * width, dtype=torch.int32, device=device).scatter(0, place, rows.token)
    lower = (hit.cumsum(0) - 1).view(-1)[cell]  # ranks before this one that the token goes to
    home = torch.full((n * width,), -1, dtype=torch.int32, device=device)
    home = home.scatter(0, rows.token * width + lower, place.int())
    return torch.cat([by_expert, totals], dim=1).int(), pairs, tokens, home.view(n, width)


def arrange_arrivals(counts: torch.Tensor, pairs: torch.Tensor, rows: int, most: int) -> Tensors:
    """Return the fields of `kernels.ops.dispatch.Arrivals`."""
    by_expert, sizes, total = counts[:, :-3], counts[:, -2], pairs.shape[0]
    came, wanted = by_expert.flatten(), by_expert.T.flatten()
    # Where the block of each (rank, expert) starts, as it came and sorted by expert, [E, ranks].
    start_came = (came.cumsum(0) - came).view(by_expert.shape).T
    start_wanted = (wanted.cumsum(0) - wanted).view(by_expert.T.shape)
    shift = start_came - start_wanted
    place = torch.arange(total, device=counts.device)
    order = place + shift.flatten().repeat_interleave(wanted, output_size=total)
    back = place - shift.T.flatten().repeat_interleave(came, output_size=total)
    offsets = F.pad(by_expert.sum(0).cumsum(0), (1, 0)).int()
    first = sizes.cumsum(0) - sizes
    row = pairs[:, 0] + first.repeat_interleave(by_expert.sum(1), output_size=total)
    gate = pairs[:, 2].contiguous().view(torch.float32)
    position = torch.full((rows * most,), -1, dtype=torch.int32, device=counts.device)
    position = position.scatter(0, row * most + pairs[:, 1], back.int())
    return offsets, row[order].int(), gate[order], position.view(rows, most)
