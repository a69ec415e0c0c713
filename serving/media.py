"""Video files: write them, look into them, check them, fit frames to a size. Frames are uint8 RGB ``[n, H, W, 3]``."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Literal, Self, TypeAlias

import av
import numpy as np
from av.video.reformatter import ColorPrimaries, ColorRange, Colorspace, ColorTrc, Interpolation
from av.video.stream import VideoStream
from numpy.typing import NDArray
from PIL import Image

Frames: TypeAlias = NDArray[np.uint8]
Container: TypeAlias = Literal["mp4", "mkv"]


class MediaError(Exception):
    """A file or frames are not what they have to be; one line."""


@dataclass(frozen=True)
class Encoding:
    """How a container's video is stored."""

    encoder: str
    codec: str  # as a probe names it
    pixel_format: str
    options: Mapping[str, str]
    container_options: Mapping[str, str]


# "bitexact" leaves out library versions and random ids: the same frames give the same bytes.
ENCODINGS: dict[str, Encoding] = {
    "mp4": Encoding(
        encoder="libx264",
        codec="h264",
        pixel_format="yuv420p",
        options={"crf": "16"},
        container_options={"movflags": "+faststart+use_metadata_tags", "fflags": "+bitexact"},
    ),
    # Version 3 with a checksum for each slice, every frame a key frame.
    "mkv": Encoding(
        encoder="ffv1",
        codec="ffv1",
        pixel_format="bgr0",
        options={"level": "3", "slicecrc": "1", "g": "1"},
        container_options={"fflags": "+bitexact"},
    ),
}

# Rounding that does not depend on the processor.
TO_YUV = int(Interpolation.BICUBIC | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT | Interpolation.BITEXACT)


class VideoWriter:
    """Writes frames to a file: "mp4" is H.264 yuv420p (BT.709, limited range, faststart), "mkv" lossless FFV1 RGB.

    A context manager. The file is complete once the context is left without an error; after an error there is none.
    """

    def __init__(
        self, path: Path, width: int, height: int, fps: int, container: Container, metadata: Mapping[str, str]
    ) -> None:
        """Create the file.

        Args:
            metadata: tags of the file; Matroska readers may show their names in capitals.

        Raises:
            MediaError: an unknown container, a size or rate that it cannot hold, or a path that cannot be written.
        """
        if container not in ENCODINGS:
            raise MediaError(f"{container!r} is not one of {', '.join(ENCODINGS)}")
        if width < 1 or height < 1 or fps < 1:
            raise MediaError(f"{width}x{height} at {fps} fps is no video")
        if container == "mp4" and (width % 2 or height % 2):
            raise MediaError(f"{width}x{height} has an odd side, which yuv420p does not allow")
        self._path = path
        self._shape = (height, width, 3)
        self._encoding = ENCODINGS[container]
        self._time_base = Fraction(1, fps)
        self._written = 0
        container_options = dict(self._encoding.container_options)
        if container == "mp4":
            # Otherwise the file's length is rounded to milliseconds.
            container_options["movie_timescale"] = str(1_000 * fps)
        # The name need not end in the container's own suffix.
        muxer = {"mp4": "mp4", "mkv": "matroska"}[container]
        try:
            self._output = av.open(str(path), "w", format=muxer, container_options=container_options)
            self._output.metadata.update(metadata)
            stream = self._output.add_stream(self._encoding.encoder, rate=fps, options=dict(self._encoding.options))
            assert isinstance(stream, VideoStream)
            stream.width, stream.height, stream.pix_fmt = width, height, self._encoding.pixel_format
            if container == "mp4":
                context = stream.codec_context
                context.color_primaries, context.color_trc = ColorPrimaries.BT709, ColorTrc.BT709
                context.colorspace, context.color_range = Colorspace.ITU709, ColorRange.MPEG
            self._stream = stream
            self._output.start_encoding()
        except (av.FFmpegError, OSError) as error:
            raise MediaError(f"cannot write {path}: {error.strerror}") from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            if error is None:
                self._finish()
        except BaseException as failure:
            error = failure
            raise
        finally:
            if error is not None:
                self._abandon()

    def write(self, frames: Frames) -> None:
        """Append frames.

        Raises:
            MediaError: they are not uint8 ``[n, height, width, 3]``, or cannot be encoded or written.
        """
        if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[1:] != self._shape:
            wanted = ", ".join(str(side) for side in self._shape)
            raise MediaError(f"frames are {frames.dtype} {list(frames.shape)}, the file takes uint8 [n, {wanted}]")
        for pixels in frames:
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
            if self._encoding.pixel_format == "yuv420p":
                frame = frame.reformat(
                    format="yuv420p",
                    dst_colorspace=Colorspace.ITU709,
                    dst_color_range=ColorRange.MPEG,
                    interpolation=TO_YUV,
                )
            frame.pts, frame.duration, frame.time_base = self._written, 1, self._time_base
            self._encode(frame)
            self._written += 1

    def _encode(self, frame: av.VideoFrame | None) -> None:
        try:
            self._output.mux(self._stream.encode(frame))
        except (av.FFmpegError, OSError) as error:
            raise MediaError(f"cannot write {self._path}: {error.strerror}") from error

    def _finish(self) -> None:
        if not self._written:
            raise MediaError(f"no frames were written to {self._path}")
        self._encode(None)
        try:
            self._output.close()
        except (av.FFmpegError, OSError) as error:
            raise MediaError(f"cannot write {self._path}: {error.strerror}") from error

    def _abandon(self) -> None:
        try:
            self._output.close()
        except (av.FFmpegError, OSError):
            pass  # the reason is on its way already
        finally:
            self._path.unlink(missing_ok=True)


@dataclass(frozen=True)
class MediaInfo:
    """What a file holds."""

    container: str  # "mp4", "mkv", or FFmpeg's name of another one
    codec: str
    pixel_format: str
    width: int
    height: int
    frames: int  # counted by decoding them
    fps: float
    duration_seconds: float
    faststart: (
        bool | None
    )  # the index precedes the data, so that players start before the end has arrived; None: not MP4
    metadata: dict[str, str]  # the file's tags, their names in lower case


def probe(path: Path) -> MediaInfo:
    """Decode a whole file and say what it holds.

    Raises:
        MediaError: it cannot be read, has no video, is cut short, a frame has another size or, as far as the decoder
            notices, is damaged.
    """
    try:
        with av.open(str(path), metadata_errors="replace") as file:
            container = _container_name(file.format.name)
            faststart = _is_faststart(path) if container == "mp4" else None
            if container == "mkv":
                _check_segment(path)
            if not file.streams.video:
                raise MediaError(f"{path} has no video")
            stream = file.streams.video[0]
            context = stream.codec_context
            if context is None:
                raise MediaError(f"{path} has video of an unknown codec")
            context.options = {"err_detect": "explode"}  # otherwise a decoder covers up what it finds damaged
            frames = 0
            for frame in file.decode(stream):
                if (frame.width, frame.height) != (context.width, context.height):
                    raise MediaError(
                        f"{path}: frame {frames} is {frame.width}x{frame.height}, not {context.width}x{context.height}"
                    )
                frames += 1
            return MediaInfo(
                container=container,
                codec=context.codec.canonical_name,
                pixel_format=context.pix_fmt or "",
                width=context.width,
                height=context.height,
                frames=frames,
                fps=float(stream.average_rate or 0),
                duration_seconds=(file.duration or 0) / av.time_base,
                faststart=faststart,
                metadata={name.lower(): value for name, value in file.metadata.items()},
            )
    except (av.FFmpegError, OSError) as error:
        raise MediaError(f"cannot read {path}: {error.strerror}") from error


def verify(path: Path, *, container: Container, width: int, height: int, frames: int, fps: int) -> MediaInfo:
    """Check that a file is complete and what VideoWriter was to write.

    Raises:
        MediaError: names everything that differs.
    """
    info = probe(path)
    encoding = ENCODINGS[container]
    wanted: dict[str, Any] = {
        "container": container,
        "codec": encoding.codec,
        "pixel_format": encoding.pixel_format,
        "width": width,
        "height": height,
        "frames": frames,
        "faststart": True if container == "mp4" else None,
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
    if wrong:
        raise MediaError(f"{path} has {', '.join(wrong)}")
    return info


def resize_cover(frames: Frames, width: int, height: int) -> Frames:
    """Scale ``[n, H, W, 3]`` to ``[n, height, width, 3]``, keeping shapes: Lanczos, the middle kept and what is over on
    two sides cut. Frames of that size already are returned as they are."""
    count, high, wide = frames.shape[:3]
    if (wide, high) == (width, height):
        return frames
    # The part of the source that has the target's aspect ratio, in fractions of pixels.
    box_width, box_height = min(wide, high * width / height), min(high, wide * height / width)
    left, top = (wide - box_width) / 2, (high - box_height) / 2
    box = (left, top, left + box_width, top + box_height)
    result = np.empty((count, height, width, 3), np.uint8)
    for source, target in zip(frames, result, strict=True):
        target[:] = np.asarray(Image.fromarray(source).resize((width, height), Image.Resampling.LANCZOS, box=box))
    return result


def _container_name(format_name: str) -> str:
    names = format_name.split(",")
    return "mp4" if "mp4" in names else "mkv" if "matroska" in names else names[0]


def _is_faststart(path: Path) -> bool:
    """Whether "moov" precedes "mdat" among the top-level boxes of an MP4 file.

    Raises:
        MediaError: the boxes do not add up to the file.
    """
    order: list[bytes] = []
    with path.open("rb") as file:
        end = file.seek(0, os.SEEK_END)
        position = 0
        while position < end:
            file.seek(position)
            kind, size = _box(file, end - position)
            if not 8 <= size <= end - position:
                raise MediaError(
                    f"{path} is cut short or damaged: its box at byte {position} does not end within the file"
                )
            order.append(kind)
            position += size
    if b"moov" not in order or b"mdat" not in order:
        raise MediaError(f"{path} has no index or no data")
    return order.index(b"moov") < order.index(b"mdat")


def _box(file: BinaryIO, remaining: int) -> tuple[bytes, int]:
    """Kind and size of the box at the file's position; size 0 where its header is incomplete."""
    header = file.read(16)
    if len(header) < 8:
        return b"", 0
    size, kind = int.from_bytes(header[:4], "big"), header[4:8]
    if size == 0:  # to the end of the file
        return kind, remaining
    if size == 1:  # the size follows, in 64 bits
        return kind, int.from_bytes(header[8:], "big") if len(header) == 16 else 0
    return kind, size


def _check_segment(path: Path) -> None:
    """Make sure that a Matroska file reaches to the end of its segment; players read one that is cut short as a shorter
    video.

    Raises:
        MediaError: it does not.
    """
    with path.open("rb") as file:
        end = file.seek(0, os.SEEK_END)
        file.seek(0)
        file.seek(_element_size(file) or 0, os.SEEK_CUR)  # the EBML header
        size = _element_size(file)
        if size is not None and file.tell() + size != end:
            raise MediaError(f"{path} is cut short or damaged: it does not end where its segment does")


def _element_size(file: BinaryIO) -> int | None:
    """Read the head of a top-level Matroska element: a four-byte id, and a size whose first byte tells, by its leading
    zeros, how many more bytes belong to it. None where the size is left open (all ones), as live recorders do."""
    first = file.read(5)[4:]
    if not first or not first[0]:
        return None
    extra = 8 - first[0].bit_length()
    size = int.from_bytes(bytes([first[0] & (0x7F >> extra)]) + file.read(extra), "big")
    return None if size == (1 << 7 * (extra + 1)) - 1 else size
