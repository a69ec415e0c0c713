"""The jobs: small ones of several tasks, shapes, lengths and step counts, the same in every run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from zoetrope.serving.media import VideoWriter

PROMPT = "a red circle moving right on a white background"
KINDS = ("text_to_video", "image_to_video", "reference_to_video", "edit_video")
RATIOS = ("16:9", "1:1", "9:16", "4:3")
STEPS = (8, 12, 20)
FEW_STEPS = (1, 2, 3)  # of a run whose figures mean nothing
FRAMES = (9, 13, 16)
DENSE_SIZES = ((96, 64), (64, 64), (64, 96), (96, 96))  # width, height
DENSE_FRAMES = (9, 13, 17)
GUIDANCE = 4.0
SIDE, CLIP_FRAMES, FPS = 64, 16, 8


def write_media(folder: Path) -> None:
    """Write the picture and the clip that the jobs refer to."""
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)).save(folder / "picture.png")
    with VideoWriter(folder / "clip.mp4", SIDE, SIDE, FPS, "mp4", {}) as writer:
        writer.write(rng.integers(0, 256, (CLIP_FRAMES, SIDE, SIDE, 3), dtype=np.uint8))


def mixed_jobs(count: int, folder: Path, steps: Sequence[int] = STEPS) -> list[dict[str, Any]]:
    """Return requests for nano: four tasks in four shapes, with three lengths and three step counts."""
    picture, clip = str(folder / "picture.png"), str(folder / "clip.mp4")
    inputs: dict[str, dict[str, Any]] = {
        "text_to_video": {},
        "image_to_video": {"image": picture},
        "reference_to_video": {"references": (picture,)},
        "edit_video": {"video": clip},
    }
    jobs = []
    for number in range(count):
        kind = KINDS[number % 4]
        length: dict[str, Any] = {"frames": FRAMES[number // 3 % 3]} if kind != "edit_video" else {}
        shape: dict[str, Any] = {"ratio": RATIOS[number // 4 % 4]} if kind in KINDS[::2] else {}
        task = {"kind": kind, "prompt": PROMPT, **inputs[kind]}
        jobs.append({"task": task, **length, **shape, "steps": steps[number % 3], "seed": number})
    return jobs


def dense_jobs(count: int, steps: Sequence[int] = STEPS) -> list[dict[str, Any]]:
    """Return text-to-video requests for the dense model: four sizes, three lengths and three step counts."""
    jobs = []
    for number in range(count):
        width, height = DENSE_SIZES[number % 4]
        jobs.append(
            {
                "prompt": PROMPT,
                "negative_prompt": "",
                "size": f"{width}x{height}",
                "frames": DENSE_FRAMES[number // 12 % 3],
                "steps": steps[number % 3],
                "guidance": GUIDANCE,
                "seed": number,
            }
        )
    return jobs
