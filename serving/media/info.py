"""What a file holds, found by decoding it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal

from serving.media.animations import count_frames, is_animation
from serving.media.clips import OpenClip, open_clip
from serving.media.containers import BOXES, is_faststart
from serving.media.contrast import ENOUGH, Contrast
from serving.media.errors import MediaError, NoVideo
from serving.media.pictures import open_picture, picture_format, upright_size
from serving.media.sound import SoundInfo, has_sound, probe_sound
from serving.media.streams import MAX_CLIP_SECONDS, Timed, declared_seconds, open_media, video_stream
from serving.media.writer import ENCODINGS, Container


@dataclass(frozen=True)
class MediaInfo:
    """What a file holds."""

    container: str  # as `serving.media.formats` lists them; of a picture its format, "png"
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
    has_audio: bool = False  # a track that can be decoded, and holds something


def probe(path: Path, look: Callable[[OpenClip, Timed], None] | None = None) -> MediaInfo:
    """Decode a whole file and say what it holds. Animated pictures (GIF, WebP, PNG, AVIF) are clips.

    Args:
        look: is shown each frame of a clip.

    Raises:
        MediaError: it cannot be read, is neither a picture nor a video, is cut short, a frame has another size, it is
            damaged as far as the decoder notices, or it breaks a limit of `serving.media.pictures` or
            `serving.media.clips`, which is found before everything is decoded.
    """
    picture = picture_format(path)
    if picture is not None and not is_animation(path):
        return _probe_picture(path, picture)
    with open_clip(path, MAX_CLIP_SECONDS) as clip:
        width, height = clip.shape.displayed
        frames, end = 0, Fraction(0)
        for item in clip.frames:
            frames, end = frames + 1, item.end
            if look is not None:
                look(clip, item)
        info = MediaInfo(
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


def probe_any(path: Path) -> MediaInfo | SoundInfo:
    """Decode a whole picture, clip or sound and say what it is.

    Raises:
        MediaError: none of them that can be used; a sound lasts longer than MAX_CLIP_SECONDS.
    """
    try:
        return probe(path)
    except NoVideo:
        return probe_sound(path, MAX_CLIP_SECONDS)


def pixels_to_decode(path: Path) -> int | None:
    """Estimate, by what a file says of itself and with none of it decoded, how many pixels `probe_any` will decode in
    all frames together: 0 for sound alone, and where nothing will come of it. None: it does not say."""
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

    def look(clip: OpenClip, item: Timed) -> None:
        if seen.levels < ENOUGH:
            seen.add(clip.rgb(item.frame)[None])

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
    with open_picture(path) as image:
        image.load()
        width, height = upright_size(image)
        mode = image.mode
    return MediaInfo(
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
