"""Read low-rank changes from a file in the style of diffusers and PEFT."""

from __future__ import annotations

from pathlib import Path

import safetensors.torch
import torch

from zoetrope.model.adapters.patches import LowRank, Patch
from zoetrope.model.inspection.files import ModelError
from zoetrope.model.inspection.headers import read_headers

PREFIXES = {"transformer.": "any", "transformer_2.": "low"}
DOWN, UP, ALPHA = ".lora_A.weight", ".lora_B.weight", ".alpha"


def read_low_rank(path: Path) -> list[tuple[str, Patch]]:
    """Return the changes, each with its noise expert: ``any``, ``high`` or ``low``.

    Raises:
        ModelError: a key is not understood, or the file cannot be read.
    """
    if path.suffix != ".safetensors":
        raise ModelError(f"{path}: must be a .safetensors file; convert it offline")
    names = [header.name for header in read_headers(path)]
    two = any(name.startswith("transformer_2.") for name in names)
    tensors = safetensors.torch.load_file(path)
    found: list[tuple[str, Patch]] = []
    used: set[str] = set()
    for name in names:
        if not name.endswith(DOWN):
            continue
        prefix = name.partition(".")[0] + "."
        module = name.removesuffix(DOWN)
        if prefix not in PREFIXES or module + UP not in tensors:
            raise ModelError(f"{path}: {name} is not understood")
        a, b, alpha = tensors[name], tensors[module + UP], tensors.get(module + ALPHA)
        used |= {name, module + UP, module + ALPHA}
        scale = 1.0 if alpha is None else float(alpha.float().reshape(-1)[0]) / a.shape[0]
        side = "high" if two and prefix == "transformer." else PREFIXES[prefix]
        found.append((side, LowRank(f"{module.removeprefix(prefix)}.weight", a, b, scale)))
    if left := sorted(set(names) - used):
        raise ModelError(f"{path}: {left[0]} is not understood")
    if any(tensor.dtype not in (torch.float32, torch.float16, torch.bfloat16) for tensor in tensors.values()):
        raise ModelError(f"{path}: its tensors must be F32, F16 or BF16")
    return found
