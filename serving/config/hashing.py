"""Hashes a model's weights when a process starts, so that nothing waits for that later."""

from __future__ import annotations

import sys
import time

from zoetrope.model.catalog.weights_identity import hash_weights
from zoetrope.model.inspection.files import ModelError
from zoetrope.model.request.tasks import ModelCard

TOLD_SECONDS = 2.0  # between two lines


def hash_at_start(card: ModelCard) -> None:
    """Hash what was never hashed on this machine, with progress on stderr. Where files are missing, nothing is hashed:
    a gateway needs none."""
    if card.exported_weights:
        return
    told = time.monotonic()

    def tell(done: int, total: int) -> None:
        nonlocal told
        if (now := time.monotonic()) - told >= TOLD_SECONDS:
            told = now
            line = f"hashing the files of {card.name}, once: {done / 1e9:.1f} of {total / 1e9:.1f} GB"
            print(line, file=sys.stderr, flush=True)

    try:
        hash_weights(card, tell)
    except ModelError as error:
        line = f"warning: {card.name}: repeated requests are not told apart by its weights: {error}"
        print(line, file=sys.stderr, flush=True)
