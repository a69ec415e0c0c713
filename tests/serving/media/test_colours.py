"""Clips and pictures of any colours come out as an SDR display shows them, within three levels."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from tests.serving.media.colour_files import (
    AV1,
    FORMATS,
    FRAMES,
    PATCH,
    TO_XYZ,
    X264,
    X265,
    Format,
    centres,
    far_off,
    of_hlg,
    pq,
    write_patches,
)
from zoetrope.serving.media import MediaError, probe, read_clip, read_picture


@pytest.mark.parametrize("kind", FORMATS)
def test_white_red_and_grey_are_those_of_sdr(tmp_path: Path, kind: str) -> None:
    path = write_patches(tmp_path / f"a{FORMATS[kind].suffix}", FORMATS[kind])
    frames = read_clip(path, max_seconds=1).frames
    assert len(frames) == FRAMES
    for frame in frames:
        assert not far_off(frame, FORMATS[kind])


HDR = {"hlg": FORMATS["hlg"], "pq": FORMATS["pq"]}


def greys(kind: str, path: Path, signals: list[float]) -> list[int]:
    """How grey of these signals, 0 to 1, is shown."""
    rgb = np.repeat(np.array(signals)[:, None], 3, axis=1)
    shown = centres(read_clip(write_patches(path, HDR[kind], rgb), max_seconds=1).frames[0])
    assert np.ptp(shown, axis=1).max() <= 1, "grey stays grey"
    return shown[:, 1].tolist()  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    "kind, signals, shown",
    [
        # The levels of ITU-R BT.2408, table 1: black, the grey card, white paper; then the brightest of all.
        ("hlg", [0.0, 0.38, 0.75, 1.0], [0, 108, 255, 255]),
        ("pq", [0.0, 0.38, 0.58, 1.0], [0, 108, 255, 255]),
    ],
)
def test_reference_levels(tmp_path: Path, kind: str, signals: list[float], shown: list[int]) -> None:
    np.testing.assert_allclose(greys(kind, tmp_path / "a.mp4", signals), shown, atol=3)


@pytest.mark.parametrize("kind", HDR)
def test_what_is_brighter_than_white_rolls_off(tmp_path: Path, kind: str) -> None:
    levels = greys(kind, tmp_path / "a.mp4", np.linspace(0, 1, 33).tolist())
    assert levels == sorted(levels) and levels[-1] == 255
    white = greys(kind, tmp_path / "b.mp4", [{"hlg": 0.75, "pq": 0.58}[kind]])[0]
    assert 252 <= white < 255, "there is something left for a lamp"


@pytest.mark.parametrize("kind", HDR)
@pytest.mark.parametrize("light", [(1_000, 500, 250), (250, 900, 500), (300, 400, 950)])
def test_what_is_brighter_than_white_keeps_its_hue(tmp_path: Path, kind: str, light: tuple[int, ...]) -> None:
    """Clipping each component for itself would make all of these nearly white."""
    of_display = np.linalg.inv(np.array(TO_XYZ["bt2020"])) @ np.array(TO_XYZ["bt709"]) @ np.array(light, float)
    path = write_patches(tmp_path / "a.mp4", HDR[kind], HDR[kind].curve(of_display[None]))
    shown = centres(read_clip(path, max_seconds=1).frames[0])[0]
    assert shown.max() >= 254
    np.testing.assert_allclose((shown / 255) ** 2.4, np.array(light) / max(light), atol=0.025)


@pytest.mark.parametrize("primary", range(3))
def test_colours_beyond_those_of_sdr_become_the_nearest(tmp_path: Path, primary: int) -> None:
    """A pure primary of BT.2020 is purer than any of BT.709's."""
    signal = np.eye(3)[None, primary] * 0.58
    shown = centres(read_clip(write_patches(tmp_path / "a.mp4", HDR["pq"], signal), max_seconds=1).frames[0])[0]
    np.testing.assert_allclose(shown, 255 * np.eye(3)[primary], atol=3)


@pytest.mark.parametrize(
    "format, complaint",
    [
        (Format(".mp4", "libx265", "yuv420p10le", (9, 16, 14, 1), pq, "bt2020", "bt2020", options=X265), "ICtCp"),
        (Format(".mp4", "libx264", "yuv444p", (1, 1, 8, 1), options=X264), "YCgCo"),
        (Format(".mp4", "libx265", "yuv420p10le", (9, 14, 10, 1), options=X265), "constant luminance"),
    ],
)
def test_colours_that_cannot_be_read_are_named(tmp_path: Path, format: Format, complaint: str) -> None:
    path = write_patches(tmp_path / "a.mp4", format)
    for look in (probe, lambda path: read_clip(path, max_seconds=1)):
        with pytest.raises(MediaError, match=rf"a\.mp4 has an unsupported colour matrix: .*{complaint}"):
            look(path)


def test_dolby_vision_without_a_base_layer_is_refused(tmp_path: Path) -> None:
    path = write_patches(tmp_path / "a.mp4", Format(".mp4", "libx265", "yuv420p10le", options=X265))
    assert probe(path).frames == FRAMES
    content = path.read_bytes()
    assert content.count(b"hev1") == 1
    path.write_bytes(content.replace(b"hev1", b"dvh1"))
    with pytest.raises(MediaError, match="Dolby Vision"):
        probe(path)


# Pictures

SIGNALS = np.array([[0.75] * 3, [0.38] * 3, [0.0] * 3, [0.75, 0.0, 0.0]])  # of HLG: paper, the grey card, black, red
SHOWN = np.array([(255, 255, 255), (108, 108, 108), (0, 0, 0), (255, 0, 0)])


def hlg_picture(path: Path) -> Path:
    """One row of SIGNALS, marked as HLG of BT.2020."""
    row = np.repeat((SIGNALS * 255).round().astype(np.uint8), PATCH, axis=0)[None].repeat(PATCH, axis=0)
    match path.suffix:
        case ".png":
            chunks = PngImagePlugin.PngInfo()
            chunks.add(b"cICP", bytes([9, 18, 0, 1]))
            Image.fromarray(row).save(path, pnginfo=chunks)
        case ".heic":
            Image.fromarray(row).save(
                path,
                quality=98,
                chroma=444,
                full_range_flag=1,
                color_primaries=9,
                transfer_characteristics=18,
                matrix_coefficients=9,
            )
        case ".avif":
            write_patches(path, of_hlg(".avif", "libsvtav1", "yuv420p10le", options=AV1), SIGNALS, frames=1)
    return path


@pytest.mark.parametrize("suffix", ["png", "heic", "avif"])
def test_pictures_of_high_dynamic_range(tmp_path: Path, suffix: str) -> None:
    path = hlg_picture(tmp_path / f"a.{suffix}")
    assert probe(path).kind == "image"
    np.testing.assert_allclose(centres(read_picture(path).pixels), SHOWN, atol=3)


def profile(*columns: tuple[float, float, float]) -> bytes:
    """An ICC profile of three primaries, each in CIE XYZ of D50, and a gamma of 2.2 (ICC.1, version 2)."""
    number = struct.Struct(">i")
    points = [b"XYZ " + bytes(4) + b"".join(number.pack(round(v * 65_536)) for v in column) for column in columns]
    curve = b"curv" + bytes(4) + struct.pack(">IH", 1, round(2.2 * 256)) + bytes(2)
    text = b"text" + bytes(4) + b"none\0" + bytes(3)
    name = b"desc" + bytes(4) + struct.pack(">I", 5) + b"test\0" + bytes(79)
    parts = dict(zip((b"rXYZ", b"gXYZ", b"bXYZ"), points, strict=True))
    parts |= {b"wtpt": b"XYZ " + bytes(4) + b"".join(number.pack(round(v * 65_536)) for v in (0.9642, 1, 0.8249))}
    parts |= {b"rTRC": curve, b"gTRC": curve, b"bTRC": curve, b"cprt": text, b"desc": name}
    table, body = b"", b""
    for tag, content in parts.items():
        content += bytes(-len(content) % 4)
        table += tag + struct.pack(">II", 128 + 4 + 12 * len(parts) + len(body), len(content))
        body += content
    head = struct.pack(">I4sI4s4s4s", 132 + len(table) + len(body), b"test", 0x02100000, b"mntr", b"RGB ", b"XYZ ")
    head += bytes(12) + b"acsp" + bytes(28) + b"".join(number.pack(round(v * 65_536)) for v in (0.9642, 1, 0.8249))
    return head.ljust(128, b"\0") + struct.pack(">I", len(parts)) + table + body


SRGB_D50 = ((0.4361, 0.2225, 0.0139), (0.3851, 0.7169, 0.0971), (0.1431, 0.0606, 0.7141))


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "tiff", "avif", "heic"])
def test_colour_profiles_are_converted(tmp_path: Path, suffix: str) -> None:
    """In this one, red is called blue; nothing but the profile says so."""
    odd = profile(SRGB_D50[2], SRGB_D50[1], SRGB_D50[0])
    image = Image.new("RGB", (32, 32), (255, 0, 0))
    for icc, shown in ((odd, (0, 0, 255)), (b"no profile at all", (255, 0, 0))):
        image.save(tmp_path / f"a.{suffix}", icc_profile=icc, quality=100)
        assert np.abs(read_picture(tmp_path / f"a.{suffix}").pixels.astype(int) - shown).max() <= 6


def test_colour_profiles_and_alpha(tmp_path: Path) -> None:
    image = Image.new("RGBA", (2, 1), (255, 0, 0, 255))
    image.putpixel((1, 0), (255, 0, 0, 0))
    image.save(tmp_path / "a.png", icc_profile=profile(SRGB_D50[2], SRGB_D50[1], SRGB_D50[0]))
    assert np.abs(read_picture(tmp_path / "a.png").pixels[0].astype(int) - [(0, 0, 255), (255, 255, 255)]).max() <= 2
