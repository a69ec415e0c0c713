"""Export a trained transformer: the checkpoint directory it came from, with new weights in the same files."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from zoetrope.model.catalog.checkpoint_layout import read_transformers
from zoetrope.model.catalog.original_layout import is_original
from zoetrope.model.inspection.files import ModelError
from zoetrope.model.training.errors import TrainingError

RECORD_NAME = "training.json"


def check_exportable(source: Path, out: Path) -> None:
    """Check that `export_checkpoint` will be able to write.

    Raises:
        TrainingError: the source is in Wan's own layout, its weights are not safetensors, or it contains ``out``.
    """
    if is_original(source):
        raise TrainingError(f"checkpoint: {source} is in Wan's own layout, training needs the diffusers one")
    try:
        parts = read_transformers(source)
        files = [path for part in parts for path in part.files]
    except ModelError as error:
        raise TrainingError(f"checkpoint: {error}") from None
    if any(part.random for part in parts):
        raise TrainingError(f"checkpoint: {source} has random weights, so there are no files to replace")
    for path in files:
        if path.suffix != ".safetensors":
            raise TrainingError(f"checkpoint: {path} is not a safetensors file, the only format that training writes")
    if out.resolve() == source.resolve() or source.resolve() in out.resolve().parents:
        raise TrainingError(f"out: {out} lies in the checkpoint {source}, choose another directory")


def export_checkpoint(
    source: Path, component: str, weights: Mapping[str, torch.Tensor], target: Path, record: Mapping[str, Any]
) -> None:
    """Write ``target``, replacing the result of an earlier call.

    Args:
        component: ``transformer`` or ``transformer_2``, whose tensors ``weights`` replace. Files, index and dtypes stay
            those of the source; everything else is copied once.
        record: what a reader needs to repeat the run, for ``training.json``.
    """
    if not target.exists():
        partial = target.with_name(target.name + ".partial")
        shutil.rmtree(partial, ignore_errors=True)
        shutil.copytree(source, partial, ignore=lambda folder, _: [component] if Path(folder) == source else [])
        _write(source / component, weights, partial / component)
        partial.rename(target)
    else:
        fresh, old = target / f"{component}.partial", target / f"{component}.old"
        shutil.rmtree(fresh, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)
        _write(source / component, weights, fresh)
        if (target / component).exists():  # a run may have been killed between the next two lines
            (target / component).rename(old)
        fresh.rename(target / component)
        shutil.rmtree(old, ignore_errors=True)
    partial = target / (RECORD_NAME + ".partial")
    partial.write_text(json.dumps(record, indent=2, sort_keys=True) + "\n")
    partial.replace(target / RECORD_NAME)


def _write(source: Path, weights: Mapping[str, torch.Tensor], folder: Path) -> None:
    """Write the component's folder, one weight file at a time."""
    folder.mkdir()
    for path in sorted(source.iterdir()):
        if path.is_dir():
            shutil.copytree(path, folder / path.name)
        elif path.suffix != ".safetensors":
            shutil.copy2(path, folder / path.name)
        else:
            with safe_open(path, framework="pt") as file:
                metadata = file.metadata() or {"format": "pt"}
                tensors = {}
                for name in file.keys():  # noqa: SIM118
                    stored = file.get_tensor(name)
                    value = weights.get(name, stored)  # unused tables stay as they are
                    tensors[name] = value.detach().to("cpu", stored.dtype).contiguous()
            save_file(tensors, folder / path.name, metadata=metadata)
