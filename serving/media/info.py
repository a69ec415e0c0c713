"""Probe a media file by decoding it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal

from zoetrope.serving.media.animations import count_frames, is_animation
from zoetrope.serving.media.clips import OpenClip, open_clip
from zoetrope.serving.media.containers import BOXES, is_faststart
from zoetrope.serving.media.contrast import ENOUGH, Contrast
from zoetrope.serving.media.errors import MediaError, NoVideo
from zoetrope.serving.media.pictures import open_picture, picture_format, upright_size
from zoetrope.serving.media.sound import SoundInfo, has_sound, probe_sound
from zoetrope.serving.media.streams import MAX_CLIP_SECONDS, TimedFrame, declared_seconds, open_media, video_stream
from zoetrope.serving.media.writer import ENCODINGS, Container


@dataclass(frozen=True)
class ProbedMedia:
    """What a picture or clip contains."""

    container: str  # a name from `serving.media.formats`; a picture's is its format, "png"
    codec: str
    pixel_format: str
    width: int  # as displayed: upright, with square pixels
    height: int
    frames: int  # counted by decoding them
    fps: float  # the average; 0 for a picture
    duration_seconds: float  # of the video track; 0 for a picture
    # Whether the index precedes the data, so that players can start before the whole file arrives; None: not MP4
    faststart: bool | None
    metadata: dict[str, str]  # the file's tags, by lower-case name
    kind: Literal["image", "clip"] = "clip"
    has_audio: bool = False  # a sound track that can be decoded and is not empty


def probe(path: Path, on_frame: Callable[[OpenClip, TimedFrame], None] | None = None) -> ProbedMedia:
    """Decode a whole picture or clip and describe it. Animated pictures (GIF, WebP, PNG, AVIF) are clips.

    Args:
        on_frame: called with each frame of a clip.

    Raises:
        MediaError: the file cannot be read, is neither a picture nor a video, is truncated or damaged as far as the
            decoder notices, changes its frame size, or exceeds a limit of `serving.media.pictures` or
            `serving.media.streams`, which ends decoding early.
    """
    picture = picture_format(path)
    if picture is not None and not is_animation(path):
        return _probe_picture(path, picture)
    with open_clip(path, MAX_CLIP_SECONDS) as clip:
        width, height = clip.shape.displayed
        frames, end = 0, Fraction(0)
        for item in clip.frames:
            frames, end = frames + 1, item.end
            if on_frame is not None:
                on_frame(clip, item)
        info = ProbedMedia(
            container=clip.container,
            codec=clip.codec,
            pixel_format=clip.pixel_format,
            width=width,
            height=height,
            frames=frames,
            fps=float(frames / end if picture is not None else clip.rate or 0),
            duration_seconds=float(end if clip.seconds is None else clip.seconds),
            faststart=is_faststart(path) if clip.container in BOXES else None,
            metadata=clip.metadata,
        )
    return replace(info, has_audio=picture is None and has_sound(path, MAX_CLIP_SECONDS))


def probe_any(path: Path) -> ProbedMedia | SoundInfo:
    """Decode a whole picture, clip or sound and describe it.

    Raises:
        MediaError: it is none of these, or as `probe` and `probe_sound`.
    """
    try:
        return probe(path)
    except NoVideo:
        return probe_sound(path, MAX_CLIP_SECONDS)


def pixels_to_decode(path: Path) -> int | None:
    """Estimate, without decoding, how many pixels `probe_any` will decode in all frames: 0 for sound alone and for
    files that will be refused, None if the file does not declare enough."""
    try:
        if picture_format(path) is not None:
            with open_picture(path) as image:
                return image.width * image.height * count_frames(image, path)
        with open_media(path) as file:
            stream = video_stream(file, path)
            seconds, rate = declared_seconds(file, stream), stream.average_rate or stream.guessed_rate
            frames = stream.frames or (None if seconds is None or rate is None else math.ceil(seconds * rate))
            return None if frames is None else stream.width * stream.height * frames
    except MediaError:
        return 0


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
) -> ProbedMedia:
    """Verify, by decoding it once, that a file is complete and has the given properties.

    Args:
        contrast: `Contrast.levels` of the frames that were written. If it is ENOUGH, the file must not be a single
            colour throughout; with less, it may (a prompt may ask for black).

    Raises:
        MediaError: something differs; the message lists everything that does.
    """
    seen = Contrast()

    def measure(clip: OpenClip, item: TimedFrame) -> None:
        if seen.levels < ENOUGH:
            seen.add(clip.rgb(item.frame)[None])

    info = probe(path, measure if contrast >= ENOUGH else None)
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
    # Half a frame of tolerance: Matroska counts whole milliseconds.
    if abs(info.duration_seconds - frames / fps) > 0.5 / fps:
        wrong.append(f"duration_seconds {info.duration_seconds:g} instead of {frames / fps:g}")
    if contrast >= ENOUGH and not seen.levels:
        wrong.append(f"nothing but the colour {seen.colour}, unlike the frames written")
    if wrong:
        raise MediaError(f"{path} has {', '.join(wrong)}")
    return info


def _probe_picture(path: Path, name: str) -> ProbedMedia:
    with open_picture(path) as image:
        image.load()
        width, height = upright_size(image)
        mode = image.mode
    return ProbedMedia(
        container=name.lower(),
        codec=name.lower(),
        pixel_format=mode,
        width=width,
        height=height,
        frames=1,
        fps=0.0,
        duration_seconds=0.0,
        faststart=None,
        metadata={},
        kind="image",
    )
