"""SGLang-Diffusion: `sglang generate`."""

from __future__ import annotations

from pathlib import Path

from zoetrope.benchmarks.peers.peer import Peer, PeerWork, beside


def command(work: PeerWork, python: str, folder: Path) -> list[str]:
    """Return the command. The noise comes from a CPU generator, as diffusers' does here."""
    options = {
        "--model-path": work.model,
        "--prompt": work.prompt,
        "--negative-prompt": work.negative,
        "--width": work.width,
        "--height": work.height,
        "--num-frames": work.frames,
        "--num-inference-steps": work.steps,
        "--guidance-scale": work.guidance,
        "--flow-shift": work.shift,
        "--seed": work.seed,
        "--generator-device": "cpu",
        "--num-gpus": 1,
        "--output-file-path": folder / "clip.mp4",
    }
    line = [beside(python, "sglang"), "generate", "--save-output"]
    return [*line, *(str(part) for pair in options.items() for part in pair)]


SGLANG = Peer("SGLang-Diffusion", "sglang", command, "written from the options of sglang 0.5.23, not run here")
