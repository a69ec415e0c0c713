"""Tell by tensor names which parts of Wan's network stay in float32 and which are stacks of experts."""

from __future__ import annotations

import re
from collections.abc import Sequence

import torch

# Kept in float32 by diffusers (`_keep_in_fp32_modules` of WanTransformer3DModel), and our routers.
FLOAT32_MODULES = ("time_embedder", "scale_shift_table", "norm1", "norm2", "norm3", "gate", "correction")
EXPERT_STACKS = re.compile(r"\.ffn\.(w1|w2|b1)$")


def dtype_of(name: str, dtype: torch.dtype, float32_modules: Sequence[str] = FLOAT32_MODULES) -> torch.dtype:
    """Return the dtype of a tensor in a network of ``dtype``; see `model.checkpoints.weights.load_into`."""
    return torch.float32 if any(module in name.split(".") for module in float32_modules) else dtype
