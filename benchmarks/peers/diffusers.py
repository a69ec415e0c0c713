"""diffusers: its own pipeline, by a script that has nothing of ours."""

from __future__ import annotations

import json
from pathlib import Path

from zoetrope.benchmarks.peers.peer import Peer, PeerWork

SCRIPT = Path(__file__).resolve().parent / "scripts" / "diffusers_pipeline.py"


def command(work: PeerWork, python: str, folder: Path) -> list[str]:
    """Return the command."""
    return [python, str(SCRIPT), json.dumps(work.to_dict()), str(folder / "clip.npy")]


DIFFUSERS = Peer("diffusers", "diffusers", command, "documentation of WanPipeline, 0.42; run here")
