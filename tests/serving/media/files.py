"""Small media files of every kind that clients may send, and some that they may not."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.video.stream import VideoStream
from numpy.typing import NDArray
from PIL import Image
from pillow_heif import register_heif_opener

from zoetrope.serving.media.sandbox.sandbox import Examined, Sandbox

WIDTH, HEIGHT = 64, 48
BIT_RATE = {"b": "64k"}  # some encoders have none of their own
register_heif_opener()  # to write them


def examine(sandbox: Sandbox, path: Path, name: str = "the file") -> Examined:
    """What a sandbox says of a file, for tests without an event loop."""
    return asyncio.run(sandbox.examine(path, name=name))


def moving(frames: int, width: int = WIDTH, height: int = HEIGHT) -> NDArray[np.uint8]:
    """A smooth pattern that moves: uint8 ``[n, H, W, 3]``."""
    n, y, x = np.mgrid[:frames, :height, :width]
    pixels = np.stack([128 + 90 * np.sin(x / 9 + n), 128 + 90 * np.cos(y / 7 - n), (x + y + 5 * n) % 256], -1)
    return pixels.astype(np.uint8)


@contextmanager
def encoding() -> Iterator[None]:
    """SVT-AV1, run as root, makes the thread that encodes a real-time one for good, and so whatever that starts."""
    try:
        yield
    finally:
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))


@encoding()
def write_clip(
    path: Path,
    codec: str,
    frames: int = 6,
    sound: str | None = None,
    options: dict[str, str] | None = None,
    rate: int = 8,
) -> Path:
    """A clip; the container is the path's suffix."""
    with av.open(str(path), "w") as file:
        stream = file.add_stream(codec, rate=rate, options=options or {})
        assert isinstance(stream, VideoStream)
        stream.width, stream.height = WIDTH, HEIGHT
        stream.pix_fmt = {"prores_ks": "yuv422p10le", "mjpeg": "yuvj420p"}.get(codec, "yuv420p")
        audio = file.add_stream(sound, rate=48_000, layout="mono", options=BIT_RATE) if sound else None
        for pixels in moving(frames):
            file.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        file.mux(stream.encode(None))
        if audio is not None:
            _write_tone(file, audio, frames / rate)
    return path


def write_clip_with_sound(
    path: Path, codec: str = "aac", *, seconds: float = 0.75, first: float = 0.0, video_first: float = 0.0
) -> Path:
    """A clip of 0.75 s with a tone of so many ``seconds``, 0 for a track that holds nothing; each starts when it is
    told."""
    with av.open(str(path), "w") as file:
        stream = file.add_stream("libx264", rate=8)
        assert isinstance(stream, VideoStream)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        audio = file.add_stream(codec, rate=48_000, layout="mono", options=BIT_RATE)
        for index, pixels in enumerate(moving(6)):
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts = index + round(8 * video_first)
            file.mux(stream.encode(frame))
        file.mux(stream.encode(None))
        if seconds:
            _write_tone(file, audio, seconds, first=first)
    return path


def without_sound(directory: Path) -> dict[str, Path]:
    """Files whose sound cannot be put beside frames, by what is wrong with them."""
    damaged = write_clip_with_sound(directory / "damaged.mp4", seconds=3)
    content = bytearray(damaged.read_bytes())
    middle = len(content) * 6 // 10  # the sound stands behind the pictures
    content[middle : middle + 3_000] = np.random.default_rng(0).integers(0, 256, 3_000, np.uint8).tobytes()
    damaged.write_bytes(content)
    with av.open(str(directory / "empty.wav"), "w") as file:
        file.add_stream("pcm_s16le", rate=8_000, layout="mono")
        file.start_encoding()
    (directory / "text.wav").write_text("no sound")
    return {
        "a clip without a track": write_clip(directory / "silent.mp4", "libx264"),
        "a track without a sample": write_clip_with_sound(directory / "nothing.mkv", "flac", seconds=0),
        "a track that is over before the first frame": write_clip_with_sound(
            directory / "before.mkv", "flac", seconds=0.5, video_first=2.0
        ),
        "a damaged track": damaged,
        "a sound without a sample": directory / "empty.wav",
        "a picture": write_picture(directory / "picture.png"),
        "an animation": write_animation(directory / "animation.gif"),
        "a text": directory / "text.wav",
    }


def write_sound(path: Path, codec: str, seconds: float = 0.5, rate: int = 48_000) -> Path:
    """A tone, mono."""
    with av.open(str(path), "w") as file:
        _write_tone(file, file.add_stream(codec, rate=rate, layout="mono", options=BIT_RATE), seconds, rate)
    return path


def write_picture(path: Path) -> Path:
    """A picture; the format is the path's suffix."""
    Image.fromarray(moving(1)[0]).save(path)
    return path


def write_animation(path: Path, frames: int = 3, milliseconds: int = 100) -> Path:
    """A picture that moves; the format is the path's suffix."""
    first, *others = [Image.fromarray(pixels) for pixels in moving(frames)]
    lossless = path.suffix == ".webp"  # others take no notice
    first.save(path, save_all=True, append_images=others, duration=milliseconds, loop=0, lossless=lossless)
    return path


def slow_picture(path: Path) -> Path:
    """34 bytes of WebP that become 64,000,000 pixels, all black; it takes about a second."""
    path.write_bytes(bytes.fromhex("524946461a000000574542505650384c0e0000002f3fdfcf07071011fd0f4444ff03"))
    return path


def accepted(directory: Path) -> dict[str, Path]:
    """A picture, animation or clip of each decoder that clients' files meet most, by its name."""
    os.environ.setdefault("SVT_LOG", "1")  # an encoder that tells its life
    return {
        "mp4 h264": write_clip(directory / "a.mp4", "libx264", sound="aac"),
        "mp4 hevc": write_clip(directory / "b.mp4", "libx265", options={"x265-params": "log-level=none"}),
        "webm vp9": write_clip(directory / "c.webm", "libvpx-vp9"),
        "webm av1": write_clip(directory / "d.webm", "libsvtav1", options={"preset": "12"}),
        "png": write_picture(directory / "e.png"),
        "jpeg": write_picture(directory / "f.jpg"),
        "webp": write_picture(directory / "g.webp"),
        "heic": write_picture(directory / "h.heic"),
        "avif": write_picture(directory / "i.avif"),
        "animated gif": write_animation(directory / "j.gif"),
        "animated webp": write_animation(directory / "k.webp"),
    }


PICTURES = {
    "a.png": "image/png",
    "a.jpg": "image/jpeg",
    "a.webp": "image/webp",
    "a.gif": "image/gif",
    "a.bmp": "image/bmp",
    "a.tiff": "image/tiff",
    "a.avif": "image/avif",
    "a.heic": "image/heic",
}
ANIMATIONS = {f"moves.{name}": f"image/{name}" for name in ("gif", "webp", "png", "avif")}
CLIPS = {  # with the codec of the video and of the sound
    "h264.mp4": ("video/mp4", "libx264", "aac"),
    "hevc.mp4": ("video/mp4", "libx265", None),
    "av1.mp4": ("video/mp4", "libsvtav1", None),
    "mpeg4.mp4": ("video/mp4", "mpeg4", None),
    "h264.mov": ("video/quicktime", "libx264", "aac"),
    "prores.mov": ("video/quicktime", "prores_ks", "pcm_s16le"),
    "h264.3gp": ("video/3gpp", "libx264", "aac"),
    "h264.mkv": ("video/x-matroska", "libx264", "libopus"),
    "ffv1.mkv": ("video/x-matroska", "ffv1", None),
    "vp8.webm": ("video/webm", "libvpx", "libopus"),
    "vp9.webm": ("video/webm", "libvpx-vp9", None),
    "av1.webm": ("video/webm", "libsvtav1", None),
    "mpeg4.avi": ("video/x-msvideo", "mpeg4", "libmp3lame"),
    "mjpeg.avi": ("video/x-msvideo", "mjpeg", None),
    "h264.ts": ("video/mp2t", "libx264", "aac"),
    "mpeg2.mpg": ("video/mpeg", "mpeg2video", "mp2"),
    "h264.flv": ("video/x-flv", "libx264", "aac"),
    "vp8.ogv": ("video/ogg", "libvpx", "libopus"),
    "wmv2.wmv": ("video/x-ms-wmv", "wmv2", "wmav2"),
}
SOUNDS = {
    "a.wav": ("audio/wav", "pcm_s16le"),
    "a.w64": ("audio/x-w64", "pcm_s16le"),
    "a.aiff": ("audio/aiff", "pcm_s16be"),
    "a.caf": ("audio/x-caf", "pcm_s16le"),
    "a.flac": ("audio/flac", "flac"),
    "a.mp3": ("audio/mpeg", "libmp3lame"),
    "a.aac": ("audio/aac", "aac"),
    "a.m4a": ("audio/mp4", "aac"),
    "alac.m4a": ("audio/mp4", "alac"),
    "sound.mov": ("audio/mp4", "aac"),
    "sound.3gp": ("audio/3gpp", "aac"),
    "opus.ogg": ("audio/ogg", "libopus"),
    "sound.webm": ("audio/webm", "libopus"),
    "a.mka": ("audio/x-matroska", "flac"),
    "a.wma": ("audio/x-ms-wma", "wmav2"),
    "a.amr": ("audio/amr", "libopencore_amrnb"),
}


def taken(directory: Path) -> dict[Path, str]:
    """A file of each format that is taken, and its media type."""
    os.environ.setdefault("SVT_LOG", "1")
    quiet = {"libx265": {"x265-params": "log-level=none"}, "libsvtav1": {"preset": "12"}}
    files = {write_picture(directory / name): kind for name, kind in PICTURES.items()}
    files |= {write_animation(directory / name): kind for name, kind in ANIMATIONS.items()}
    for name, (kind, codec, sound) in CLIPS.items():
        rate = 25 if codec == "mpeg2video" else 8
        files[write_clip(directory / name, codec, sound=sound, options=quiet.get(codec), rate=rate)] = kind
    for name, (kind, codec) in SOUNDS.items():
        rate = 8_000 if codec == "libopencore_amrnb" else 48_000
        files[write_sound(directory / name, codec, rate=rate)] = kind
    return files


def _write_tone(
    file: av.container.OutputContainer, stream: object, seconds: float, rate: int = 48_000, first: float = 0.0
) -> None:
    assert isinstance(stream, av.AudioStream)
    count = round(rate * seconds)
    tone = (8_000 * np.sin(np.arange(count) / 20)).astype(np.int16)[None]
    resampler = av.AudioResampler(format=stream.format, layout="mono", rate=rate)
    size = stream.codec_context.frame_size or 1_024
    for start in range(0, count, size):
        frame = av.AudioFrame.from_ndarray(tone[:, start : start + size], format="s16", layout="mono")
        frame.sample_rate, frame.pts, frame.time_base = rate, start + round(first * rate), Fraction(1, rate)
        for piece in resampler.resample(frame):
            file.mux(stream.encode(piece))
    file.mux(stream.encode(None))
