"""Animations are counted by what their containers say, before anything is decoded."""

from __future__ import annotations

import re
import struct
from pathlib import Path

import pytest

from tests.serving.media.files import accepted, slow_picture, write_sound
from zoetrope.serving.media import MediaError, animations, probe
from zoetrope.serving.media.animations import count_frames
from zoetrope.serving.media.info import pixels_to_decode
from zoetrope.serving.media.pictures import frame_count, open_picture


def gif(path: Path, frames: int, *, side: int = 1, extra: bytes = b"", colours: bytes = b"\0") -> Path:
    """A GIF of frames that are one pixel each, on a larger picture.

    Args:
        extra: before each frame. colours: flags of each frame's own table, and the table.
    """
    head = b"GIF89a" + struct.pack("<HHBBB", side, side, 0x80, 0, 0) + bytes(6)
    frame = extra + b",\0\0\0\0\1\0\1\0" + colours + b"\x02\x02D\x01\0"
    path.write_bytes(head + frame * frames + b";")
    return path


@pytest.mark.parametrize("colours", [b"\0", b"\x81" + bytes(12)])
@pytest.mark.parametrize("extra", [b"", b"!\xf9\x04\0\x05\0\0\0", b"!\xfe\x01,\x02;,\0"])
def test_frames_of_a_gif_are_counted_as_pillow_counts_them(tmp_path: Path, extra: bytes, colours: bytes) -> None:
    path = gif(tmp_path / "a.gif", 7, extra=extra, colours=colours)
    with open_picture(path) as image:
        assert frame_count(image) == 7
        assert [count_frames(image, path, most) for most in (1, 2, 7, 99)] == [1, 2, 7, 7]


@pytest.mark.parametrize("length", range(0, 60, 7))
def test_a_gif_that_is_cut_short_is_counted_as_far_as_it_goes(tmp_path: Path, length: int) -> None:
    path = gif(tmp_path / "a.gif", 3)
    with open_picture(gif(tmp_path / "b.gif", 3)) as image:
        path.write_bytes(path.read_bytes()[:length])
        assert count_frames(image, path) == max(0, min(3, (length - 19 + 14) // 15))


@pytest.mark.parametrize(
    ("frames", "side", "reason"),
    [
        (10_000, 1, "has more than 7200 frames, the limit"),
        (1_000, 2_500, "has 1000 frames of 2500x2500; all frames together may have at most 4000000000 pixels"),
    ],
)
def test_animations_that_are_too_much_are_refused_before_any_frame_is_decoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, frames: int, side: int, reason: str
) -> None:
    monkeypatch.setattr(animations, "pixels", lambda *_: pytest.fail("a frame was decoded"))
    path = gif(tmp_path / "a.gif", frames, side=side)
    with pytest.raises(MediaError, match=re.escape(f"{path} {reason}")):
        probe(path)


def test_what_there_is_to_decode_is_told_by_the_head(tmp_path: Path) -> None:
    for name, path in accepted(tmp_path).items():
        known = probe(path)
        assert pixels_to_decode(path) == known.width * known.height * known.frames, name
    assert pixels_to_decode(slow_picture(tmp_path / "slow.webp")) == 64_000_000
    assert pixels_to_decode(write_sound(tmp_path / "a.wav", "pcm_s16le")) == 0
    damaged = tmp_path / "damaged.png"
    damaged.write_bytes(b"\x89PNG\r\n\x1a\nnothing")
    assert pixels_to_decode(damaged) == 0
