"""Small media files of every kind that clients may send, and some that they may not."""

from __future__ import annotations

import os
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.video.stream import VideoStream
from numpy.typing import NDArray
from PIL import Image

WIDTH, HEIGHT = 64, 48


def moving(frames: int, width: int = WIDTH, height: int = HEIGHT) -> NDArray[np.uint8]:
    """A smooth pattern that moves: uint8 ``[n, H, W, 3]``."""
    n, y, x = np.mgrid[:frames, :height, :width]
    pixels = np.stack([128 + 90 * np.sin(x / 9 + n), 128 + 90 * np.cos(y / 7 - n), (x + y + 5 * n) % 256], -1)
    return pixels.astype(np.uint8)


def write_clip(
    path: Path, codec: str, frames: int = 6, sound: str | None = None, options: dict[str, str] | None = None
) -> Path:
    """A clip at 8 frames a second; the container is the path's suffix."""
    with av.open(str(path), "w") as file:
        stream = file.add_stream(codec, rate=8, options=options or {})
        assert isinstance(stream, VideoStream)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        audio = file.add_stream(sound, rate=48_000, layout="mono") if sound else None
        for pixels in moving(frames):
            file.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        file.mux(stream.encode(None))
        if audio is not None:
            _write_tone(file, audio, frames / 8)
    return path


def write_sound(path: Path, codec: str, seconds: float = 0.5) -> Path:
    """A tone, mono."""
    with av.open(str(path), "w") as file:
        _write_tone(file, file.add_stream(codec, rate=48_000, layout="mono"), seconds)
    return path


def write_picture(path: Path) -> Path:
    """A picture; the format is the path's suffix."""
    Image.fromarray(moving(1)[0]).save(path)
    return path


def accepted(directory: Path) -> dict[str, Path]:
    """One file of each format that clients may send, by its name."""
    os.environ.setdefault("SVT_LOG", "1")  # an encoder that tells its life
    return {
        "mp4 h264": write_clip(directory / "a.mp4", "libx264", sound="aac"),
        "mp4 hevc": write_clip(directory / "b.mp4", "libx265", options={"x265-params": "log-level=none"}),
        "webm vp9": write_clip(directory / "c.webm", "libvpx-vp9"),
        "webm av1": write_clip(directory / "d.webm", "libsvtav1", options={"preset": "12"}),
        "png": write_picture(directory / "e.png"),
        "jpeg": write_picture(directory / "f.jpg"),
        "webp": write_picture(directory / "g.webp"),
    }


def _write_tone(file: av.container.OutputContainer, stream: object, seconds: float) -> None:
    assert isinstance(stream, av.AudioStream)
    count = round(48_000 * seconds)
    tone = (8_000 * np.sin(np.arange(count) / 20)).astype(np.int16)[None]
    resampler = av.AudioResampler(format=stream.format, layout="mono", rate=48_000)
    size = stream.codec_context.frame_size or 1_024
    for start in range(0, count, size):
        frame = av.AudioFrame.from_ndarray(tone[:, start : start + size], format="s16", layout="mono")
        frame.sample_rate, frame.pts, frame.time_base = 48_000, start, Fraction(1, 48_000)
        for piece in resampler.resample(frame):
            file.mux(stream.encode(piece))
    file.mux(stream.encode(None))
