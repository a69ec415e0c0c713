"""Files that FFmpeg reads: their streams, and the frames of a video in order."""

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

from serving.media.containers import BOXES, ELEMENTS, check_segment, container_name, is_faststart
from serving.media.errors import MediaError, NoVideo
from serving.media.formats import CONTAINERS, SOUND_CODECS, TAKEN, VIDEO_CODECS, decoders, is_sound_codec

MAX_CLIP_PIXELS = 4096 * 2304  # of a frame
MAX_CLIP_FRAMES = 7_200  # of a file
MAX_CLIP_SECONDS = 120.0  # of a file
MAX_CLIP_BYTES = 4 << 30  # of the frames that are read from it
# A clip may be this much longer than asked for: containers round, and a last frame may last a little longer.
SLACK_SECONDS = Fraction(1, 20)


@dataclass(frozen=True)
class Shape:
    """How the frames of a stream are shown."""

    width: int  # of the frame as it is decoded, with square pixels
    height: int
    transposed: bool = False  # then, rows become columns
    mirrored: bool = False  # then, left and right change places
    upside_down: bool = False  # and above and below

    @property
    def displayed(self) -> tuple[int, int]:
        """Width and height."""
        return (self.height, self.width) if self.transposed else (self.width, self.height)


@dataclass(frozen=True)
class Timed:
    """A decoded frame and when it is shown, in seconds from the first one."""

    frame: av.VideoFrame
    start: Fraction
    end: Fraction


@contextmanager
def open_media(path: Path) -> Iterator[InputContainer]:
    """Open a file with pictures in motion or sound, for reading.

    Raises:
        MediaError: it cannot be read, or is an MP4 or Matroska file that is cut short; FFmpeg's errors inside the
            context become one, too.
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
                    "protocol_whitelist": "none",  # nothing beside the file
                },
            )
            stack.enter_context(file)
        except (av.error.ArgumentError, av.error.InvalidDataError) as error:
            raise MediaError(f"cannot read {path}: damaged, or none of the {TAKEN}") from error
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
    """Find the first video of a file; cover pictures are none.

    Raises:
        NoVideo: there is only sound.
        MediaError: there is none, or none that can be decoded.
    """
    for stream in file.streams.video:
        if Disposition.attached_pic in stream.disposition:
            continue
        if stream.codec_context is None:
            raise MediaError(f"{path} has video of an unknown codec")
        codec = stream.codec_context.codec.canonical_name
        if codec not in VIDEO_CODECS:
            raise MediaError(f"{path} has video as {codec}, which is none of {', '.join(VIDEO_CODECS)}")
        return stream
    if file.streams.audio:
        raise NoVideo(f"{path} has no video, only sound")
    raise MediaError(f"{path} has no video")


def sound_stream(file: InputContainer, path: Path) -> AudioStream:
    """Find the first sound that can be decoded: phones put tracks of their own kinds beside those for everybody.

    Raises:
        MediaError: there is none.
    """
    codecs = []
    for stream in file.streams.audio:
        codec = "unknown" if stream.codec_context is None else stream.codec_context.codec.canonical_name
        if is_sound_codec(codec):
            return stream
        codecs.append(codec)
    if codecs:
        known = ", ".join(SOUND_CODECS)
        raise MediaError(f"{path} has sound as {', '.join(codecs)}, which is neither PCM nor one of {known}")
    raise MediaError(f"{path} has no sound")


def declared_seconds(file: InputContainer, stream: VideoStream) -> Fraction | None:
    """Tell how long the video is by the container's word. None: it does not say, or may mean the sound."""
    if stream.duration is not None and stream.time_base is not None:
        return stream.duration * stream.time_base
    if file.duration is not None and not file.streams.audio:
        return Fraction(file.duration, av.time_base)
    return None


def decode(file: InputContainer, stream: VideoStream, path: Path, max_seconds: float) -> Iterator[Timed]:
    """Yield all frames in the order in which they are shown; at least one.

    Raises:
        MediaError: see `serving.media.read_clip`.
    """
    declared = declared_seconds(file, stream)
    if declared is not None:
        check_seconds(path, declared, max_seconds)
    check_count(path, stream.frames)  # by the container's word, 0 where it does not say
    context = stream.codec_context
    check_size(path, context.width, context.height)
    context.options = {"err_detect": "explode"}  # otherwise a decoder covers up what it finds damaged
    period = 1 / (stream.average_rate or stream.guessed_rate or Fraction(25))
    size: tuple[int, int] | None = None
    origin = end = Fraction(0)
    count = 0
    for packet in file.demux(stream):
        if packet.is_corrupt:
            raise MediaError(f"{path} is cut short or damaged after frame {count}")
        for frame in packet.decode():
            if size is None:
                size = (frame.width, frame.height)
                check_size(path, *shape_of(frame, stream).displayed)
            if (frame.width, frame.height) != size:
                raise MediaError(f"{path}: frame {count} is {frame.width}x{frame.height}, not {size[0]}x{size[1]}")
            base = frame.time_base or stream.time_base
            if frame.pts is None or base is None:
                start = end  # right after the one before
            else:
                time = frame.pts * base
                if count == 0:
                    origin = time
                start = time - origin
            end = start + (frame.duration * base if frame.duration and base is not None else period)
            check_seconds(path, end, max_seconds)
            count += 1
            check_count(path, count)
            yield Timed(frame, start, end)
    if not count:
        raise MediaError(f"{path} has no frame that can be decoded")


def shape_of(frame: av.VideoFrame, stream: VideoStream) -> Shape:
    """Derive it from the size, the aspect ratio of a pixel and the display matrix of a stream's first frame."""
    width = frame.width
    aspect = stream.sample_aspect_ratio
    if aspect:
        width = max(1, round(width * aspect))
    matrix: Any = frame.side_data.get("DISPLAYMATRIX")
    # Row by row a, b, u, c, d, v, x, y, w: a pixel (p, q) is shown at (a p + c q, b p + d q).
    a, b, _, c, d = np.frombuffer(bytes(matrix), np.int32)[:5].tolist() if matrix is not None else (1, 0, 0, 0, 1)
    transposed = abs(b) + abs(c) > abs(a) + abs(d)
    across, down = (c, b) if transposed else (a, d)
    return Shape(width, frame.height, transposed, across < 0, down < 0)


def check_size(path: Path, width: int, height: int) -> None:
    """Raise MediaError when frames are larger than MAX_CLIP_PIXELS."""
    if width * height > MAX_CLIP_PIXELS:
        raise MediaError(
            f"{path} has frames of {width}x{height}, {width * height} pixels; the limit is {MAX_CLIP_PIXELS}"
        )


def check_count(path: Path, count: int) -> None:
    """Raise MediaError when there are more than MAX_CLIP_FRAMES."""
    if count > MAX_CLIP_FRAMES:
        raise MediaError(f"{path} has more than {MAX_CLIP_FRAMES} frames, the limit")


def check_seconds(path: Path, seconds: Fraction, limit: float) -> None:
    """Raise MediaError when a clip lasts longer than ``limit``."""
    if seconds > Fraction(limit) + SLACK_SECONDS:
        raise MediaError(f"{path} lasts {float(seconds):.3f} s or more, the limit is {limit:g} s")
