"""Open media files with FFmpeg, select streams, and decode video frames in order."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.audio.stream import AudioStream
from av.container import InputContainer
from av.stream import Disposition
from av.video.stream import VideoStream

from zoetrope.serving.media.containers import BOXES, ELEMENTS, check_segment, container_name, is_faststart
from zoetrope.serving.media.errors import MediaError, NoVideo
from zoetrope.serving.media.formats import CONTAINERS, SOUND_CODECS, SUPPORTED, VIDEO_CODECS, decoders, is_sound_codec

MAX_CLIP_PIXELS = 4096 * 2304  # per frame
MAX_CLIP_FRAMES = 7_200
MAX_CLIP_SECONDS = 120.0
MAX_CLIP_BYTES = 4 << 30  # of the decoded frames
# Tolerance for durations: containers round, and the last frame may last a little longer.
SLACK_SECONDS = Fraction(1, 20)


@dataclass(frozen=True)
class VideoShape:
    """How the frames of a stream are displayed."""

    width: int  # of the decoded frame, with square pixels
    height: int
    transposed: bool = False  # applied first: rows become columns
    mirrored: bool = False  # then, left and right are swapped
    upside_down: bool = False  # and top and bottom

    @property
    def displayed(self) -> tuple[int, int]:
        """Width and height."""
        return (self.height, self.width) if self.transposed else (self.width, self.height)


@dataclass(frozen=True)
class TimedFrame:
    """A decoded frame and its presentation interval, in seconds from the first frame."""

    frame: av.VideoFrame
    start: Fraction
    end: Fraction


@contextmanager
def open_media(path: Path) -> Iterator[InputContainer]:
    """Open a clip or sound for reading.

    Raises:
        MediaError: the file cannot be read, or is a truncated MP4 or Matroska file; also replaces FFmpeg's errors
            inside the context.
    """
    with ExitStack() as stack:
        try:
            source = stack.enter_context(path.open("rb"))
            file = av.open(
                source,
                "r",
                metadata_errors="replace",
                container_options={
                    "format_whitelist": ",".join(CONTAINERS),
                    "codec_whitelist": ",".join(decoders()),
                    "protocol_whitelist": "none",  # nothing but the file
                },
            )
            stack.enter_context(file)
        except (av.error.ArgumentError, av.error.InvalidDataError) as error:
            raise MediaError(f"cannot read {path}: damaged, or not one of the supported {SUPPORTED}") from error
        except (av.FFmpegError, OSError) as error:
            raise MediaError(f"cannot read {path}: {error.strerror}") from error
        try:
            container = container_name(file, path)
            if container in BOXES:
                is_faststart(path)
            elif container in ELEMENTS:
                check_segment(path)
            yield file
        except (av.FFmpegError, OSError) as error:
            raise MediaError(f"cannot read {path}: {error.strerror}") from error


def video_stream(file: InputContainer, path: Path) -> VideoStream:
    """Return the first video stream of a file, ignoring cover pictures.

    Raises:
        NoVideo: there is only sound.
        MediaError: there is no video, or its codec is not supported.
    """
    for stream in file.streams.video:
        if Disposition.attached_pic in stream.disposition:
            continue
        if stream.codec_context is None:
            raise MediaError(f"{path} has video with an unknown codec")
        codec = stream.codec_context.codec.canonical_name
        if codec not in VIDEO_CODECS:
            raise MediaError(f"{path} has {codec} video; supported codecs: {', '.join(VIDEO_CODECS)}")
        return stream
    if file.streams.audio:
        raise NoVideo(f"{path} has no video, only sound")
    raise MediaError(f"{path} has no video")


def sound_stream(file: InputContainer, path: Path) -> AudioStream:
    """Return the first sound stream that can be decoded: phones also write tracks with codecs of their own.

    Raises:
        MediaError: there is no sound, or none with a supported codec.
    """
    codecs = []
    for stream in file.streams.audio:
        codec = "unknown" if stream.codec_context is None else stream.codec_context.codec.canonical_name
        if is_sound_codec(codec):
            return stream
        codecs.append(codec)
    if codecs:
        known = ", ".join(SOUND_CODECS)
        raise MediaError(f"{path} has {', '.join(codecs)} sound; supported codecs: PCM, {known}")
    raise MediaError(f"{path} has no sound")


def declared_seconds(file: InputContainer, stream: VideoStream) -> Fraction | None:
    """Return the duration of the video that the container declares; None if it does not, or may mean the sound."""
    if stream.duration is not None and stream.time_base is not None:
        return stream.duration * stream.time_base
    if file.duration is not None and not file.streams.audio:
        return Fraction(file.duration, av.time_base)
    return None


def decode(file: InputContainer, stream: VideoStream, path: Path, max_seconds: float) -> Iterator[TimedFrame]:
    """Yield all frames in presentation order; at least one.

    Raises:
        MediaError: as `serving.media.read_clip`.
    """
    declared = declared_seconds(file, stream)
    if declared is not None:
        check_seconds(path, declared, max_seconds)
    check_count(path, stream.frames)  # the declared number, 0 if the container has none
    context = stream.codec_context
    check_size(path, context.width, context.height)
    context.options = {"err_detect": "explode"}  # otherwise decoders conceal damage
    period = 1 / (stream.average_rate or stream.guessed_rate or Fraction(25))
    size: tuple[int, int] | None = None
    origin = end = Fraction(0)
    count = 0
    for packet in file.demux(stream):
        if packet.is_corrupt:
            raise MediaError(f"{path} is truncated or damaged after frame {count}")
        for frame in packet.decode():
            if size is None:
                size = (frame.width, frame.height)
                check_size(path, *shape_of(frame, stream).displayed)
            if (frame.width, frame.height) != size:
                raise MediaError(f"{path}: frame {count} is {frame.width}x{frame.height}, not {size[0]}x{size[1]}")
            base = frame.time_base or stream.time_base
            if frame.pts is None or base is None:
                start = end  # right after the previous frame
            else:
                time = frame.pts * base
                if count == 0:
                    origin = time
                start = time - origin
            end = start + (frame.duration * base if frame.duration and base is not None else period)
            check_seconds(path, end, max_seconds)
            count += 1
            check_count(path, count)
            yield TimedFrame(frame, start, end)
    if not count:
        raise MediaError(f"{path} has no decodable frame")


def shape_of(frame: av.VideoFrame, stream: VideoStream) -> VideoShape:
    """Derive the display shape from the size, pixel aspect ratio and display matrix of a stream's first frame."""
    width = frame.width
    aspect = stream.sample_aspect_ratio
    if aspect:
        width = max(1, round(width * aspect))
    matrix: Any = frame.side_data.get("DISPLAYMATRIX")
    # Rows of the matrix are a b u, c d v, x y w: pixel (p, q) is displayed at (a p + c q, b p + d q).
    a, b, _, c, d = np.frombuffer(bytes(matrix), np.int32)[:5].tolist() if matrix is not None else (1, 0, 0, 0, 1)
    transposed = abs(b) + abs(c) > abs(a) + abs(d)
    across, down = (c, b) if transposed else (a, d)
    return VideoShape(width, frame.height, transposed, across < 0, down < 0)


def check_size(path: Path, width: int, height: int) -> None:
    """Raise MediaError if frames have more than MAX_CLIP_PIXELS."""
    if width * height > MAX_CLIP_PIXELS:
        raise MediaError(
            f"{path} has frames of {width}x{height}, {width * height} pixels; the limit is {MAX_CLIP_PIXELS}"
        )


def check_count(path: Path, count: int) -> None:
    """Raise MediaError if there are more than MAX_CLIP_FRAMES."""
    if count > MAX_CLIP_FRAMES:
        raise MediaError(f"{path} has more than {MAX_CLIP_FRAMES} frames, the limit")


def check_seconds(path: Path, seconds: Fraction, limit: float) -> None:
    """Raise MediaError if a clip lasts longer than ``limit`` seconds."""
    if seconds > Fraction(limit) + SLACK_SECONDS:
        raise MediaError(f"{path} lasts {float(seconds):.3f} s or more, the limit is {limit:g} s")
