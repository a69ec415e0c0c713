"""Clips of any kind come out upright in RGB at a constant rate, or are refused with the reason."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from fractions import Fraction
from itertools import accumulate
from pathlib import Path

import av
import numpy as np
import pytest
from av.video.stream import VideoStream
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from zoetrope.serving.media import MediaError, clips, probe, read_clip, streams

Frames = NDArray[np.uint8]
MATRICES = {  # a, b, u, c, d, v, x, y, w in fixed point: a pixel (p, q) is shown at (a p + c q, b p + d q)
    "upright": (1, 0, 0, 1),
    "quarter clockwise": (0, 1, -1, 0),
    "half": (-1, 0, 0, -1),
    "quarter counter-clockwise": (0, -1, 1, 0),
    "mirrored": (-1, 0, 0, 1),
}


def grey(values: Sequence[int], width: int = 32, height: int = 32) -> Frames:
    """One plain frame for each value."""
    return np.broadcast_to(np.array(values, np.uint8)[:, None, None, None], (len(values), height, width, 3)).copy()


def corner(count: int, width: int, height: int) -> Frames:
    """Black, with white in the upper left quarter and grey in the lower left one."""
    frames = np.zeros((count, height, width, 3), np.uint8)
    frames[:, : height // 2, : width // 2] = 255
    frames[:, height // 2 :, : width // 2] = 128
    return frames


def write(
    path: Path,
    frames: Frames,
    *,
    codec: str = "libx264",
    pixel_format: str = "yuv420p",
    rate: int = 16,
    times: Sequence[int] | None = None,  # in milliseconds, instead of the rate
    matrix: tuple[int, int, int, int] | None = None,
    aspect: Fraction | None = None,
    sound: bool = False,
    **options: str,
) -> Path:
    with av.open(str(path), "w", container_options=options) as file:
        stream = file.add_stream(codec, rate=rate, options={"crf": "1"} if codec == "libx264" else {})
        assert isinstance(stream, VideoStream)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = pixel_format
        if codec == "libx264" and times is not None:
            stream.codec_context.max_b_frames = 0
        if times is not None:
            stream.codec_context.time_base = Fraction(1, 1000)
            stream.time_base = Fraction(1, 1000)
        if aspect is not None:
            stream.codec_context.sample_aspect_ratio = aspect
        if matrix is not None:
            a, b, c, d = (value << 16 for value in matrix)
            stream.set_display_matrix([a, b, 0, c, d, 0, 0, 0, 1 << 30])
        track = file.add_stream("aac", rate=8_000) if sound else None
        for index, pixels in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts, frame.time_base = (
                (index, Fraction(1, rate)) if times is None else (times[index], Fraction(1, 1000))
            )
            file.mux(stream.encode(frame))
        file.mux(stream.encode(None))
        if track is not None:
            silence = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.float32), format="fltp", layout="mono")
            silence.sample_rate, silence.pts, silence.time_base = 8_000, 0, Fraction(1, 8_000)
            file.mux(track.encode(silence))
            file.mux(track.encode(None))
    return path


def shades(frames: Frames) -> list[int]:
    return [round(float(frame.mean())) for frame in frames]


@pytest.mark.parametrize(
    "name, codec, pixel_format",
    [
        ("a.mp4", "libx264", "yuv420p"),
        ("a.mov", "libx264", "yuv422p"),
        ("a.mkv", "libx264", "yuv444p"),
        ("a.mp4", "libx264", "yuv420p10le"),
        ("a.mp4", "libx265", "yuv444p12le"),
        ("a.mov", "prores_ks", "yuv422p10le"),
        ("a.webm", "libvpx-vp9", "yuv420p"),
        ("a.mkv", "ffv1", "gray16le"),
        ("a.mkv", "ffv1", "yuva420p"),
        ("a.avi", "mpeg4", "yuv420p"),
        ("a.ts", "libx264", "yuv420p"),
    ],
)
def test_codecs_chroma_and_depths(tmp_path: Path, name: str, codec: str, pixel_format: str) -> None:
    values = [40, 80, 120, 160, 200]
    path = write(tmp_path / name, grey(values), codec=codec, pixel_format=pixel_format)
    clip = read_clip(path, max_seconds=2)
    assert clip.frames.shape == (5, 32, 32, 3) and clip.frames.dtype == np.uint8
    assert clip.fps == pytest.approx(16, rel=0.02)
    np.testing.assert_allclose(shades(clip.frames), values, atol=6)
    info = probe(path)
    assert (info.kind, info.frames, info.width, info.height, info.has_audio) == ("clip", 5, 32, 32, False)


@pytest.mark.parametrize("width, height", [(33, 17), (1, 1), (9, 65)])
@pytest.mark.parametrize("codec, pixel_format", [("ffv1", "yuv420p"), ("ffv1", "bgr0"), ("libx264", "yuv444p")])
def test_odd_sizes(tmp_path: Path, width: int, height: int, codec: str, pixel_format: str) -> None:
    path = write(tmp_path / "a.mkv", grey([50, 150], width, height), codec=codec, pixel_format=pixel_format)
    clip = read_clip(path, fps=16, max_seconds=1)
    assert clip.frames.shape == (2, height, width, 3)
    np.testing.assert_allclose(shades(clip.frames), [50, 150], atol=3)


@pytest.mark.parametrize("how", MATRICES)
def test_the_display_matrix_is_applied(tmp_path: Path, how: str) -> None:
    stored = corner(2, 64, 32)
    shown = {
        "upright": stored,
        "quarter clockwise": np.rot90(stored, -1, (1, 2)),
        "half": np.rot90(stored, 2, (1, 2)),
        "quarter counter-clockwise": np.rot90(stored, 1, (1, 2)),
        "mirrored": stored[:, :, ::-1],
    }[how]
    path = write(tmp_path / "turned.mp4", stored, matrix=MATRICES[how])
    frames = read_clip(path, max_seconds=1).frames
    assert frames.shape == shown.shape
    assert np.abs(frames.astype(int) - shown)[:, 4::8, 4::8].max() < 12
    info = probe(path)
    assert (info.height, info.width) == shown.shape[1:3]


def test_pixels_become_square(tmp_path: Path) -> None:
    path = write(tmp_path / "anamorphic.mp4", corner(2, 48, 32), aspect=Fraction(4, 3))
    frames = read_clip(path, max_seconds=1).frames
    assert frames.shape == (2, 32, 64, 3)
    assert frames[0, 8, 24].min() > 240 and frames[0, 8, 40].max() < 15
    assert (probe(path).width, probe(path).height) == (64, 32)


@pytest.mark.parametrize("tagged", [False, True])
def test_large_frames_without_a_colour_space_are_taken_for_bt709(tmp_path: Path, tagged: bool) -> None:
    """As players do; with a wrong matrix, this red would come out about 20 levels off."""
    path = tmp_path / "a.mkv"
    with av.open(str(path), "w") as file:
        stream = file.add_stream("ffv1", rate=8)
        stream.width, stream.height, stream.pix_fmt = 16, 720, "yuv444p"
        if tagged:
            stream.codec_context.colorspace = 1
        # BT.709's numbers for (255, 0, 0) in limited range
        planes = np.stack([np.full((720, 16), value, np.uint8) for value in (63, 102, 240)])
        file.mux(stream.encode(av.VideoFrame.from_ndarray(planes, format="yuv444p")))
        file.mux(stream.encode(None))
    assert np.abs(read_clip(path, max_seconds=1).frames.astype(int) - (255, 0, 0)).max() <= 2


def test_a_rate_is_changed_by_nearest_time(tmp_path: Path) -> None:
    values = list(range(20, 220, 10))  # 20 frames, 1.25 s
    path = write(tmp_path / "a.mkv", grey(values), codec="ffv1", pixel_format="bgr0")
    assert shades(read_clip(path, fps=16, max_seconds=2).frames) == values
    half = read_clip(path, fps=8, max_seconds=2)
    assert half.fps == 8 and shades(half.frames) == values[::2]
    double = read_clip(path, fps=32, max_seconds=2)
    assert len(double.frames) == 40
    assert all(abs(b - a) <= 10 for a, b in zip(shades(double.frames), shades(double.frames)[1:], strict=False))
    assert len(read_clip(path, fps=24, max_seconds=2).frames) == 30
    assert len(read_clip(path, fps=0.5, max_seconds=2).frames) == 1


@pytest.mark.parametrize("name", ["a.mkv", "a.mp4"])
def test_a_variable_rate_becomes_constant(tmp_path: Path, name: str) -> None:
    times = [0, 100, 150, 500, 900]
    path = write(tmp_path / name, grey([20, 60, 100, 140, 180]), times=times, rate=10, pixel_format="yuv444p")
    clip = read_clip(path, fps=10, max_seconds=2)
    # at 0.3 s the frame of 0.15 s is nearer than that of 0.5 s, at 0.7 s both neighbours are equally near
    expected = [20, 60, 100, 100, 140, 140, 140, 140, 180, 180]
    np.testing.assert_allclose(shades(clip.frames)[:10], expected, atol=2)
    raw = read_clip(path, max_seconds=2)
    np.testing.assert_allclose(shades(raw.frames), [20, 60, 100, 140, 180], atol=2)


@given(gaps=st.lists(st.integers(20, 400), min_size=1, max_size=8), fps=st.sampled_from([4, 16, 24, 30]))
def test_every_tick_shows_the_nearest_frame(gaps: list[int], fps: int) -> None:
    starts = [Fraction(t, 1000) for t in accumulate(gaps, initial=0)]
    ends = [*starts[1:], starts[-1] + Fraction(gaps[-1], 1000)]
    frame = av.VideoFrame(16, 16)
    timed = [streams.TimedFrame(frame, start, end) for start, end in zip(starts, ends, strict=True)]
    shown = list(clips.nearest(timed, Fraction(fps)))
    assert abs(len(shown) - ends[-1] * fps) <= 1
    for tick, item in enumerate(shown):
        now = Fraction(tick, fps)
        assert abs(item.start - now) == min(abs(other.start - now) for other in timed)


def test_frames_can_be_fitted_as_they_come(tmp_path: Path) -> None:
    path = write(tmp_path / "a.mp4", corner(3, 96, 32))
    clip = read_clip(path, max_seconds=1, size=(24, 16))
    assert clip.frames.shape == (3, 16, 24, 3)
    assert clip.frames[0, 4, 4].min() > 240, "the middle half of the width is left, its left half is bright"


def test_sound_does_not_disturb(tmp_path: Path) -> None:
    path = write(tmp_path / "a.mp4", grey([60, 160]), sound=True)
    assert probe(path).has_audio
    np.testing.assert_allclose(shades(read_clip(path, max_seconds=1).frames), [60, 160], atol=4)


# Refused


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.avi", "a.ts"])
def test_a_long_clip_is_refused_with_its_length_and_the_limit(tmp_path: Path, name: str) -> None:
    path = write(tmp_path / name, grey([100] * 48), codec="mpeg4" if name == "a.avi" else "libx264")
    assert len(read_clip(path, max_seconds=3.0).frames) == 48
    with pytest.raises(MediaError, match=r"lasts (3\.0|2\.[67])\d* s or more, the limit is 2\.5 s"):
        read_clip(path, max_seconds=2.5)


def test_a_long_clip_is_refused_before_it_is_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The declared length is enough: this file's frames could not be decoded at all."""
    path = write(tmp_path / "a.mp4", grey([100] * 48), movflags="+faststart")
    content = bytearray(path.read_bytes())
    start = content.index(b"mdat") + 4
    content[start:] = bytes(len(content) - start)
    path.write_bytes(content)
    with pytest.raises(MediaError, match=r"lasts 3\.000 s or more, the limit is 2 s"):
        read_clip(path, max_seconds=2)
    monkeypatch.setattr("zoetrope.serving.media.info.MAX_CLIP_SECONDS", 2.0)
    with pytest.raises(MediaError, match=r"the limit is 2 s"):
        probe(path)


def test_large_frames_are_refused_before_they_are_decoded(tmp_path: Path) -> None:
    path = write(tmp_path / "a.mkv", np.zeros((1, 4_000, 4_000, 3), np.uint8), codec="ffv1", pixel_format="bgr0")
    for look in (probe, lambda path: read_clip(path, max_seconds=1)):
        with pytest.raises(MediaError, match=r"4000x4000, 16000000 pixels; the limit is 9437184"):
            look(path)


def test_too_many_frames_and_bytes_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "a.mp4", grey([100] * 16))
    with pytest.raises(
        MediaError, match=r"needs 4300210176 bytes for 1399808 frames of 32x32, the limit is 4294967296"
    ):
        read_clip(path, fps=1_399_808, max_seconds=1)
    monkeypatch.setattr("zoetrope.serving.media.streams.MAX_CLIP_FRAMES", 15)
    with pytest.raises(MediaError, match="more than 15 frames"):
        probe(path)
    # MP4 says how many there are before the first one is decoded, Matroska does not.
    with pytest.raises(MediaError, match="more than 15 frames"), clips.open_clip(path, 9.0):
        pass
    path = write(tmp_path / "a.mkv", grey([100] * 16))
    with clips.open_clip(path, 9.0):
        pass
    with pytest.raises(MediaError, match="more than 15 frames"):
        probe(path)


def test_sound_alone_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "sound.m4a"
    with av.open(str(path), "w", format="mp4") as file:
        stream = file.add_stream("aac", rate=8_000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.float32), format="fltp", layout="mono")
        frame.sample_rate, frame.pts, frame.time_base = 8_000, 0, Fraction(1, 8_000)
        file.mux(stream.encode(frame))
        file.mux(stream.encode(None))
    with pytest.raises(MediaError, match=r"sound\.m4a has no video, only sound"):
        read_clip(path, max_seconds=1)


def test_a_picture_is_no_clip(tmp_path: Path) -> None:
    """Neither is one of a format that may move."""
    Image.new("RGB", (16, 16), "red").save(tmp_path / "a.gif")
    with pytest.raises(MediaError, match=r"a\.gif is a picture \(GIF\), not a clip"):
        read_clip(tmp_path / "a.gif", max_seconds=1)


@pytest.mark.parametrize("content", [b"", b"no video at all\n" * 100, b"ffconcat version 1.0\nfile other.mp4\n"])
def test_what_is_no_clip_is_named(tmp_path: Path, content: bytes) -> None:
    write(tmp_path / "other.mp4", grey([100]))
    path = tmp_path / "text.mp4"
    path.write_bytes(content)
    with pytest.raises(MediaError, match=r"text\.mp4") as caught:
        read_clip(path, max_seconds=1)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["list.m3u8", "list.mp4"])
def test_a_playlist_does_not_open_other_files(tmp_path: Path, name: str) -> None:
    write(tmp_path / "other.ts", grey([100, 100]))
    text = "#EXTM3U\n#EXT-X-VERSION:3\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nother.ts\n#EXT-X-ENDLIST\n"
    (tmp_path / name).write_text(text)
    with pytest.raises(MediaError, match=r"list\."):
        read_clip(tmp_path / name, max_seconds=5)


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.webm", "a.avi"])
def test_a_clip_that_is_cut_short_is_refused(tmp_path: Path, name: str) -> None:
    codec = {"a.webm": "libvpx-vp9", "a.avi": "mpeg4"}.get(name, "libx264")
    noise = np.random.default_rng(0).integers(0, 256, (8, 32, 32, 3), dtype=np.uint8)
    content = write(tmp_path / name, noise, codec=codec).read_bytes()
    cut = tmp_path / f"cut{name}"
    for part in (0.05, 0.5, 0.9):
        cut.write_bytes(content[: int(len(content) * part)])
        with pytest.raises(MediaError, match="cuta") as caught:
            read_clip(cut, max_seconds=5)
        assert "\n" not in str(caught.value)


def test_a_change_of_size_is_refused(tmp_path: Path) -> None:
    parts = [write(tmp_path / f"{side}.webm", grey([100] * 4, side, side), codec="libvpx-vp9") for side in (32, 64)]
    path = tmp_path / "joined.webm"
    with av.open(str(parts[0])) as small, av.open(str(parts[1])) as large, av.open(str(path), "w") as joined:
        stream = joined.add_stream_from_template(small.streams.video[0])
        for index, file in enumerate((small, large)):
            for packet in file.demux(video=0):
                if packet.dts is None:
                    continue  # the end
                packet.stream = stream
                packet.pts = packet.dts = packet.dts + 1_000 * index
                joined.mux(packet)
    with pytest.raises(MediaError, match=r"frame 4 is 64x64, not 32x32"):
        read_clip(path, max_seconds=5)


def test_shapes_know_how_they_are_displayed() -> None:
    shape = streams.VideoShape(64, 32, False, False, False)
    assert shape.displayed == (64, 32) and dataclasses.replace(shape, transposed=True).displayed == (32, 64)
