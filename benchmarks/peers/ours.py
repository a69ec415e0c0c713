"""Ours: `zoetrope generate --local`."""

from __future__ import annotations

from pathlib import Path

from zoetrope.benchmarks.peers.peer import Peer, PeerWork


def command(work: PeerWork, python: str, folder: Path) -> list[str]:
    """Return the command; the file is lossless."""
    options = {
        "--model": work.model,
        "--size": f"{work.width}x{work.height}",
        "--frames": work.frames,
        "--steps": work.steps,
        "--guidance": work.guidance,
        "--negative": work.negative,
        "--seed": work.seed,
        "--out": folder / "clip.mkv",
    }
    line = [python, "-m", "zoetrope.serving.cli", "generate", work.prompt, "--local", "--quiet"]
    return [*line, *(str(part) for pair in options.items() for part in pair)]


OURS = Peer("zoetrope", "zoetrope", command, "docs/quick-start.md; run here")
