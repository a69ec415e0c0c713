"""The sound track of a video that is being written."""

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

from serving.media.containers import container_name
from serving.media.errors import MediaError
from serving.media.streams import SLACK_SECONDS, open_media, sound_stream, video_stream

RATE = 48_000  # samples a second
LAYOUT = "stereo"
CHANNELS = 2
BLOCK = 1_024  # samples that are encoded at a time, at most
MAX_SOUND_BYTES = 1 << 30  # of a WAV file of ours

Samples: TypeAlias = NDArray[Any]  # float32 or int16 [channels, n]


@dataclass(frozen=True)
class SoundInfo:
    """What the first sound track of a file is."""

    container: str  # as `serving.media.info` names it
    codec: str
    sample_rate: int  # of the file
    channels: int
    seconds: float  # counted by decoding


def probe_sound(path: Path, max_seconds: float) -> SoundInfo:
    """Decode the first sound track of a file, of whatever FFmpeg reads of `serving.media.formats.CONTAINERS`.

    Raises:
        MediaError: it cannot be read, has no sound, is damaged, or lasts longer than ``max_seconds``.
    """
    with closing(Soundtrack(path, "fltp")) as track:
        count = 0
        for samples in track.samples():
            count += samples.shape[1]
            if count > (max_seconds + float(SLACK_SECONDS)) * RATE:
                raise MediaError(f"the sound of {path} lasts longer than {max_seconds:g} s, the limit")
        if not count:
            raise MediaError(f"{path} has no sound that can be decoded")
        return SoundInfo(track.container, track.codec, track.sample_rate, track.channels, count / RATE)


def has_sound(path: Path, max_seconds: float) -> bool:
    """Tell whether a file has a sound track that can be put beside frames: all of it decodes, or the first
    ``max_seconds`` of a longer one, and there is at least one sample from the first frame of the video on."""
    heard = 0
    try:
        with closing(Soundtrack(path, "fltp")) as track:
            for samples in track.samples():
                heard += samples.shape[1]
                if heard > max_seconds * RATE:
                    break
    except MediaError:
        return False
    return heard > 0


def write_sound(path: Path, to: Path, max_seconds: float) -> float:
    """Write the first sound track of a file, or the beginning of it, as plain 48 kHz stereo float WAV, from the first
    frame of the file's video on. `VideoWriter` makes the same of it as of the file itself.

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
                raise MediaError(f"{path} has no sound that can be decoded")
            output.mux(stream.encode(None))
    except (av.FFmpegError, OSError) as error:
        raise MediaError(f"cannot copy the sound of {path}: {error.strerror}") from error
    return (count - left) / RATE


class Soundtrack:
    """Reads the first sound track of a file and encodes it as far as the pictures have got, so that both lie side by
    side in the output; silence where the source has none (any more)."""

    def __init__(self, source: Path, sample_format: str) -> None:
        """``sample_format``: FFmpeg's name of what the encoder takes, "fltp" or "s16".

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
        """Add the stream that `until` encodes for, before the output is started."""
        stream = output.add_stream(encoder, rate=RATE, options=options)
        assert isinstance(stream, AudioStream)
        stream.layout, stream.format, stream.time_base = LAYOUT, self._format, Fraction(1, RATE)
        self._stream = stream

    def until(self, seconds: Fraction) -> Iterator[av.Packet[AudioStream]]:
        """Packets of the sound up to this time, to the sample.

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
        """What the encoder still holds."""
        yield from self._stream.encode(None)

    def samples(self) -> Iterator[Samples]:
        """All of it, ``[channels, n]`` at a time; instead of `attach` and `until`.

        Raises:
            MediaError: the source is damaged there.
        """
        return self._chunks

    def close(self) -> None:
        """Let go of the source; more than once is fine."""
        self._open.close()

    @property
    def _dtype(self) -> type[np.float32] | type[np.int16]:
        return np.float32 if self._format == "fltp" else np.int16

    def _take(self, count: int) -> Samples:
        """``[channels, count]``; silence after the end of the source."""
        parts, missing = [], count
        while missing:
            if not self._rest.shape[1]:
                self._rest = next(self._chunks, np.zeros((CHANNELS, missing), self._dtype))
            part, self._rest = self._rest[:, :missing], self._rest[:, missing:]
            parts.append(part)
            missing -= part.shape[1]
        return np.concatenate(parts, axis=1)

    def _decode(self, file: InputContainer, stream: AudioStream) -> Iterator[Samples]:
        """``[channels, n]`` from the first frame of the video on, or, without a video, from the first sample."""
        try:
            video = video_stream(file, self._source)
            origin = None if video.start_time is None or video.time_base is None else video.start_time * video.time_base
        except MediaError:
            origin = None
        # FFmpeg would make stereo of mono with 3 dB less on each side; it stays as loud as it is.
        layout = "mono" if stream.channels == 1 else LAYOUT
        resampler = AudioResampler(format="fltp" if self._format == "fltp" else "s16p", layout=layout, rate=RATE)
        skip: int | None = None  # samples before the video starts
        try:
            for frame in file.decode(stream):
                if skip is None:
                    start = frame.pts * frame.time_base if frame.pts is not None and frame.time_base else Fraction(0)
                    skip = 0 if origin is None else round((origin - start) * RATE)
                    while skip < 0:  # piece by piece: a damaged file may start in a thousand years
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
        except ValueError as error:  # how PyAV tells that the channels or their rate change midway
            raise MediaError(f"cannot read the sound of {self._source}: {error}") from error

    def _stereo(self, frame: av.AudioFrame) -> Samples:
        samples: Samples = frame.to_ndarray().astype(self._dtype, copy=False)
        return np.repeat(samples, CHANNELS // len(samples), axis=0)
