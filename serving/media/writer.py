"""Encode frames, and optionally a sound track, to a video file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Literal, Self, TypeAlias

import av
import numpy as np
from av.audio.stream import AudioStream
from av.video.reformatter import ColorPrimaries, ColorRange, Colorspace, ColorTrc, Interpolation
from av.video.stream import VideoStream

from zoetrope.model.media.resize import Frames
from zoetrope.serving.media.errors import MediaError, NotWritable
from zoetrope.serving.media.sound import Soundtrack

Container: TypeAlias = Literal["mp4", "mkv"]


@dataclass(frozen=True)
class Encoding:
    """How a container's video is stored."""

    encoder: str
    codec: str  # as in `serving.media.info.ProbedMedia`
    pixel_format: str
    options: Mapping[str, str]
    container_options: Mapping[str, str]
    sound_encoder: str
    sound_format: str  # of the encoder's input samples
    sound_options: Mapping[str, str]


# "bitexact" leaves out library versions and random ids: the same frames give the same bytes.
ENCODINGS: dict[str, Encoding] = {
    "mp4": Encoding(
        encoder="libx264",
        codec="h264",
        pixel_format="yuv420p",
        options={"crf": "16"},
        container_options={"movflags": "+faststart+use_metadata_tags", "fflags": "+bitexact"},
        sound_encoder="aac",
        sound_format="fltp",
        sound_options={"b": "192k", "flags": "+bitexact"},
    ),
    # Version 3 with a checksum for each slice, every frame a key frame.
    "mkv": Encoding(
        encoder="ffv1",
        codec="ffv1",
        pixel_format="bgr0",
        options={"level": "3", "slicecrc": "1", "g": "1"},
        container_options={"fflags": "+bitexact"},
        sound_encoder="flac",
        sound_format="s16",
        sound_options={"flags": "+bitexact"},
    ),
}

# Rounding that does not depend on the processor.
TO_YUV = int(Interpolation.BICUBIC | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT | Interpolation.BITEXACT)


class VideoWriter:
    """Writes frames to a file: "mp4" is H.264 yuv420p (BT.709, limited range, faststart), "mkv" lossless FFV1 RGB.

    Sound becomes 48 kHz stereo, AAC in "mp4" and 16-bit FLAC in "mkv".

    A context manager: leaving it without an error completes the file, after an error no file is left.
    """

    def __init__(
        self,
        path: Path,
        width: int,
        height: int,
        fps: int,
        container: Container,
        metadata: Mapping[str, str],
        *,
        audio: Path | None = None,
    ) -> None:
        """Create the file.

        Args:
            metadata: tags of the file; Matroska readers may show their names in upper case.
            audio: a file whose first sound track is added, cut or padded with silence to the length of the video. It
                keeps its offset from the first frame if the file is a video.

        Raises:
            MediaError: the container is unknown or cannot have this size or rate, or ``audio`` cannot be read or has no
                sound.
            NotWritable: the file cannot be created.
        """
        if container not in ENCODINGS:
            raise MediaError(f"container {container!r} must be one of {', '.join(ENCODINGS)}")
        if width < 1 or height < 1 or fps < 1:
            raise MediaError(f"width, height and fps must be at least 1, not {width}x{height} at {fps} fps")
        if container == "mp4" and (width % 2 or height % 2):
            raise MediaError(f"width and height must be even in mp4 (yuv420p), not {width}x{height}")
        self._path = path
        self._shape = (height, width, 3)
        self._encoding = ENCODINGS[container]
        self._time_base = Fraction(1, fps)
        self._written = 0
        container_options = dict(self._encoding.container_options)
        if container == "mp4":
            # Otherwise the duration is rounded to milliseconds.
            container_options["movie_timescale"] = str(1_000 * fps)
        # Explicit, because the file name may have any suffix.
        muxer = {"mp4": "mp4", "mkv": "matroska"}[container]
        self._sound = None if audio is None else Soundtrack(audio, self._encoding.sound_format)
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
            if self._sound is not None:
                self._sound.attach(self._output, self._encoding.sound_encoder, dict(self._encoding.sound_options))
            self._output.start_encoding()
        except (av.FFmpegError, OSError) as error:
            if self._sound is not None:
                self._sound.close()
            path.unlink(missing_ok=True)
            raise NotWritable(path, error) from error

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
            if self._sound is not None:
                self._sound.close()
            if error is not None:
                self._abandon()

    def write(self, frames: Frames) -> None:
        """Append frames.

        Raises:
            MediaError: they are not uint8 ``[n, height, width, 3]``.
            NotWritable: they cannot be encoded or written.
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
            if self._sound is not None:
                self._mux_sound(self._sound.until(self._written * self._time_base))

    def _mux_sound(self, packets: Iterator[av.Packet[AudioStream]]) -> None:
        try:
            for packet in packets:
                self._output.mux(packet)
        except (av.FFmpegError, OSError) as error:
            raise NotWritable(self._path, error) from error

    def _encode(self, frame: av.VideoFrame | None) -> None:
        try:
            self._output.mux(self._stream.encode(frame))
        except (av.FFmpegError, OSError) as error:
            raise NotWritable(self._path, error) from error

    def _finish(self) -> None:
        if not self._written:
            raise MediaError(f"no frames were written to {self._path}")
        self._encode(None)
        if self._sound is not None:
            self._mux_sound(self._sound.finish())
        try:
            self._output.close()
        except (av.FFmpegError, OSError) as error:
            raise NotWritable(self._path, error) from error

    def _abandon(self) -> None:
        try:
            self._output.close()
        except (av.FFmpegError, OSError):
            pass  # the original error is already being raised
        finally:
            self._path.unlink(missing_ok=True)
