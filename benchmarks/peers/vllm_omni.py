"""vLLM-Omni: its class for offline inference, as in its text-to-video example, by a script."""

from __future__ import annotations

import json
from pathlib import Path

from zoetrope.benchmarks.peers.peer import Peer, PeerWork

SCRIPT = Path(__file__).resolve().parent / "scripts" / "vllm_omni_offline.py"


def command(work: PeerWork, python: str, folder: Path) -> list[str]:
    """Return the command."""
    return [python, str(SCRIPT), json.dumps(work.to_dict()), str(folder / "clip.mp4")]


VLLM_OMNI = Peer(
    "vLLM-Omni", "vllm-omni", command, "written from the text-to-video example of vllm-omni 0.30.0, not run here"
)
