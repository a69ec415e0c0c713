"""Read an adapter file's changes into their one form (`model.adapters.patches`)."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import torch

from zoetrope.model.adapters.files.grammar import Side
from zoetrope.model.adapters.files.plan import AdapterPlan, PlannedPatch, plan_adapter
from zoetrope.model.adapters.files.targets import Targets
from zoetrope.model.adapters.patches import Difference, Hadamard, Kronecker, LowRank, Patch
from zoetrope.model.inspection.files import ModelError
from zoetrope.model.inspection.safetensors_header import SafetensorsHeader
from zoetrope.model.inspection.shown import shown

_TYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


def parse_adapter(path: Path, targets: Targets) -> list[tuple[Side, Patch]]:
    """Read all changes of a file, with the noise expert that each names.

    Raises:
        ModelError: as `model.adapters.files.plan.plan_adapter`, or a tensor holds NaN or infinity.
    """
    return list(read_patches(plan_adapter(path, targets)))


def read_patches(plan: AdapterPlan) -> Iterator[tuple[Side, Patch]]:
    """Read the changes of a plan, one at a time. Raises ModelError as `read_patch`."""
    for planned in plan.patches:
        yield planned.side, read_patch(plan.header, planned)


def read_patch(header: SafetensorsHeader, planned: PlannedPatch, device: torch.device | None = None) -> Patch:
    """Read one change, in the file's type, onto a device; None: the CPU.

    Raises:
        ModelError: the file has changed, or a tensor holds NaN or infinity.
    """
    values = {part: _tensor(header, key).to(device) for part, key in planned.keys.items()}
    target, scale = planned.target, planned.scale
    if planned.kind == "difference":
        return Difference(target, values["value"], scale)
    values = {part: value.flatten(1) for part, value in values.items()}  # of a convolution
    if planned.kind == "low_rank":
        return LowRank(target, values["a"], values["b"], scale)
    if planned.kind == "hadamard":
        return Hadamard(target, **values, scale=scale)
    w1, w2 = (values[n] if n in values else (values[f"{n}a"], values[f"{n}b"]) for n in ("w1", "w2"))
    return Kronecker(target, w1, w2, scale)


def _tensor(header: SafetensorsHeader, key: str) -> torch.Tensor:
    span = header.tensors[key]
    if not math.prod(span.shape):
        return torch.zeros(span.shape, dtype=_TYPES[span.dtype])
    value = torch.frombuffer(header.read(key), dtype=_TYPES[span.dtype]).reshape(span.shape)
    if not torch.isfinite(value).all():
        raise ModelError(f"{header.path}: {shown(key)} holds NaN or infinity")
    return value
