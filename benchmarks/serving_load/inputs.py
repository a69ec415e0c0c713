"""The pictures and clips that jobs refer to: seeded noise of the right size."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from zoetrope.benchmarks.simulate.trace import TraceJob

SIDE = 64  # of references and of a grid's panels, in pixels


class InputFiles:
    """Files in a folder, each made when it is asked for."""

    def __init__(self, folder: Path, fps: int) -> None:
        self._folder, self._fps = folder, fps

    def of(self, job: TraceJob) -> dict[str, Path | list[Path]]:
        """Return the media of a job's task, by the names of our API's fields."""
        match job.task:
            case "image_to_video":
                return {"image": self.picture(job.width, job.height)}
            case "first_last_frame":
                first, last = (self.picture(job.width, job.height, number) for number in (0, 1))
                return {"first_frame": first, "last_frame": last}
            case "grid_to_video":
                return {"panels": [self.picture(3 * SIDE, 3 * SIDE)]}
            case "reference_to_video":
                return {"references": [self.picture(SIDE, SIDE, number) for number in range(max(1, job.references))]}
            case "edit_video":
                return {"video": self.clip(job.width, job.height, job.frames)}
            case _:
                return {}

    def picture(self, width: int, height: int, number: int = 0) -> Path:
        path = self._folder / f"picture-{width}x{height}-{number}.png"
        if not path.exists():
            from PIL import Image

            Image.fromarray(_noise(number, height, width, 3)).save(path)
        return path

    def clip(self, width: int, height: int, frames: int) -> Path:
        path = self._folder / f"clip-{width}x{height}-{frames}.mp4"
        if not path.exists():
            from zoetrope.serving.media import VideoWriter

            with VideoWriter(path, width, height, self._fps, "mp4", {}) as writer:
                writer.write(_noise(0, frames, height, width, 3))
        return path


def _noise(seed: int, *shape: int) -> Any:
    """Return smooth noise, uint8 of the shape: coarse cells, which codecs can compress."""
    import numpy as np

    rng = np.random.default_rng(seed)
    *front, height, width, channels = shape
    coarse = rng.integers(0, 256, (*front, -(-height // 8), -(-width // 8), channels), dtype=np.uint8)
    return coarse.repeat(8, axis=-3).repeat(8, axis=-2)[..., :height, :width, :].copy()
