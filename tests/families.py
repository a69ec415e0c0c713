"""A checkpoint folder of every family, at full size but for its weights, which are drawn when they are loaded."""

from __future__ import annotations

from pathlib import Path

from benchmarks.random_checkpoint import write_random_checkpoint
from model.family import FAMILY
from model.presets import find_model
from model.tasks import ModelCard

MODELS = (*FAMILY, "nano")


def card_in(directory: Path, name: str) -> ModelCard:
    """The card of a model; its folder is written below ``directory`` where it is not there yet."""
    if name == "nano":
        return find_model(name)
    folder = directory / name
    if not folder.exists():
        write_random_checkpoint(FAMILY[name], folder)
    return find_model(str(folder))
