"""What the tests of nano share besides fixtures."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch

from model.nano.oracle import Verdict
from model.nano.prompts import words_of
from model.nano.world import Scenes


def pixels(clip: torch.Tensor) -> npt.NDArray[np.uint8]:
    """``[3, F, H, W]`` in -1..1 -> ``[F, H, W, 3]`` uint8."""
    frames: npt.NDArray[np.uint8] = ((clip.clamp(-1, 1) + 1) * 127.5).round().byte().permute(1, 2, 3, 0).numpy()
    return frames


def misjudged(verdict: Verdict, scenes: Scenes, row: int) -> list[str]:
    """One line for each attribute of the scene that the oracle did not see."""
    return [
        f"{part} {wanted} seen as {getattr(verdict, part)}"
        for part, wanted in words_of(scenes, row).items()
        if getattr(verdict, part) != wanted
    ]
