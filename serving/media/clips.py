"""Decode clips to RGB frames at a constant rate."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from itertools import chain
from pathlib import Path

import av
import numpy as np

from zoetrope.model.media.inputs import Clip
from zoetrope.model.media.resize import Frames, resize_cover
from zoetrope.serving.media.animations import decode_animation, is_animation
from zoetrope.serving.media.colours import Colours, RgbConverter, declared_colours
from zoetrope.serving.media.containers import container_name
from zoetrope.serving.media.errors import MediaError
from zoetrope.serving.media.pictures import open_picture, picture_format
from zoetrope.serving.media.streams import (
    MAX_CLIP_BYTES,
    TimedFrame,
    VideoShape,
    declared_seconds,
    decode,
    open_media,
    shape_of,
    video_stream,
)


@dataclass(frozen=True)
class OpenClip:
    """An open clip whose first frame has been decoded.

    Attributes:
        container, codec, pixel_format: as in `serving.media.info.ProbedMedia`.
        seconds: the duration that the file declares, if any.
        rate: the average frame rate that the file declares, if any.
        frames: all frames in presentation order, including the first.
    """

    container: str
    codec: str
    pixel_format: str
    seconds: Fraction | None
    rate: Fraction | None
    metadata: dict[str, str]
    shape: VideoShape
    frames: Iterator[TimedFrame]
    convert: RgbConverter

    def rgb(self, frame: av.VideoFrame) -> Frames:
        """Convert a frame to ``[H, W, 3]`` as displayed."""
        pixels = self.convert(frame)
        if self.shape.transposed:
            pixels = pixels.swapaxes(0, 1)
        if self.shape.mirrored:
            pixels = pixels[:, ::-1]
        if self.shape.upside_down:
            pixels = pixels[::-1]
        return np.ascontiguousarray(pixels, np.uint8)


@contextmanager
def open_clip(path: Path, max_seconds: float) -> Iterator[OpenClip]:
    """Open a video or an animated picture.

    Raises:
        MediaError: as `read_clip`; also raised by `OpenClip.frames` within the context.
    """
    name = picture_format(path)
    if name is None:
        with open_media(path) as file:
            stream = video_stream(file, path)
            context = stream.codec_context
            declared, tag = declared_colours(context), context.codec_tag
            timed = decode(file, stream, path, max_seconds)
            first = next(timed)
            shape = shape_of(first.frame, stream)
            convert = RgbConverter(path, declared, tag, shape.width, shape.height)
            convert.check(first.frame)
            yield OpenClip(
                container=container_name(file, path),
                codec=context.codec.canonical_name,
                pixel_format=context.pix_fmt or "",
                seconds=declared_seconds(file, stream),
                rate=stream.average_rate,
                metadata={name.lower(): value for name, value in file.metadata.items()},
                shape=shape,
                frames=chain((first,), timed),
                convert=convert,
            )
    elif is_animation(path):
        with open_picture(path) as image:
            timed = decode_animation(image, path, max_seconds)
            first = next(timed)
            shape = VideoShape(first.frame.width, first.frame.height)
            yield OpenClip(
                container=name.lower(),
                codec=name.lower(),
                pixel_format=image.mode,
                seconds=None,
                rate=None,
                metadata={},
                shape=shape,
                frames=chain((first,), timed),
                convert=RgbConverter(path, Colours(), "", shape.width, shape.height),
            )
    else:
        raise MediaError(f"{path} is a picture ({name}), not a clip")


def read_clip(path: Path, *, fps: float | None = None, max_seconds: float, size: tuple[int, int] | None = None) -> Clip:
    """Decode a clip: upright, square pixels, 8-bit RGB for an SDR display, constant rate.

    Accepts any size (odd ones too), chroma subsampling and bit depth. Converts high dynamic range and wide gamuts
    (`serving.media.colours`). Drops alpha, except that animated pictures are composited over white. Ignores sound
    (`serving.media.sound` reads it).

    Args:
        fps: the rate of the result: each tick gets the frame with the nearest presentation time (the earlier one of
            two). None keeps the frames as they are, at their average rate.
        max_seconds: the maximum duration.
        size: width and height to which each frame is fitted as it is decoded (`model.media.resize.resize_cover`), so
            that a large clip is never in memory as a whole.

    Raises:
        MediaError: the file cannot be read, is a still picture, has no video, is truncated or damaged, changes its
            frame size, has an unsupported colour encoding, lasts longer than ``max_seconds``, or exceeds
            MAX_CLIP_PIXELS, MAX_CLIP_FRAMES or MAX_CLIP_BYTES. What the file declares is checked before decoding, and
            again while decoding, which stops at the limit.
    """
    rate = None if fps is None else Fraction(fps).limit_denominator(1001)
    if rate is not None and rate <= 0:
        raise MediaError(f"cannot read {path}: fps is {fps}, must be above 0")
    with open_clip(path, max_seconds) as clip:
        wide, high = size or clip.shape.displayed
        each = wide * high * 3
        if clip.seconds is not None:
            expected = int(clip.seconds * (rate or clip.rate or 0))
            _check_bytes(path, expected, each, wide, high)
        frames: list[Frames] = []
        last, end = None, Fraction(0)
        pixels = np.empty(0, np.uint8)
        for item in nearest(clip.frames, rate) if rate else clip.frames:
            if item is not last:
                pixels = clip.rgb(item.frame)
                if size is not None:
                    pixels = resize_cover(pixels[None], wide, high)[0]
                last, end = item, item.end
            frames.append(pixels)
            _check_bytes(path, len(frames), each, wide, high)
    result = np.empty((len(frames), high, wide, 3), np.uint8)
    for index in range(len(frames)):
        result[index] = frames[index]
        frames[index] = pixels  # release it, or all frames would be in memory twice
    return Clip(result, float(rate or len(frames) / end))


def nearest(timed: Iterable[TimedFrame], rate: Fraction) -> Iterator[TimedFrame]:
    """Yield, for each tick ``k / rate`` until the last frame ends, the frame starting nearest to it; at least one."""
    before: TimedFrame | None = None
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


def _check_bytes(path: Path, count: int, each: int, width: int, height: int) -> None:
    if count * each > MAX_CLIP_BYTES:
        raise MediaError(
            f"{path} needs {count * each} bytes for {count} frames of {width}x{height}, the limit is {MAX_CLIP_BYTES}"
        )
