"""xDiT: its runner, the program `xdit`."""

from __future__ import annotations

from pathlib import Path

from zoetrope.benchmarks.peers.peer import NotRun, Peer, PeerWork, beside

# Text-to-video models of its registry (xfuser 0.7.0): it takes these names alone, and reads the hub's cache.
MODELS = ("Wan-AI/Wan2.1-T2V-14B-Diffusers", "Wan-AI/Wan2.2-T2V-A14B-Diffusers", "Wan-AI/Wan2.2-TI2V-5B-Diffusers")


def command(work: PeerWork, python: str, folder: Path) -> list[str]:
    """Return the command. The noise comes from a generator on the GPU: the clip is another one."""
    if work.hub_name not in MODELS:
        raise NotRun(f"it takes {', '.join(MODELS)} alone, by --hub-name")
    options = {
        "--model": work.hub_name,
        "--prompt": work.prompt,
        "--negative_prompt": work.negative,
        "--width": work.width,
        "--height": work.height,
        "--num_frames": work.frames,
        "--num_inference_steps": work.steps,
        "--guidance_scale": work.guidance,
        "--flow_shift": work.shift,
        "--seed": work.seed,
        "--output_directory": folder,
    }
    return [beside(python, "xdit"), *(str(part) for pair in options.items() for part in pair)]


XDIT = Peer("xDiT", "xfuser", command, "written from the options of xfuser 0.7.0, not run here")
