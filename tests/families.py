"""A checkpoint folder of every family, at full size but for its weights, which are drawn when they are loaded."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.random_checkpoint import write_random_checkpoint
from model.family import FAMILY
from model.presets import find_model
from model.tasks import ModelCard

MODELS = (*FAMILY, "nano")
# One of those that differ in nothing but their size is tried by every change, the others with `make soak`.
DISTINCT = (
    "wan2.7-27b",
    "wan2.2-t2v-a14b",
    "wan2.2-i2v-a14b",
    "bernini-r-1.3b",
    "wan2.1-flf2v-14b",
    "wan2.1-vace-1.3b",
)
EVERY_MODEL = [name if name in (*DISTINCT, "nano") else pytest.param(name, marks=pytest.mark.long) for name in MODELS]


def card_in(directory: Path, name: str) -> ModelCard:
    """The card of a model; its folder is written below ``directory`` where it is not there yet."""
    if name == "nano":
        return find_model(name)
    folder = directory / name
    if not folder.exists():
        write_random_checkpoint(FAMILY[name], folder)
    return find_model(str(folder))
