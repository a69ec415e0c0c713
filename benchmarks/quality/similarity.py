"""How alike two clips look: SSIM, VMAF; and how much one clip flickers."""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
from pathlib import Path

import numpy as np
import torch

from zoetrope.benchmarks.errors import BenchmarkError
from zoetrope.benchmarks.kernels.peers import installed
from zoetrope.model.nano.cases import Frames

VMAF_LINES = 192  # to which smaller clips are scaled up: VMAF looks at a clip in halves of halves of halves
SECONDS = 120  # that ffmpeg may take for a clip


def ssim(exact: Frames, other: Frames) -> float:
    """Return the mean SSIM of frames ``[F, H, W, 3]``: of a Gaussian window of 11 pixels at every
    pixel, over all channels, with frames mirrored at their edges.

    It is computed in float64, because the variance of plain areas is a small difference of large numbers.

    Needs torchmetrics (the extra ``bench``).
    """
    from torchmetrics.functional.image import structural_similarity_index_measure

    one, two = (torch.from_numpy(clip.copy()).permute(0, 3, 1, 2).double() for clip in (other, exact))
    found = structural_similarity_index_measure(one, two, data_range=255.0)
    assert isinstance(found, torch.Tensor)  # without the full picture
    return float(found)


def steadiness(frames: Frames) -> float:
    """Return VBench's temporal flickering of frames ``[F, H, W, 3]``, of which 1 is none: (255 - MAE) / 255, with the
    mean over neighbouring frames of their mean absolute difference. A single frame has 1.

    VBench takes clips of things that do not move: of moving ones it counts the motion too.
    """
    if len(frames) < 2:
        return 1.0
    differences = np.abs(frames[1:].astype(np.float32) - frames[:-1]).mean((1, 2, 3))
    return float((255.0 - differences.mean()) / 255.0)


def find_ffmpeg(named: str | None = None) -> str:
    """Return an ffmpeg with libvmaf: ``named``, the one of the search path, or that of the package imageio-ffmpeg.

    Raises:
        BenchmarkError: there is none, or it lacks libvmaf.
    """
    candidates = [named] if named else [shutil.which("ffmpeg"), _packaged()]
    found = [path for path in candidates if path is not None]
    for path in found:
        if _has_vmaf(path):
            return path
    if not found:
        raise BenchmarkError("no ffmpeg was found: pip install '.[bench]' brings one with libvmaf")
    raise BenchmarkError(f"{' and '.join(found)}: cannot be run, or was built without libvmaf")


def _packaged() -> str | None:
    if installed("imageio_ffmpeg"):
        return None
    from imageio_ffmpeg import get_ffmpeg_exe

    return str(get_ffmpeg_exe())


def _has_vmaf(path: str) -> bool:
    try:
        listed = subprocess.run([path, "-hide_banner", "-filters"], capture_output=True, text=True, timeout=SECONDS)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return any(line.split()[1:2] == ["libvmaf"] for line in listed.stdout.splitlines())


def ffmpeg_version(path: str) -> str:
    """Return the version that an ffmpeg states."""
    said = subprocess.run([path, "-version"], capture_output=True, text=True, timeout=SECONDS).stdout.split()
    return said[2] if said[:2] == ["ffmpeg", "version"] and len(said) > 2 else "unknown"


def vmaf(ffmpeg: str, exact: Frames, other: Frames) -> float:
    """Return VMAF (0..100, the mean over the frames) of frames ``[F, H, W, 3]`` against the exact ones.

    Clips of fewer lines than `VMAF_LINES` are scaled up first, both in the same way (Lanczos, a whole factor).

    Raises:
        BenchmarkError: ffmpeg gave no figure.
    """
    _, height, width, _ = exact.shape
    factor = max(1, -(-VMAF_LINES // height))
    scaled = f"scale={width * factor}:{height * factor}:flags=lanczos,format=yuv420p"
    with tempfile.TemporaryDirectory() as folder:
        inputs: list[str] = []
        for name, clip in (("other", other), ("exact", exact)):  # what is judged comes first
            path = Path(folder, f"{name}.rgb")
            path.write_bytes(np.ascontiguousarray(clip).tobytes())
            inputs += ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{width}x{height}", "-r", "8", "-i", path.name]
        graph = f"[0:v]{scaled}[a];[1:v]{scaled}[b];[a][b]libvmaf=log_fmt=json:log_path=vmaf.json:n_threads=1"
        line = [ffmpeg, "-hide_banner", "-loglevel", "error", *inputs, "-lavfi", graph, "-f", "null", "-"]
        done = subprocess.run(line, cwd=folder, capture_output=True, text=True, timeout=SECONDS)
        log = Path(folder, "vmaf.json")
        if done.returncode or not log.is_file():
            raise BenchmarkError(f"{ffmpeg} failed at VMAF: {done.stderr.strip()[-200:]}")
        found = json.loads(log.read_text())
    if len(found["frames"]) != len(exact):
        raise BenchmarkError(f"{ffmpeg} compared {len(found['frames'])} frames of {len(exact)}")
    return float(found["pooled_metrics"]["vmaf"]["mean"])
