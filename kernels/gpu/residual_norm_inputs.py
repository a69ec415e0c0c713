"""Check the inputs of passes over rows before anything is launched."""

from __future__ import annotations

import torch

from zoetrope.kernels.gpu.launch import require_device, require_rows_contiguous

FLOATS = (torch.float32, torch.float16, torch.bfloat16)


def check_rows(
    residual: torch.Tensor,
    update: torch.Tensor | None,
    gate: torch.Tensor | None,
    row: torch.Tensor | None,
    *,
    shift: torch.Tensor | None = None,
    scale: torch.Tensor | None = None,
    weight: torch.Tensor | None = None,
    bias: torch.Tensor | None = None,
) -> torch.device:
    """Check the operands of `residual_norm` and `residual_gate`; return their device.

    Raises:
        ValueError: an operand has a shape, dtype, device or layout that the kernels do not take.
    """
    if residual.ndim != 2 or residual.shape[1] < 8 or residual.shape[1] % 8:
        raise ValueError(f"residual is {tuple(residual.shape)}: it must be [N, D] with D a multiple of 8")
    tokens, width = residual.shape
    if update is not None and update.shape != residual.shape:
        raise ValueError(f"update is {tuple(update.shape)}: it must be {(tokens, width)} as residual is")
    vectors = {"weight": weight, "bias": bias}
    for name, tensor in {"residual": residual, "update": update, **vectors}.items():
        if tensor is not None and tensor.dtype not in FLOATS:
            raise ValueError(f"{name} is {tensor.dtype}: it must be float32, float16 or bfloat16")
    for name, tensor in vectors.items():
        if tensor is not None and tensor.shape != (width,):
            raise ValueError(f"{name} is {tuple(tensor.shape)}: it must be {(width,)}")
    tables = {name: t for name, t in {"gate": gate, "shift": shift, "scale": scale}.items() if t is not None}
    for name, table in tables.items():
        levels = next(iter(tables.values())).shape[0]
        if table.ndim != 2 or table.shape != (levels, width) or table.dtype != torch.float32:
            raise ValueError(
                f"{name} is {tuple(table.shape)} {table.dtype}: it must be [R, {width}] float32, of one R for all"
            )
    if tables:
        if row is None:
            raise ValueError(f"row is None: it must be given with {' and '.join(tables)}")
        if row.shape != (tokens,) or row.dtype not in (torch.int32, torch.int64) or not row.is_contiguous():
            raise ValueError(
                f"row is {tuple(row.shape)} {row.dtype}: it must be {(tokens,)} int32 or int64 and contiguous"
            )
    used = row if tables else None
    device = require_device(residual=residual, update=update, row=used, **tables, **vectors)
    require_rows_contiguous(residual=residual, update=update, **tables, **vectors)
    return device
