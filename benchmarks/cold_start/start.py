"""Start one rank of a checkpoint in this process, and print the seconds of each phase as JSON.

    python -m zoetrope.benchmarks.cold_start.start MODEL naive|now

``now`` does what `zoetrope.cluster.engine.rank.Rank` does. ``naive``: all of torch is imported, then all files are
hashed, then tensor after tensor is read through a memory map, by one thread.
"""

from __future__ import annotations

import json
import sys
from contextlib import nullcontext
from importlib import import_module
from unittest import mock

from zoetrope.cluster.protocol.phases import Phases
from zoetrope.model.runtime.imports import COMPILER, quick_imports


def start(model: str, naive: bool) -> dict[str, float]:
    """Return the seconds by phase."""
    phases = Phases()
    with phases.of("import"):
        from zoetrope.model.catalog.presets import find_model
        from zoetrope.model.catalog.weights_identity import Hashing, weights_of

        card = find_model(model)
        hashing = None if naive else Hashing(card)
        with nullcontext() if naive else quick_imports():
            import_module("zoetrope.cluster.engine.rank")
        if naive:
            import_module(COMPILER)
        from zoetrope.cluster.engine.warm_up import warm_up
        from zoetrope.cluster.parallel.mesh import Mesh
        from zoetrope.cluster.planning.hardware import hardware_of
        from zoetrope.model.checkpoints import weights
        from zoetrope.model.checkpoints.load import configure_torch, load_denoiser
    device = configure_torch(card)
    if hashing is None:
        with phases.of("hash"):
            weights_of(card)
        with phases.of("read"), mock.patch.object(weights, "readers", return_value=0):
            denoiser = load_denoiser(card, device)
    else:
        with phases.of("read"):
            denoiser = load_denoiser(card, device)
        with phases.of("hash"):
            hashing.result()
    with phases.of("warm_up"):
        warm_up(denoiser, card, hardware_of(device.type), Mesh())
    return dict(phases.seconds())


if __name__ == "__main__":
    print(json.dumps(start(sys.argv[1], sys.argv[2] == "naive")))
