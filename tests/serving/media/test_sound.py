"""A sound track beside the pictures: as long as they are, in step with them, or silent."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from numpy.typing import NDArray

from tests.serving.media.files import without_sound, write_clip_with_sound
from zoetrope.model.request.tasks import InvalidRequest, TextToVideo
from zoetrope.serving.media import Container, MediaError, VideoWriter, probe, verify, write_sound
from zoetrope.serving.media.task_inputs import examine

RATE = 48_000
CONTAINERS: tuple[Container, ...] = ("mp4", "mkv")
CODECS = {"mp4": "aac", "mkv": "flac"}


def tone(seconds: float, rate: int, hertz: float = 440.0, channels: int = 1) -> NDArray[np.float32]:
    """``[channels, samples]``, at half of the full scale."""
    wave = 0.5 * np.sin(2 * np.pi * hertz * np.arange(round(seconds * rate)) / rate)
    return np.repeat(wave[None], channels, axis=0).astype(np.float32)


def sound_file(path: Path, samples: NDArray[np.float32], rate: int, *, delay: float = 0.0, video: bool = False) -> Path:
    """Lossless; ``delay`` seconds after the video, which has four black frames at 8 per second."""
    with av.open(str(path), "w") as file:
        if video:
            stream = file.add_stream("ffv1", rate=8)
            stream.width, stream.height, stream.pix_fmt = 16, 16, "bgr0"
        layout = "mono" if len(samples) == 1 else "stereo"
        track = file.add_stream("pcm_s16le", rate=rate, layout=layout)
        if video:
            for _ in range(4):
                file.mux(stream.encode(av.VideoFrame.from_ndarray(np.zeros((16, 16, 3), np.uint8), format="rgb24")))
            file.mux(stream.encode(None))
        values = (samples * 32767).round().astype(np.int16)
        frame = av.AudioFrame.from_ndarray(values.T.reshape(1, -1).copy(), format="s16", layout=layout)
        frame.sample_rate, frame.pts, frame.time_base = rate, round(delay * rate), Fraction(1, rate)
        file.mux(track.encode(frame))
        file.mux(track.encode(None))
    return path


def video(path: Path, container: Container, frames: int, fps: int, audio: Path | None) -> Path:
    with VideoWriter(path, 32, 32, fps, container, {}, audio=audio) as writer:
        for index in range(frames):
            writer.write(np.full((1, 32, 32, 3), 10 * index % 256, np.uint8))
    return path


def heard(path: Path) -> NDArray[np.float32]:
    """``[channels, samples]`` at 48 kHz."""
    with av.open(str(path)) as file:
        resampler = av.AudioResampler(format="fltp", layout="stereo", rate=RATE)
        pieces = [piece for frame in file.decode(audio=0) for piece in resampler.resample(frame)]
        return np.concatenate([piece.to_ndarray() for piece in pieces], axis=1).astype(np.float32)


def loudness(samples: NDArray[np.float32]) -> float:
    return float(np.sqrt(np.mean(np.square(samples))))


@pytest.mark.parametrize("container", CONTAINERS)
@pytest.mark.parametrize("rate, channels", [(48_000, 2), (44_100, 1), (8_000, 2)])
def test_sound_is_resampled_and_cut_to_the_pictures(
    tmp_path: Path, container: Container, rate: int, channels: int
) -> None:
    source = sound_file(tmp_path / "a.wav", tone(3.0, rate, channels=channels), rate)
    path = video(tmp_path / "clip", container, 17, 16, source)
    info = verify(path, container=container, width=32, height=32, frames=17, fps=16, audio=True)
    assert info.has_audio and info.duration_seconds == pytest.approx(17 / 16, abs=0.002)
    samples = heard(path)
    with av.open(str(path)) as file:
        stream = file.streams.audio[0]
        assert (stream.codec_context.name, stream.rate, stream.layout.name) == (CODECS[container], RATE, "stereo")
    length = 17 * RATE // 16
    assert abs(samples.shape[1] - length) <= (1_024 if container == "mp4" else 0), "AAC comes in blocks"
    middle = samples[:, RATE // 4 : 3 * RATE // 4]
    spectrum = np.abs(np.fft.rfft(middle[0]))
    assert np.argmax(spectrum) / (middle.shape[1] / RATE) == pytest.approx(440, abs=2)
    assert loudness(middle) == pytest.approx(0.5 / 2**0.5, rel=0.05)
    assert loudness(samples[:, length - 4_000 : length - 500]) == pytest.approx(0.5 / 2**0.5, rel=0.1)


@pytest.mark.parametrize("container", CONTAINERS)
def test_what_is_missing_is_silence(tmp_path: Path, container: Container) -> None:
    source = sound_file(tmp_path / "a.wav", tone(0.5, RATE), RATE)
    samples = heard(video(tmp_path / "clip", container, 24, 16, source))
    assert samples.shape[1] >= 3 * RATE // 2
    assert loudness(samples[:, RATE // 8 : 3 * RATE // 8]) > 0.3
    assert loudness(samples[:, 3 * RATE // 5 :]) < 1e-3


def test_flac_keeps_every_sample(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).uniform(-0.9, 0.9, (2, RATE)).astype(np.float32)
    source = sound_file(tmp_path / "a.wav", noise, RATE)
    samples = heard(video(tmp_path / "clip.mkv", "mkv", 8, 8, source))
    np.testing.assert_array_equal((samples * 32768).round(), (noise * 32767).round())


@pytest.mark.parametrize("delay", [0.0, 0.25])
def test_the_sound_of_a_clip_stays_in_step(tmp_path: Path, delay: float) -> None:
    source = sound_file(tmp_path / "source.mkv", tone(0.25, RATE), RATE, delay=delay, video=True)
    samples = heard(video(tmp_path / "clip.mkv", "mkv", 6, 8, source))
    assert samples.shape[1] == 6 * RATE // 8
    loud = np.nonzero(np.abs(samples[0]) > 0.1)[0]
    assert loud[0] == pytest.approx(delay * RATE, abs=0.005 * RATE)
    assert loud[-1] == pytest.approx((delay + 0.25) * RATE, abs=0.005 * RATE)


@pytest.mark.parametrize("container", CONTAINERS)
def test_the_same_sound_gives_the_same_bytes(tmp_path: Path, container: Container) -> None:
    source = sound_file(tmp_path / "a.wav", tone(1.0, 44_100), 44_100)
    first, second = (video(tmp_path / name, container, 12, 8, source).read_bytes() for name in ("a", "b"))
    assert first == second


@pytest.mark.parametrize("container", CONTAINERS)
def test_pictures_are_the_same_with_and_without_sound(tmp_path: Path, container: Container) -> None:
    source = sound_file(tmp_path / "a.wav", tone(1.0, RATE), RATE)
    decoded = []
    for name, audio in (("with", source), ("without", None)):
        with av.open(str(video(tmp_path / name, container, 60, 24, audio))) as file:
            decoded.append(np.stack([frame.to_ndarray(format="rgb24") for frame in file.decode(video=0)]))
    np.testing.assert_array_equal(decoded[0], decoded[1])


def test_verify_notices_sound_that_should_not_be_there_and_its_lack(tmp_path: Path) -> None:
    source = sound_file(tmp_path / "a.wav", tone(1.0, RATE), RATE)
    loud, mute = video(tmp_path / "l", "mp4", 8, 8, source), video(tmp_path / "m", "mp4", 8, 8, None)
    with pytest.raises(MediaError, match="has_audio True instead of False"):
        verify(loud, container="mp4", width=32, height=32, frames=8, fps=8)
    with pytest.raises(MediaError, match="has_audio False instead of True"):
        verify(mute, container="mp4", width=32, height=32, frames=8, fps=8, audio=True)
    assert probe(loud).faststart


def test_a_source_without_sound_is_refused_and_leaves_no_file(tmp_path: Path) -> None:
    source = video(tmp_path / "mute.mp4", "mp4", 2, 8, None)
    (tmp_path / "text.wav").write_text("no sound")
    for name, complaint in (
        ("mute.mp4", r"mute\.mp4 has no sound"),
        ("text.wav", r"text\.wav"),
        ("gone.wav", "No such"),
    ):
        with pytest.raises(MediaError, match=complaint):
            VideoWriter(tmp_path / "clip.mp4", 32, 32, 8, "mp4", {}, audio=tmp_path / name)
    assert source.exists() and not (tmp_path / "clip.mp4").exists()


# What there is to hear is known before anything is made of it.


def test_sound_that_cannot_be_used_is_found_where_it_is_named(tmp_path: Path) -> None:
    for what, path in without_sound(tmp_path).items():
        with pytest.raises(InvalidRequest) as caught:
            examine(TextToVideo(prompt="a"), audio=str(path))
        [violation] = caught.value.violations
        assert violation.field == "audio" and path.name in violation.description, what
        if path.suffix in (".mp4", ".mkv"):
            assert not probe(path).has_audio, f"{what}: to see, there is something"
            assert "has no decodable sound" in violation.description


@pytest.mark.parametrize(
    "seconds, first",
    [(0.75, 0.0), (0.01, 0.0), (0.5, 0.7), (0.5, 5.0), (130.0, 0.0)],
    ids=["as long", "short", "late", "after the pictures", "longer than clips may be"],
)
def test_a_clip_whose_sound_is_said_to_be_there_can_be_written_with_it(
    tmp_path: Path, seconds: float, first: float
) -> None:
    source = write_clip_with_sound(tmp_path / "a.mkv", "flac", seconds=seconds, first=first)
    assert probe(source).has_audio
    assert examine(TextToVideo(prompt="a"), audio=str(source)) == {}
    write_sound(source, tmp_path / "copy.wav", 1.0)
    for audio in (source, tmp_path / "copy.wav"):
        path = video(tmp_path / "clip.mp4", "mp4", 8, 8, audio)
        verify(path, container="mp4", width=32, height=32, frames=8, fps=8, audio=True)
    samples = heard(tmp_path / "clip.mp4")[:, :RATE]
    assert (loudness(samples) > 0.01) == (first < 1)


def test_there_is_no_copy_of_what_is_not_there(tmp_path: Path) -> None:
    source = without_sound(tmp_path)["a track without a sample"]
    with pytest.raises(MediaError, match="has no decodable sound"):
        write_sound(source, tmp_path / "copy.wav", 1.0)
