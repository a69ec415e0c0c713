"""Small tables made on the host, on their way to a device."""

from __future__ import annotations

from collections.abc import Sequence

import torch


def upload(rows: Sequence[int] | Sequence[Sequence[int]], device: torch.device) -> torch.Tensor:
    """Return the numbers as int32 on ``device``, without waiting for work that runs there.

    A copy from pageable memory would make the host wait for all launches before it. This one comes from pinned memory
    and takes its turn in the current stream. Callers cache the result by what it was made of.
    """
    table = torch.tensor(rows, dtype=torch.int32)
    return table.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else table.to(device)
