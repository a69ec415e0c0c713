"""What a file holds, found by decoding it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, Literal

import av

from serving.media.clips import MAX_CLIP_SECONDS, Shape, decode, open_media, shape_of, to_rgb, video_stream
from serving.media.containers import container_name, is_faststart
from serving.media.contrast import ENOUGH, Contrast
from serving.media.errors import MediaError
from serving.media.pictures import load_picture, picture_format
from serving.media.writer import ENCODINGS, Container


@dataclass(frozen=True)
class MediaInfo:
    """What a file holds."""

    container: str  # "mp4", "mkv", or FFmpeg's name of another one; of a picture its format, "png"
    codec: str
    pixel_format: str
    width: int  # as displayed: upright, with square pixels
    height: int
    frames: int  # counted by decoding them
    fps: float  # the average; 0 for a picture
    duration_seconds: float  # of the video, whatever the length of the sound; 0 for a picture
    # The index precedes the data, so that players start before the end has arrived; None: not MP4
    faststart: bool | None
    metadata: dict[str, str]  # the file's tags, their names in lower case
    kind: Literal["image", "clip"] = "clip"
    has_audio: bool = False


def probe(path: Path, look: Callable[[av.VideoFrame, Shape], None] | None = None) -> MediaInfo:
    """Decode a whole file and say what it holds. Animated pictures (GIF, WebP, PNG) are images of one frame.

    Args:
        look: is shown each frame of a video.

    Raises:
        MediaError: it cannot be read, is neither a picture nor a video, is cut short, a frame has another size, it is
            damaged as far as the decoder notices, or it breaks a limit of `serving.media.pictures` or
            `serving.media.clips`, which is found before everything is decoded.
    """
    picture = picture_format(path)
    if picture is not None:
        return _probe_picture(path, picture)
    with open_media(path) as file:
        container = container_name(file.format.name)
        stream = video_stream(file, path)
        context = stream.codec_context
        timed = decode(file, stream, path, MAX_CLIP_SECONDS)
        first = next(timed)
        shape = shape_of(first.frame, stream)
        width, height = shape.displayed
        frames, end = 0, first.end
        for item in chain((first,), timed):
            frames, end = frames + 1, item.end
            if look is not None:
                look(item.frame, shape)
        seconds = float(end)
        if stream.duration is not None and stream.time_base is not None:
            seconds = float(stream.duration * stream.time_base)
        elif file.duration and not file.streams.audio:
            seconds = file.duration / av.time_base
        return MediaInfo(
            container=container,
            codec=context.codec.canonical_name,
            pixel_format=context.pix_fmt or "",
            width=width,
            height=height,
            frames=frames,
            fps=float(stream.average_rate or 0),
            duration_seconds=seconds,
            faststart=is_faststart(path) if container == "mp4" else None,
            metadata={name.lower(): value for name, value in file.metadata.items()},
            has_audio=bool(file.streams.audio),
        )


def verify(
    path: Path,
    *,
    container: Container,
    width: int,
    height: int,
    frames: int,
    fps: int,
    audio: bool = False,
    contrast: int = 0,
) -> MediaInfo:
    """Check that a file is complete and what VideoWriter was to write, with a sound track or without. It is decoded
    once.

    Args:
        contrast: `Contrast.levels` of the frames that were written. Where there was much to see in them, the file must
            not be one colour throughout; where there was little (a prompt may ask for black), it may.

    Raises:
        MediaError: names everything that differs.
    """
    seen = Contrast()

    def look(frame: av.VideoFrame, shape: Shape) -> None:
        if seen.levels < ENOUGH:
            seen.add(to_rgb(frame, shape)[None])

    info = probe(path, look if contrast >= ENOUGH else None)
    encoding = ENCODINGS[container]
    wanted: dict[str, Any] = {
        "container": container,
        "codec": encoding.codec,
        "pixel_format": encoding.pixel_format,
        "width": width,
        "height": height,
        "frames": frames,
        "faststart": True if container == "mp4" else None,
        "has_audio": audio,
    }
    wrong = [
        f"{name} {getattr(info, name)} instead of {value}"
        for name, value in wanted.items()
        if getattr(info, name) != value
    ]
    if not math.isclose(info.fps, fps, rel_tol=1e-3):
        wrong.append(f"fps {info.fps:g} instead of {fps}")
    # Half a frame: Matroska counts whole milliseconds.
    if abs(info.duration_seconds - frames / fps) > 0.5 / fps:
        wrong.append(f"duration_seconds {info.duration_seconds:g} instead of {frames / fps:g}")
    if contrast >= ENOUGH and not seen.levels:
        wrong.append(f"nothing but the colour {seen.colour}, which the frames had not")
    if wrong:
        raise MediaError(f"{path} has {', '.join(wrong)}")
    return info


def _probe_picture(path: Path, name: str) -> MediaInfo:
    image = load_picture(path)
    return MediaInfo(
        container=name.lower(),
        codec=name.lower(),
        pixel_format=image.mode,
        width=image.width,
        height=image.height,
        frames=1,
        fps=0.0,
        duration_seconds=0.0,
        faststart=None,
        metadata={},
        kind="image",
    )
