"""Values that parameters start from."""

from __future__ import annotations

import torch


def normal(*shape: int, std: float) -> torch.Tensor:
    """Draw normal values, in the device and dtype of the context.

    On the meta device there is nothing to scale; torch would load its compiler for that, which takes seconds.
    """
    values = torch.randn(*shape)
    return values if values.is_meta else values * std
