"""LightX2V: `python -m lightx2v.infer`, with a configuration file beside the clip."""

from __future__ import annotations

import json
from pathlib import Path

from zoetrope.benchmarks.peers.peer import NotRun, Peer, PeerWork


def command(work: PeerWork, python: str, folder: Path) -> list[str]:
    """Write the configuration, and return the command."""
    if not work.original:
        raise NotRun("it reads the layout of Wan's own releases, by --original")
    config = {
        "infer_steps": work.steps,
        "target_video_length": work.frames,
        "text_len": 512,
        "target_height": work.height,
        "target_width": work.width,
        "self_attn_1_type": "flash_attn3",
        "cross_attn_1_type": "flash_attn3",
        "cross_attn_2_type": "flash_attn3",
        "sample_guide_scale": work.guidance,
        "sample_shift": work.shift,
        "enable_cfg": work.guidance > 1,
        "cpu_offload": False,
    }
    path = folder / "config.json"
    path.write_text(json.dumps(config))
    options = {
        "--model_cls": "wan2.1",
        "--task": "t2v",
        "--model_path": work.original,
        "--config_json": path,
        "--prompt": work.prompt,
        "--negative_prompt": work.negative,
        "--seed": work.seed,
        "--save_result_path": folder / "clip.mp4",
    }
    return [python, "-m", "lightx2v.infer", *(str(part) for pair in options.items() for part in pair)]


LIGHTX2V = Peer(
    "LightX2V",
    "lightx2v",
    command,
    "written from scripts/wan/run_wan_t2v.sh and configs/wan/wan_t2v.json of its sources of summer 2026, not run here",
)
