"""Pictures of any mode come out upright in RGB, or are refused with the reason."""

from __future__ import annotations

import io
import struct
import subprocess
import sys
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pillow_heif import register_heif_opener

from zoetrope.serving.media import MAX_PICTURE_PIXELS, MediaError, probe, read_picture

register_heif_opener()  # to write them
COLOURS = (
    np.array([[(255, 0, 0), (0, 255, 0), (0, 0, 255)], [(255, 255, 0), (0, 255, 255), (255, 0, 255)]], np.uint8)
    .repeat(16, 0)
    .repeat(16, 1)
)  # 48 x 32: six squares, none like another


def saved(image: Image.Image, path: Path, **options: object) -> Path:
    image.save(path, **options)  # type: ignore[arg-type]
    return path


def read(path: Path) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    pixels = read_picture(path).pixels
    info = probe(path)
    assert (info.kind, info.height, info.width, info.frames) == ("image", *pixels.shape[:2], 1)
    return pixels


@pytest.mark.parametrize("name", ["a.png", "a.webp", "a.bmp", "a.tiff", "png named.jpg"])
def test_rgb_is_kept(tmp_path: Path, name: str) -> None:
    options = {"lossless": True} if name.endswith("webp") else {}
    kind = "PNG" if name.startswith("png") else None
    path = saved(Image.fromarray(COLOURS), tmp_path / name, format=kind, **options)
    np.testing.assert_array_equal(read(path), COLOURS)


# How pixels must be stored so that a viewer that follows the EXIF standard shows COLOURS.
STORED = {
    1: COLOURS,
    2: COLOURS[:, ::-1],
    3: COLOURS[::-1, ::-1],
    4: COLOURS[::-1],
    5: COLOURS.swapaxes(0, 1),
    6: np.rot90(COLOURS, 1),  # shown after a quarter turn clockwise
    7: COLOURS[::-1, ::-1].swapaxes(0, 1),
    8: np.rot90(COLOURS, -1),
}


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "tiff", "avif", "heic"])
@pytest.mark.parametrize("orientation", STORED)
def test_exif_orientation_is_applied(tmp_path: Path, orientation: int, suffix: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = Image.fromarray(np.ascontiguousarray(STORED[orientation]))
    path = saved(image, tmp_path / f"turned.{suffix}", exif=exif.tobytes(), quality=100)
    assert np.abs(read(path).astype(int) - COLOURS)[4::16, 4::16].max() < 30


def test_damaged_exif_does_not_hide_a_picture(tmp_path: Path) -> None:
    path = saved(Image.fromarray(COLOURS), tmp_path / "a.png", exif=b"Exif\x00\x00MM\x00*\xff\xff\xff\xff")
    np.testing.assert_array_equal(read(path), COLOURS)


@pytest.mark.parametrize(
    "mode, value, expected",
    [
        ("RGBA", (200, 0, 0, 0), (255, 255, 255)),
        ("RGBA", (200, 0, 0, 255), (200, 0, 0)),
        ("RGBA", (0, 0, 0, 128), (127, 127, 127)),
        ("LA", (0, 51), (204, 204, 204)),
        ("L", 77, (77, 77, 77)),
        ("1", 1, (255, 255, 255)),
        ("I;16", 0xFFFF, (255, 255, 255)),
        ("I;16", 77 * 257, (77, 77, 77)),
        ("RGB", (1, 2, 3), (1, 2, 3)),
    ],
)
@pytest.mark.parametrize("size", [(1, 1), (7, 5)])
def test_modes_of_png(
    tmp_path: Path, mode: str, value: int | tuple[int, ...], expected: tuple[int, int, int], size: tuple[int, int]
) -> None:
    pixels = read(saved(Image.new(mode, size, value), tmp_path / "a.png"))
    assert pixels.shape == (size[1], size[0], 3) and pixels.dtype == np.uint8
    assert np.abs(pixels.astype(int) - expected).max() <= 1


def test_palettes_and_transparent_colours(tmp_path: Path) -> None:
    palette = Image.fromarray(COLOURS).quantize(8)
    np.testing.assert_array_equal(read(saved(palette, tmp_path / "p.png")), COLOURS)
    red = palette.getpixel((0, 0))
    clear = read(saved(palette, tmp_path / "t.png", transparency=red))
    assert (clear[:16, :16] == 255).all() and (clear[16:] == COLOURS[16:]).all()
    grey = Image.fromarray(np.array([[0, 257 * 9]], np.uint16))
    assert read(saved(grey, tmp_path / "g.png", transparency=0))[0, :, 0].tolist() == [255, 9]


def test_colour_of_sixteen_bits(tmp_path: Path) -> None:
    """Pillow cannot write it."""
    path = tmp_path / "deep.png"
    row = b"\x00" + struct.pack(">3H", 0xFFFF, 0x8080, 0x0000)
    chunks = [(b"IHDR", struct.pack(">2I5B", 1, 1, 16, 2, 0, 0, 0)), (b"IDAT", zlib.compress(row)), (b"IEND", b"")]
    body = b"".join(struct.pack(">I", len(d)) + k + d + struct.pack(">I", zlib.crc32(k + d)) for k, d in chunks)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + body)
    assert read(path)[0, 0].tolist() == [255, 128, 0]


@pytest.mark.parametrize("suffix", ["webp", "tiff", "avif", "heic"])
def test_alpha_is_laid_over_white(tmp_path: Path, suffix: str) -> None:
    image = Image.new("RGBA", (32, 32), (200, 0, 0, 0))
    image.paste((200, 0, 0, 255), (0, 0, 32, 16))
    pixels = read(saved(image, tmp_path / f"a.{suffix}", quality=100)).astype(int)
    assert np.abs(pixels[8, 16] - (200, 0, 0)).max() <= 8 and np.abs(pixels[24, 16] - 255).max() <= 3


@pytest.mark.parametrize("mode, value", [("L", 77), ("RGB", (77, 77, 77)), ("LA", (77, 255))])
@pytest.mark.parametrize("suffix", ["avif", "heic"])
def test_grey_of_phones(tmp_path: Path, suffix: str, mode: str, value: int | tuple[int, ...]) -> None:
    path = saved(Image.new(mode, (33, 17), value), tmp_path / f"a.{suffix}", quality=95)
    assert np.abs(read(path).astype(int) - 77).max() <= 3


def test_heic_under_a_general_name_is_no_avif(tmp_path: Path) -> None:
    """Its major brand may be that of any picture in such boxes."""
    path = saved(Image.fromarray(COLOURS), tmp_path / "a.heic", quality=95)
    content = path.read_bytes()
    assert content[8:12] == b"heic"
    path.write_bytes(content[:8] + b"mif1" + content[12:])
    assert probe(path).container == "heif" and read(path).shape == COLOURS.shape


@pytest.mark.parametrize("suffix", ["jpg", "tiff"])
def test_cmyk(tmp_path: Path, suffix: str) -> None:
    image = Image.new("CMYK", (32, 32), (0, 255, 255, 0))
    assert np.abs(read(saved(image, tmp_path / f"a.{suffix}")).astype(int) - (255, 0, 0)).max() <= 6


@pytest.mark.parametrize("suffix", ["gif", "webp", "png"])
def test_of_an_animation_the_first_frame_is_taken(tmp_path: Path, suffix: str) -> None:
    frames = [Image.new("RGB", (16, 16), colour) for colour in ("red", "blue", "lime")]
    options = {"lossless": True} if suffix == "webp" else {}
    path = saved(frames[0], tmp_path / f"a.{suffix}", save_all=True, append_images=frames[1:], duration=100, **options)
    assert (read_picture(path).pixels == (255, 0, 0)).all()


@pytest.mark.parametrize("side", [8_001, 10_000, 20_000])  # beyond ours, beyond Pillow's warning, beyond its error
def test_a_huge_picture_is_refused_before_it_is_decoded(tmp_path: Path, side: int) -> None:
    path = tmp_path / "huge.png"
    header = struct.pack(">2I5B", side, side, 8, 2, 0, 0, 0)
    crc = struct.pack(">I", zlib.crc32(b"IHDR" + header))
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + b"IHDR" + header + crc + b"\0\0\x10\0IDAT" + bytes(99)
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for look in (read_picture, probe):
            with pytest.raises(MediaError) as caught:
                look(path)
            assert str(side * side) in str(caught.value) and f"the limit is {MAX_PICTURE_PIXELS}" in str(caught.value)


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "gif", "bmp", "tiff", "avif", "heic"])
def test_a_picture_that_is_cut_short_is_refused(tmp_path: Path, suffix: str) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    content = saved(Image.fromarray(noise), tmp_path / f"a.{suffix}").read_bytes()
    cut = tmp_path / f"cut.{suffix}"
    for part in (0.02, 0.3, 0.7):
        cut.write_bytes(content[: int(len(content) * part)])
        with pytest.raises(MediaError, match=r"cut\.") as caught:
            read_picture(cut)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"no picture at all\n" * 50, b"#EXTM3U\n/etc/hostname\n"])
def test_what_is_no_picture_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "text.png"
    path.write_bytes(content)
    for look in (read_picture, probe):
        with pytest.raises(MediaError, match=r"text\.png") as caught:
            look(path)
        assert "\n" not in str(caught.value)
    path.unlink()
    with pytest.raises(MediaError, match=r"text\.png: No such file"):
        read_picture(path)


def test_values_without_a_range_are_refused(tmp_path: Path) -> None:
    path = saved(Image.new("F", (4, 4), 0.5), tmp_path / "float.tiff")
    with pytest.raises(MediaError, match="floating-point"):
        read_picture(path)
    path = saved(Image.new("I", (4, 4), 70_000), tmp_path / "wide.tiff")
    with pytest.raises(MediaError, match="from 70000 to 70000, the limits are 0 and 65535"):
        read_picture(path)


@settings(deadline=None)  # the machine may be busy
@given(damage=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(1, 255)), min_size=1, max_size=12))
def test_a_damaged_picture_never_raises_anything_else(
    tmp_path_factory: pytest.TempPathFactory, damage: list[tuple[float, int]]
) -> None:
    directory = tmp_path_factory.mktemp("pictures")
    for suffix in ("png", "jpg", "gif", "tiff", "webp", "avif", "heic"):
        path = saved(Image.fromarray(COLOURS), directory / f"a.{suffix}")
        content = bytearray(path.read_bytes())
        for where, what in damage:
            content[int(where * len(content))] ^= what
        path.write_bytes(content)
        try:
            assert read_picture(path).pixels.ndim == 3
        except MediaError as error:
            assert "\n" not in str(error)


def test_a_png_of_many_chunks_is_refused_at_once(tmp_path: Path) -> None:
    """They would be looked at one by one for longer than the pixels."""
    good = io.BytesIO()
    Image.new("RGB", (8, 8), "red").save(good, "PNG")
    data = good.getvalue()
    chunk = (0).to_bytes(4) + b"abCd" + zlib.crc32(b"abCd").to_bytes(4)
    path = tmp_path / "a.png"
    path.write_bytes(data[:33] + chunk * 900 + data[33:])
    assert read_picture(path).pixels.shape == (8, 8, 3)
    path.write_bytes(data[:33] + chunk * 400_000 + data[33:])
    with pytest.raises(MediaError, match="has more than 1000 chunks besides its pixels"):
        read_picture(path)


@pytest.mark.integration
@pytest.mark.parametrize("name", ["a.avif", "a.png"])
def test_any_format_may_be_the_first_that_a_process_reads(tmp_path: Path, name: str) -> None:
    Image.new("RGB", (16, 8), "red").save(tmp_path / name)
    code = "import sys; from pathlib import Path; from zoetrope.serving.media import read_picture as read;"
    code += "print(read(Path(sys.argv[1])).pixels.shape)"
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / name)], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.stdout == "(8, 16, 3)\n", done.stderr
