"""Video files: what is written can be read back, what is damaged or different is noticed."""

from __future__ import annotations

import struct
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from zoetrope.serving.media import Container, MediaError, ProbedMedia, VideoWriter, probe, resize_cover, verify

Frames = NDArray[np.uint8]
CONTAINERS: tuple[Container, ...] = ("mp4", "mkv")


def moving(frames: int, width: int, height: int) -> Frames:
    """A smooth pattern that moves."""
    n, y, x = np.mgrid[:frames, :height, :width]
    return np.stack([128 + 90 * np.sin(x / 9 + n), 128 + 90 * np.cos(y / 7 - n), (x + y + 5 * n) % 256], -1).astype(
        np.uint8
    )


def write(path: Path, frames: Frames, fps: int, container: Container) -> None:
    height, width = frames.shape[1:3]
    with VideoWriter(path, width, height, fps, container, {"title": "a test", "seed": "7"}) as writer:
        for start in range(0, len(frames), 4):
            writer.write(frames[start : start + 4])


def decoded(path: Path) -> Frames:
    with av.open(str(path)) as file:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in file.decode(video=0)]).astype(np.uint8)


def boxes(content: bytes) -> list[tuple[str, int, int]]:
    """Name, start and end of each top-level box of an MP4 file."""
    found, position = [], 0
    while position < len(content):
        size, kind = struct.unpack(">I4s", content[position : position + 8])
        found.append((kind.decode(), position, position + size))
        position += size
    return found


# Writing


def test_an_mp4_is_what_players_expect(tmp_path: Path) -> None:
    path = tmp_path / "clip.mp4"
    write(path, moving(33, 96, 64), 16, "mp4")
    info = probe(path)
    assert info == ProbedMedia(
        container="mp4",
        codec="h264",
        pixel_format="yuv420p",
        width=96,
        height=64,
        frames=33,
        fps=16.0,
        duration_seconds=33 / 16,
        faststart=True,
        metadata=info.metadata,
    )
    assert info.metadata["title"] == "a test" and info.metadata["seed"] == "7"
    assert [name for name, _, _ in boxes(path.read_bytes())][:2] == ["ftyp", "moov"]
    with av.open(str(path)) as file:
        frame = next(file.decode(video=0))
        assert (frame.colorspace, frame.color_primaries, frame.color_trc, frame.color_range) == (1, 1, 1, 1)


def test_an_mkv_is_lossless(tmp_path: Path) -> None:
    path = tmp_path / "clip.mkv"
    frames = np.random.default_rng(0).integers(0, 256, (9, 62, 95, 3), dtype=np.uint8)  # odd sides as well
    write(path, frames, 12, "mkv")
    np.testing.assert_array_equal(decoded(path), frames)
    info = verify(path, container="mkv", width=95, height=62, frames=9, fps=12)
    assert (info.codec, info.pixel_format, info.faststart) == ("ffv1", "bgr0", None)
    assert info.metadata["title"] == "a test" and info.metadata["seed"] == "7"


@pytest.mark.parametrize("colour", [(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255), (0, 0, 0), (12, 200, 77)])
def test_an_mp4_keeps_colours(tmp_path: Path, colour: tuple[int, int, int]) -> None:
    path = tmp_path / "clip.mp4"
    write(path, np.full((3, 64, 64, 3), colour, np.uint8), 8, "mp4")
    assert np.abs(decoded(path).astype(int) - colour).max() <= 3


def test_an_mp4_keeps_pictures(tmp_path: Path) -> None:
    path = tmp_path / "clip.mp4"
    frames = moving(8, 96, 64)
    frames[..., 2] = 128
    write(path, frames, 8, "mp4")
    error = np.mean((decoded(path).astype(float) - frames) ** 2)
    assert 10 * np.log10(255**2 / error) > 36


@pytest.mark.parametrize("container", CONTAINERS)
@pytest.mark.parametrize("frames, fps", [(1, 1), (1, 24), (2, 60), (5, 7), (17, 16), (49, 24), (30, 29)])
def test_counts_and_rates_are_exact(tmp_path: Path, container: Container, frames: int, fps: int) -> None:
    path = tmp_path / "clip"  # the suffix does not matter
    write(path, moving(frames, 32, 32), fps, container)
    info = verify(path, container=container, width=32, height=32, frames=frames, fps=fps)
    assert info.frames == frames and info.fps == pytest.approx(fps)
    assert info.duration_seconds == pytest.approx(frames / fps, abs=1e-5 if container == "mp4" else 0.002)


@pytest.mark.parametrize("container", CONTAINERS)
def test_the_same_frames_give_the_same_bytes(tmp_path: Path, container: Container) -> None:
    for name in ("a", "b"):
        write(tmp_path / name, moving(5, 64, 32), 8, container)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


@pytest.mark.parametrize(
    "frames",
    [
        np.zeros((2, 32, 64, 3), np.float32),
        np.zeros((32, 64, 3), np.uint8),
        np.zeros((2, 64, 32, 3), np.uint8),
        np.zeros((2, 32, 64, 4), np.uint8),
    ],
)
def test_frames_that_do_not_fit_are_refused_and_leave_no_file(tmp_path: Path, frames: Frames) -> None:
    path = tmp_path / "clip.mp4"
    with (
        pytest.raises(MediaError, match=r"the file takes uint8 \[n, 32, 64, 3\]"),
        VideoWriter(path, 64, 32, 8, "mp4", {}) as writer,
    ):
        writer.write(frames)
    assert not path.exists()


def test_an_error_while_frames_are_made_leaves_no_file(tmp_path: Path) -> None:
    path = tmp_path / "clip.mkv"
    with pytest.raises(ZeroDivisionError), VideoWriter(path, 64, 32, 8, "mkv", {}) as writer:
        writer.write(moving(3, 64, 32))
        raise ZeroDivisionError
    assert not path.exists()


@pytest.mark.parametrize("container", CONTAINERS)
def test_a_video_without_frames_is_refused(tmp_path: Path, container: Container) -> None:
    path = tmp_path / "clip"
    with pytest.raises(MediaError, match="no frames"), VideoWriter(path, 64, 32, 8, container, {}) as writer:
        writer.write(moving(0, 64, 32))
    assert not path.exists()


@pytest.mark.parametrize(
    "width, height, fps, container", [(63, 32, 8, "mp4"), (0, 32, 8, "mkv"), (64, 32, 0, "mp4"), (64, 32, 8, "avi")]
)
def test_what_a_file_cannot_hold_is_refused(
    tmp_path: Path, width: int, height: int, fps: int, container: Container
) -> None:
    with pytest.raises(MediaError):
        VideoWriter(tmp_path / "clip", width, height, fps, container, {})
    assert list(tmp_path.iterdir()) == []


def test_a_path_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    with pytest.raises(MediaError, match=r"missing.clip\.mp4: No such file"):
        VideoWriter(tmp_path / "missing" / "clip.mp4", 64, 32, 8, "mp4", {})


# Checking


@pytest.mark.parametrize(
    "changes, complaint",
    [
        ({"frames": 16}, "frames 17 instead of 16"),
        ({"frames": 18}, "frames 17 instead of 18"),
        ({"width": 66}, "width 64 instead of 66"),
        ({"height": 48}, "height 32 instead of 48"),
        ({"fps": 24}, "fps 16 instead of 24"),
        ({"fps": 17}, "fps 16 instead of 17"),
    ],
)
@pytest.mark.parametrize("container", CONTAINERS)
def test_verify_names_what_differs(
    tmp_path: Path, container: Container, changes: dict[str, int], complaint: str
) -> None:
    path = tmp_path / "clip"
    write(path, moving(17, 64, 32), 16, container)
    expected: dict[str, Any] = {"width": 64, "height": 32, "frames": 17, "fps": 16}
    assert verify(path, container=container, **expected) == probe(path)
    with pytest.raises(MediaError, match=complaint):
        verify(path, container=container, **(expected | changes))


def test_verify_names_another_container_and_codec(tmp_path: Path) -> None:
    path = tmp_path / "clip.mp4"
    write(path, moving(17, 64, 32), 16, "mkv")
    with pytest.raises(MediaError, match="container mkv instead of mp4, codec ffv1 instead of h264, pixel_format bgr0"):
        verify(path, container="mp4", width=64, height=32, frames=17, fps=16)


@pytest.mark.parametrize("container", CONTAINERS)
def test_a_truncated_file_is_noticed_wherever_it_ends(tmp_path: Path, container: Container) -> None:
    path, cut = tmp_path / "clip", tmp_path / "cut"
    write(path, moving(9, 32, 32), 8, container)
    content = path.read_bytes()
    lengths = {*range(0, len(content), 61), *range(len(content) - 20, len(content))}
    for length in sorted(lengths):
        cut.write_bytes(content[:length])
        with pytest.raises(MediaError) as caught:
            verify(cut, container=container, width=32, height=32, frames=9, fps=8)
        assert "\n" not in str(caught.value)


@settings(deadline=None)  # the machine may be busy
@given(damage=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(1, 255)), min_size=1, max_size=20))
def test_a_damaged_file_never_raises_anything_else(
    tmp_path_factory: pytest.TempPathFactory, damage: list[tuple[float, int]]
) -> None:
    directory = tmp_path_factory.mktemp("media")
    for container in CONTAINERS:
        path = directory / container
        write(path, moving(2, 32, 32), 8, container)
        content = bytearray(path.read_bytes())
        for where, what in damage:
            content[int(where * len(content))] ^= what
        path.write_bytes(content)
        try:
            assert probe(path).width > 0
        except MediaError as error:
            assert "\n" not in str(error)


@pytest.mark.parametrize("content", [b"", b"no video at all\n" * 100])
def test_a_file_that_is_no_video_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "clip.mp4"
    path.write_bytes(content)
    with pytest.raises(MediaError, match=r"clip\.mp4"):
        probe(path)
    path.unlink()
    with pytest.raises(MediaError, match=r"clip\.mp4: No such file"):
        probe(path)


def test_sound_without_pictures_is_no_video(tmp_path: Path) -> None:
    path = tmp_path / "sound.mkv"
    with av.open(str(path), "w") as file:
        stream = file.add_stream("flac", rate=48_000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 4_800), np.int16), format="s16", layout="mono")
        frame.sample_rate, frame.pts, frame.time_base = 48_000, 0, Fraction(1, 48_000)
        file.mux(stream.encode(frame))
        file.mux(stream.encode(None))
    with pytest.raises(MediaError, match="has no video"):
        probe(path)


def test_an_index_after_the_data_is_no_faststart(tmp_path: Path) -> None:
    path = tmp_path / "clip.mp4"
    with av.open(str(path), "w") as file:
        stream = file.add_stream("libx264", rate=8)
        stream.width, stream.height, stream.pix_fmt = 32, 32, "yuv420p"
        for pixels in moving(4, 32, 32):
            file.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        file.mux(stream.encode(None))
    assert probe(path).faststart is False
    with pytest.raises(MediaError, match="faststart False instead of True"):
        verify(path, container="mp4", width=32, height=32, frames=4, fps=8)


def test_boxes_with_long_and_open_sizes_are_walked(tmp_path: Path) -> None:
    path = tmp_path / "clip.mp4"
    write(path, moving(4, 32, 32), 8, "mp4")
    content = path.read_bytes()
    parts = {name: content[start:end] for name, start, end in boxes(content)}
    extra = struct.pack(">I4sQ", 1, b"free", 20) + b"1234"  # a 64-bit size
    last = struct.pack(">I", 0) + parts["mdat"][4:]  # a size that means: to the end
    rest = b"".join(part for name, part in parts.items() if name not in ("ftyp", "moov", "mdat"))
    # Nothing in front of the data may move, for the index holds its positions: what is new takes the place of `rest`.
    assert rest and len(content) == sum(map(len, parts.values()))
    path.write_bytes(parts["ftyp"] + parts["moov"] + rest + last)
    assert verify(path, container="mp4", width=32, height=32, frames=4, fps=8).faststart
    path.write_bytes(content + extra)
    assert verify(path, container="mp4", width=32, height=32, frames=4, fps=8).faststart
    path.write_bytes(content + extra[:-1])
    with pytest.raises(MediaError, match="truncated"):
        probe(path)


# Fitting


def disc(width: int, height: int, radius: float) -> Frames:
    """A white disc in the middle of black."""
    y, x = np.mgrid[:height, :width]
    inside = (x - (width - 1) / 2) ** 2 + (y - (height - 1) / 2) ** 2 < radius**2
    return np.repeat(inside[None, :, :, None] * np.uint8(255), 3, axis=3)


@pytest.mark.parametrize("size", [(832, 480), (480, 832), (624, 624), (96, 64), (100, 70), (48, 40), (98, 64)])
def test_a_disc_in_the_middle_stays_one(size: tuple[int, int]) -> None:
    width, height = size
    result = resize_cover(disc(96, 64, 16.0), width, height)
    assert result.shape == (1, height, width, 3) and result.dtype == np.uint8
    scale = max(width / 96, height / 64)
    rows, columns = np.nonzero(result[0, :, :, 1] > 127)
    across, down = np.ptp(columns) + 1, np.ptp(rows) + 1
    assert across == pytest.approx(down, abs=max(2, scale))
    assert across == pytest.approx(32 * scale, abs=2 * max(scale, 1))
    assert columns.mean() == pytest.approx((width - 1) / 2, abs=0.5)
    assert rows.mean() == pytest.approx((height - 1) / 2, abs=0.5)


def test_equal_sizes_are_left_alone() -> None:
    frames = moving(2, 96, 64)
    assert resize_cover(frames, 96, 64) is frames


@given(
    shape=st.tuples(st.integers(0, 3), st.integers(1, 20), st.integers(1, 20)),
    width=st.integers(1, 40),
    height=st.integers(1, 40),
    colour=st.tuples(*[st.integers(0, 255)] * 3),
)
def test_one_colour_fills_any_size(
    shape: tuple[int, int, int], width: int, height: int, colour: tuple[int, int, int]
) -> None:
    result = resize_cover(np.full((*shape, 3), colour, np.uint8), width, height)
    assert result.shape == (shape[0], height, width, 3)
    assert np.abs(result.astype(int) - colour).max(initial=0) <= 1


def test_frames_are_fitted_one_by_one() -> None:
    frames = moving(3, 48, 32)
    whole = resize_cover(frames, 200, 100)
    np.testing.assert_array_equal(whole, np.concatenate([resize_cover(frames[i : i + 1], 200, 100) for i in range(3)]))
