"""Clips from outside to RGB frames at a constant rate."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, TypeVar

import av
import numpy as np
from av.container import InputContainer
from av.stream import Disposition
from av.video.reformatter import ColorRange, Colorspace, Interpolation
from av.video.stream import VideoStream

from model.fit import Frames, resize_cover
from model.inputs import Clip
from serving.media.containers import check_segment, container_name, is_faststart
from serving.media.errors import MediaError, NoVideo
from serving.media.pictures import picture_format

T = TypeVar("T")

MAX_CLIP_PIXELS = 4096 * 2304  # of a frame
MAX_CLIP_FRAMES = 7_200  # of a file
MAX_CLIP_SECONDS = 120.0  # of a file
MAX_CLIP_BYTES = 4 << 30  # of the frames that are read from it
# A clip may be this much longer than asked for: containers round, and a last frame may last a little longer.
SLACK_SECONDS = Fraction(1, 20)

# What FFmpeg may take a file for. Playlists are not among them: they name other files, and addresses.
CONTAINERS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,flv,ogg,asf,wav,w64,aiff,mp3,flac,aac"

TO_RGB = int(Interpolation.BICUBIC | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INP | Interpolation.BITEXACT)
UNSPECIFIED = 2  # of a frame's colour space
HD_HEIGHT = 720  # from here on players take an unspecified colour space for BT.709, below for BT.601


@dataclass(frozen=True)
class Shape:
    """How the frames of a stream are shown."""

    width: int  # of the frame as it is decoded, with square pixels
    height: int
    transposed: bool  # then, rows become columns
    mirrored: bool  # then, left and right change places
    upside_down: bool  # and above and below

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


def read_clip(path: Path, *, fps: float | None = None, max_seconds: float, size: tuple[int, int] | None = None) -> Clip:
    """Decode a clip: upright, square pixels, 8-bit RGB, constant rate.

    Any size, chroma and bit depth is taken; sizes may be odd. What lies beyond BT.709's or BT.601's colours is not
    mapped, alpha is dropped, sound is left out (`serving.media.sound` reads it).

    Args:
        fps: the rate of the result: at each of its ticks, the frame whose presentation time is the nearest (the earlier
            one of two). None: the frames as they are, at their average rate.
        max_seconds: a longer clip is refused.
        size: width and height that the frames are fitted to as they come (`model.fit.resize_cover`), so that a large
            clip is never in memory as a whole.

    Raises:
        MediaError: the file cannot be read, is a picture, has no video, is cut short or damaged, changes its size,
            lasts longer than ``max_seconds``, or breaks MAX_CLIP_PIXELS, MAX_CLIP_FRAMES or MAX_CLIP_BYTES. What it
            declares is checked before anything is decoded, and again as it is decoded, which ends at the limit.
    """
    name = picture_format(path)
    if name is not None:
        raise MediaError(f"{path} is a picture ({name}), not a clip")
    rate = None if fps is None else Fraction(fps).limit_denominator(1001)
    if rate is not None and rate <= 0:
        raise MediaError(f"{fps} is no rate to read {path} at")
    with open_media(path) as file:
        stream = video_stream(file, path)
        timed = decode(file, stream, path, max_seconds)
        first = next(timed)
        shape = shape_of(first.frame, stream)
        wide, high = size or shape.displayed
        each = wide * high * 3
        declared = declared_seconds(file, stream)
        if declared is not None:
            expected = int(declared * (rate or stream.average_rate or 0))
            _check_bytes(path, expected, each, wide, high)
        frames: list[Frames] = []
        last, end = None, Fraction(0)
        pixels = np.empty(0, np.uint8)
        for item in nearest(_again(first, timed), rate) if rate else _again(first, timed):
            if item is not last:
                pixels = to_rgb(item.frame, shape)
                if size is not None:
                    pixels = resize_cover(pixels[None], wide, high)[0]
                last, end = item, item.end
            frames.append(pixels)
            _check_bytes(path, len(frames), each, wide, high)
    result = np.empty((len(frames), high, wide, 3), np.uint8)
    for index in range(len(frames)):
        result[index] = frames[index]
        frames[index] = pixels  # let go of it, or all would be there twice
    return Clip(result, float(rate or len(frames) / end))


@contextmanager
def open_media(path: Path) -> Iterator[InputContainer]:
    """A file with pictures in motion or sound, for reading.

    Raises:
        MediaError: it cannot be read, or is an MP4 or Matroska file that is cut short; FFmpeg's errors inside the
            context become one, too.
    """
    try:
        with av.open(
            str(path),
            metadata_errors="replace",
            container_options={"format_whitelist": CONTAINERS, "protocol_whitelist": "file"},
        ) as file:
            match container_name(file.format.name):
                case "mp4":
                    is_faststart(path)
                case "mkv":
                    check_segment(path)
            yield file
    except av.error.ArgumentError as error:
        raise MediaError(f"cannot read {path}: damaged, or of another format than {CONTAINERS}") from error
    except (av.FFmpegError, OSError) as error:
        raise MediaError(f"cannot read {path}: {error.strerror}") from error


def video_stream(file: InputContainer, path: Path) -> VideoStream:
    """The first video of a file; cover pictures are none.

    Raises:
        NoVideo: there is only sound.
        MediaError: there is none, or none that can be decoded.
    """
    for stream in file.streams.video:
        if Disposition.attached_pic in stream.disposition:
            continue
        if stream.codec_context is None:
            raise MediaError(f"{path} has video of an unknown codec")
        return stream
    if file.streams.audio:
        raise NoVideo(f"{path} has no video, only sound")
    raise MediaError(f"{path} has no video")


def declared_seconds(file: InputContainer, stream: VideoStream) -> Fraction | None:
    """How long the video is by the container's word. None: it does not say, or may mean the sound."""
    if stream.duration is not None and stream.time_base is not None:
        return stream.duration * stream.time_base
    if file.duration is not None and not file.streams.audio:
        return Fraction(file.duration, av.time_base)
    return None


def decode(file: InputContainer, stream: VideoStream, path: Path, max_seconds: float) -> Iterator[Timed]:
    """All frames in the order in which they are shown; at least one.

    Raises:
        MediaError: see `read_clip`.
    """
    limit = Fraction(max_seconds) + SLACK_SECONDS
    declared = declared_seconds(file, stream)
    if declared is not None and declared > limit:
        raise _too_long(path, declared, max_seconds)
    context = stream.codec_context
    _check_size(path, context.width, context.height)
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
                _check_size(path, *shape_of(frame, stream).displayed)
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
            if end > limit:
                raise _too_long(path, end, max_seconds)
            if count == MAX_CLIP_FRAMES:
                raise MediaError(f"{path} has more than {MAX_CLIP_FRAMES} frames, the limit")
            count += 1
            yield Timed(frame, start, end)
    if not count:
        raise MediaError(f"{path} has no frame that can be decoded")


def nearest(timed: Iterable[Timed], rate: Fraction) -> Iterator[Timed]:
    """For each tick ``k / rate`` until the end of the last frame, the frame that starts nearest to it; at least one."""
    before: Timed | None = None
    tick = 0
    for item in timed:
        while before is not None and Fraction(tick) / rate <= (before.start + item.start) / 2:
            yield before
            tick += 1
        before = item
    assert before is not None, "decode yields a frame or raises"
    while tick < max(1, round(before.end * rate)):
        yield before
        tick += 1


def shape_of(frame: av.VideoFrame, stream: VideoStream) -> Shape:
    """From the size, the aspect ratio of a pixel and the display matrix of a stream's first frame."""
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


def to_rgb(frame: av.VideoFrame, shape: Shape) -> Frames:
    """``[H, W, 3]`` as displayed."""
    source = None
    if frame.colorspace == UNSPECIFIED and not frame.format.is_rgb:
        source = Colorspace.ITU709 if frame.height >= HD_HEIGHT else Colorspace.ITU601
    rgb = frame.reformat(
        width=shape.width,
        height=shape.height,
        format="rgb24",
        src_colorspace=source,
        dst_color_range=ColorRange.JPEG,
        interpolation=TO_RGB,
    )
    pixels = rgb.to_ndarray()
    if shape.transposed:
        pixels = pixels.swapaxes(0, 1)
    if shape.mirrored:
        pixels = pixels[:, ::-1]
    if shape.upside_down:
        pixels = pixels[::-1]
    return np.ascontiguousarray(pixels, np.uint8)


def _again(first: T, rest: Iterator[T]) -> Iterator[T]:
    yield first
    yield from rest


def _check_size(path: Path, width: int, height: int) -> None:
    if width * height > MAX_CLIP_PIXELS:
        raise MediaError(
            f"{path} has frames of {width}x{height}, {width * height} pixels; the limit is {MAX_CLIP_PIXELS}"
        )


def _check_bytes(path: Path, count: int, each: int, width: int, height: int) -> None:
    if count * each > MAX_CLIP_BYTES:
        raise MediaError(
            f"{path} takes {count * each} bytes as {count} frames of {width}x{height}, the limit is {MAX_CLIP_BYTES}"
        )


def _too_long(path: Path, seconds: Fraction, limit: float) -> MediaError:
    return MediaError(f"{path} lasts {float(seconds):.3f} s or more, the limit is {limit:g} s")
