"""Read, copy and encode sound tracks."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, TypeAlias

import av
import numpy as np
from av.audio.resampler import AudioResampler
from av.audio.stream import AudioStream
from av.container import InputContainer, OutputContainer
from numpy.typing import NDArray

from zoetrope.serving.media.containers import container_name
from zoetrope.serving.media.errors import MediaError
from zoetrope.serving.media.streams import SLACK_SECONDS, open_media, sound_stream, video_stream

RATE = 48_000  # samples per second
LAYOUT = "stereo"
CHANNELS = 2
BLOCK = 1_024  # samples encoded at a time, at most
MAX_SOUND_BYTES = 1 << 30  # of a WAV file from `write_sound`

Samples: TypeAlias = NDArray[Any]  # float32 or int16 [channels, n]


@dataclass(frozen=True)
class SoundInfo:
    """Describes the first sound track of a file."""

    container: str  # as in `serving.media.info.ProbedMedia`
    codec: str
    sample_rate: int  # of the file
    channels: int
    seconds: float  # counted by decoding


def probe_sound(path: Path, max_seconds: float) -> SoundInfo:
    """Decode the first sound track of a file and describe it.

    Raises:
        MediaError: the file cannot be read, has no sound, is damaged, or its sound lasts longer than ``max_seconds``.
    """
    with closing(Soundtrack(path, "fltp")) as track:
        count = 0
        for samples in track.samples():
            count += samples.shape[1]
            if count > (max_seconds + float(SLACK_SECONDS)) * RATE:
                raise MediaError(f"the sound of {path} lasts longer than {max_seconds:g} s, the limit")
        if not count:
            raise MediaError(f"{path} has no decodable sound")
        return SoundInfo(track.container, track.codec, track.sample_rate, track.channels, count / RATE)


def has_sound(path: Path, max_seconds: float) -> bool:
    """Tell whether a file has a usable sound track: it, or its first ``max_seconds``, can be decoded, and it has at
    least one sample after the start of the video."""
    count = 0
    try:
        with closing(Soundtrack(path, "fltp")) as track:
            for samples in track.samples():
                count += samples.shape[1]
                if count > max_seconds * RATE:
                    break
    except MediaError:
        return False
    return count > 0


def write_sound(path: Path, to: Path, max_seconds: float) -> float:
    """Copy up to ``max_seconds`` of a file's first sound track to a plain WAV file: 48 kHz, stereo, float32.

    The copy starts with the first frame of the file's video. `VideoWriter` treats it like the original.

    Returns:
        The seconds written.

    Raises:
        MediaError: as `probe_sound`, or the copy cannot be written.
    """
    left = count = round(max_seconds * RATE)
    try:
        with (
            closing(Soundtrack(path, "fltp")) as track,
            to.open("wb") as target,
            av.open(target, "w", format="wav") as output,
        ):
            stream = output.add_stream("pcm_f32le", rate=RATE)
            assert isinstance(stream, AudioStream)
            stream.layout, stream.format = LAYOUT, "flt"
            for samples in track.samples():
                taken = samples[:, :left]
                if taken.shape[1]:
                    packed = np.ascontiguousarray(taken.T.reshape(1, -1))
                    frame = av.AudioFrame.from_ndarray(packed, format="flt", layout=LAYOUT)
                    frame.sample_rate, frame.pts, frame.time_base = RATE, count - left, Fraction(1, RATE)
                    output.mux(stream.encode(frame))
                    left -= taken.shape[1]
                if not left:
                    break
            if left == count:
                raise MediaError(f"{path} has no decodable sound")
            output.mux(stream.encode(None))
    except (av.FFmpegError, OSError) as error:
        raise MediaError(f"cannot copy the sound of {path}: {error.strerror}") from error
    return (count - left) / RATE


class Soundtrack:
    """Reads the first sound track of a file and encodes it in step with the video, so that both are interleaved in the
    output. Silence follows the end of the source."""

    def __init__(self, source: Path, sample_format: str) -> None:
        """Open the file. ``sample_format``: FFmpeg's name of the encoder's input, "fltp" or "s16".

        Raises:
            MediaError: the file cannot be read or has no sound.
        """
        self._source = source
        self._format = sample_format
        self._open = ExitStack()
        try:
            file = self._open.enter_context(open_media(source))
            stream = sound_stream(file, source)
            self.container = container_name(file, source)
            self.codec = str(stream.codec_context.codec.canonical_name)
            self.sample_rate, self.channels = int(stream.rate or 0), int(stream.channels)
            self._chunks = self._decode(file, stream)
        except BaseException:
            self._open.close()
            raise
        self._rest: Samples = np.empty((CHANNELS, 0), self._dtype)
        self._written = 0

    def attach(self, output: OutputContainer, encoder: str, options: dict[str, str]) -> None:
        """Add an encoded stream to an output that has not started yet; `until` produces its packets."""
        stream = output.add_stream(encoder, rate=RATE, options=options)
        assert isinstance(stream, AudioStream)
        stream.layout, stream.format, stream.time_base = LAYOUT, self._format, Fraction(1, RATE)
        self._stream = stream

    def until(self, seconds: Fraction) -> Iterator[av.Packet[AudioStream]]:
        """Yield the packets up to this time, exact to the sample.

        Raises:
            MediaError: the source is damaged there, or cannot be encoded.
        """
        end = round(seconds * RATE)
        while self._written < end:
            samples = self._take(min(BLOCK, end - self._written))
            packed = samples if self._format.endswith("p") else samples.T.reshape(1, -1)
            frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(packed), format=self._format, layout=LAYOUT)
            frame.sample_rate, frame.pts, frame.time_base = RATE, self._written, Fraction(1, RATE)
            self._written += samples.shape[1]
            yield from self._stream.encode(frame)

    def finish(self) -> Iterator[av.Packet[AudioStream]]:
        """Yield the packets that the encoder still holds."""
        yield from self._stream.encode(None)

    def samples(self) -> Iterator[Samples]:
        """Yield all samples in blocks ``[channels, n]``. An alternative to `attach` and `until`.

        Raises:
            MediaError: the source is damaged.
        """
        return self._chunks

    def close(self) -> None:
        """Close the source. May be called repeatedly."""
        self._open.close()

    @property
    def _dtype(self) -> type[np.float32] | type[np.int16]:
        return np.float32 if self._format == "fltp" else np.int16

    def _take(self, count: int) -> Samples:
        """Return the next ``[channels, count]`` samples; silence after the end of the source."""
        parts, missing = [], count
        while missing:
            if not self._rest.shape[1]:
                self._rest = next(self._chunks, np.zeros((CHANNELS, missing), self._dtype))
            part, self._rest = self._rest[:, :missing], self._rest[:, missing:]
            parts.append(part)
            missing -= part.shape[1]
        return np.concatenate(parts, axis=1)

    def _decode(self, file: InputContainer, stream: AudioStream) -> Iterator[Samples]:
        """Yield blocks ``[channels, n]``, starting with the first frame of the video or, without one, the first
        sample."""
        try:
            video = video_stream(file, self._source)
            origin = None if video.start_time is None or video.time_base is None else video.start_time * video.time_base
        except MediaError:
            origin = None
        # FFmpeg would lower mono by 3 dB when it makes stereo; `_stereo` keeps the level.
        layout = "mono" if stream.channels == 1 else LAYOUT
        resampler = AudioResampler(format="fltp" if self._format == "fltp" else "s16p", layout=layout, rate=RATE)
        skip: int | None = None  # samples before the video starts
        try:
            for frame in file.decode(stream):
                if skip is None:
                    start = frame.pts * frame.time_base if frame.pts is not None and frame.time_base else Fraction(0)
                    skip = 0 if origin is None else round((origin - start) * RATE)
                    while skip < 0:  # in pieces: a damaged file may start in a thousand years
                        silence = np.zeros((CHANNELS, min(-skip, RATE)), self._dtype)
                        skip += silence.shape[1]
                        yield silence
                frame.pts = None
                for piece in resampler.resample(frame):
                    samples = self._stereo(piece)
                    yield samples[:, skip:]
                    skip = max(0, skip - samples.shape[1])
            for piece in resampler.resample(None):
                yield self._stereo(piece)[:, skip or 0 :]
        except (av.FFmpegError, OSError) as error:
            raise MediaError(f"cannot read the sound of {self._source}: {error.strerror}") from error
        except ValueError as error:  # PyAV's error if channels or rate change midway
            raise MediaError(f"cannot read the sound of {self._source}: {error}") from error

    def _stereo(self, frame: av.AudioFrame) -> Samples:
        samples: Samples = frame.to_ndarray().astype(self._dtype, copy=False)
        return np.repeat(samples, CHANNELS // len(samples), axis=0)
