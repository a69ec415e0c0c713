"""Small tables made on the host, on their way to a device."""

from __future__ import annotations

from collections.abc import Sequence

import torch


def upload(table: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Copy a small tensor from the host to ``device``, without waiting for work that runs there.

    A copy from pageable memory would make the host wait for all launches before it. This one comes from pinned memory
    and takes its turn in the current stream.
    """
    return table.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else table.to(device)


def upload_numbers(rows: Sequence[int] | Sequence[Sequence[int]], device: torch.device) -> torch.Tensor:
    """Return the numbers as int32 on ``device``; callers cache the result by what it was made of."""
    return upload(torch.tensor(rows, dtype=torch.int32), device)
