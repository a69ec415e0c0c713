"""Clips of plain patches whose numbers are computed here by the standards' own formulas, not by a converter."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import av
import numpy as np
from av.video.stream import VideoStream
from numpy.typing import NDArray

from tests.serving.media.files import encoding

Floats = NDArray[np.float64]
PATCH = 64  # pixels of a side; an encoder of AV1 takes no less
FRAMES = 3
# What SDR shows: white paper, black, the grey card (18 %: 42.5 % of the signal of BT.1886).
PATCHES: Mapping[str, tuple[int, int, int]] = {
    "white": (255, 255, 255),
    "black": (0, 0, 0),
    "grey": (108, 108, 108),
    "red": (220, 40, 40),
    "skin": (199, 147, 124),
    "pure red": (255, 0, 0),
    "pure green": (0, 255, 0),
    "pure blue": (0, 0, 255),
}
# Columns are red, green and blue in CIE XYZ; white is D65.
TO_XYZ = {
    "bt709": ((0.4123908, 0.3575843, 0.1804808), (0.2126390, 0.7151687, 0.0721923), (0.0193308, 0.1191948, 0.9505322)),
    "bt2020": ((0.6369580, 0.1446169, 0.1688810), (0.2627002, 0.6779981, 0.0593017), (0.0, 0.0280727, 1.0609851)),
    "p3": ((0.4865709, 0.2656677, 0.1982173), (0.2289746, 0.6917385, 0.0792869), (0.0, 0.0451134, 1.0439444)),
}
KR_KB = {"bt709": (0.2126, 0.0722), "bt601": (0.299, 0.114), "bt2020": (0.2627, 0.0593)}


def hlg(light: Floats) -> Floats:
    """The signal of displayed light in cd/m2, ``[..., 3]`` (ITU-R BT.2100: inverse OOTF at 1000 cd/m2, OETF)."""
    luminance = light @ np.array(TO_XYZ["bt2020"][1])
    scene = light / 1_000 * np.maximum(luminance / 1_000, 1e-12)[..., None] ** ((1 - 1.2) / 1.2)
    a, b, c = 0.17883277, 0.28466892, 0.55991073
    return np.where(scene <= 1 / 12, np.sqrt(3 * scene), a * np.log(np.maximum(12 * scene - b, 1e-12)) + c)


def pq(light: Floats) -> Floats:
    """The signal of displayed light in cd/m2 (ITU-R BT.2100)."""
    m1, m2, c1, c2, c3 = 0.1593017578125, 78.84375, 0.8359375, 18.8515625, 18.6875
    powered = (light / 10_000) ** m1
    return ((c1 + c2 * powered) / (1 + c3 * powered)) ** m2


def bt1886(light: Floats) -> Floats:
    """The signal of light where white, 203 cd/m2, is 1."""
    return (light / 203) ** (1 / 2.4)


def linear(light: Floats) -> Floats:
    """The signal that is light itself."""
    return light / 203


@dataclass(frozen=True)
class Format:
    """How patches are stored."""

    suffix: str
    codec: str
    pixel_format: str
    tags: tuple[int, int, int, int] = (2, 2, 2, 0)  # primaries, transfer, matrix, range: code points of ITU-T H.273
    curve: Callable[[Floats], Floats] = bt1886
    gamut: str = "bt709"
    matrix: str = "bt709"
    full: bool = False
    container_only: bool = False  # the stream itself says nothing
    options: dict[str, str] = field(default_factory=dict)
    levels: int = 2  # that it may be off

    @property
    def bits(self) -> int:
        return 10 if "10" in self.pixel_format else 8


X264, X265 = {"crf": "4"}, {"crf": "4", "x265-params": "log-level=none"}
X265_OLD = {"crf": "4", "x265-params": "log-level=none:atc-sei=18"}
AV1 = {"crf": "3", "preset": "10"}
HLG_TAGS, PQ_TAGS = (9, 18, 9, 1), (9, 16, 9, 1)
of_hlg = partial(Format, levels=3, tags=HLG_TAGS, curve=hlg, gamut="bt2020", matrix="bt2020")
of_pq = partial(Format, levels=3, tags=PQ_TAGS, curve=pq, gamut="bt2020", matrix="bt2020")
phone = partial(of_hlg, codec="libx265", pixel_format="yuv420p10le", options=X265)
disc = partial(of_pq, codec="libx265", pixel_format="yuv420p10le", options=X265)
web = partial(Format, ".mp4", "libx264", "yuv420p", options=X264)

FORMATS = {
    # High dynamic range, as phones, cameras and discs have it.
    "hlg": phone(".mp4"),
    "hlg of h264": of_hlg(".mov", "libx264", "yuv420p10le", options=X264),
    "hlg of prores": of_hlg(".mov", "prores_ks", "yuv422p10le"),
    "hlg of full range": phone(".mp4", tags=(9, 18, 9, 2), full=True),
    "hlg by its transfer alone": phone(".mp4", tags=(2, 18, 2, 1)),
    "hlg by the container alone": phone(".mp4", container_only=True),
    "hlg by matroska alone": phone(".mkv", container_only=True),
    "hlg that old players take for sdr": phone(".mp4", tags=(9, 14, 9, 1), options=X265_OLD),
    "hlg in rgb": of_hlg(".mkv", "libx265", "gbrp10le", tags=(9, 18, 0, 2), options=X265),
    "pq": disc(".mp4"),
    "pq of av1": of_pq(".webm", "libsvtav1", "yuv420p10le", options=AV1),
    "pq of vp9": of_pq(".webm", "libvpx-vp9", "yuv420p", options={"crf": "4", "b": "0"}, levels=5),
    "pq by the container alone": disc(".mov", container_only=True),
    # Standard dynamic range.
    "bt709": web((1, 1, 1, 1)),
    "bt709 of full range": web((1, 1, 1, 2), full=True),
    "bt709 of full range by the container alone": web((1, 1, 1, 2), full=True, container_only=True),
    "full range by the pixel format": Format(".mkv", "libx264", "yuvj420p", (1, 1, 1, 0), full=True, options=X264),
    "motion jpeg": Format(".avi", "mjpeg", "yuvj420p", matrix="bt601", full=True, options={"qmin": "1", "q": "1"}),
    "bt601": web((6, 6, 6, 1), matrix="bt601"),
    "bt601 of 625 lines": web((5, 6, 5, 1), matrix="bt601"),
    "bt601 of full range": web((6, 6, 6, 2), matrix="bt601", full=True),
    "small and nothing said": web(matrix="bt601"),
    "bt2020 without hdr": Format(
        ".mp4", "libx265", "yuv420p10le", (9, 14, 9, 1), gamut="bt2020", matrix="bt2020", options=X265
    ),
    "linear light": Format(".mkv", "ffv1", "gbrp10le", (1, 8, 0, 2), linear),
    "display p3": web((12, 1, 1, 1), gamut="p3"),
    "rgb of h264": Format(".mkv", "libx264rgb", "rgb24", options={"crf": "0"}),
    "rgb without loss": Format(".mkv", "ffv1", "bgr0"),
    "gbr": Format(".mp4", "libx265", "gbrp", (1, 1, 0, 2), options=X265),
    "animation of quicktime": Format(".mov", "qtrle", "rgb24"),
}


def signals(format: Format) -> Floats:
    """``[patches, 3]``, 0 to 1: RGB as the format's display shows what PATCHES show on SDR's."""
    light = 203 * (np.array(list(PATCHES.values())) / 255) ** 2.4
    to_gamut = np.linalg.inv(np.array(TO_XYZ[format.gamut])) @ np.array(TO_XYZ["bt709"])
    return format.curve(np.maximum(light @ to_gamut.T, 0))


def planes(rgb: Floats, format: Format) -> list[NDArray[np.uint16]]:
    """Of each colour ``[..., 3]``: Y, Cb and Cr, or green, blue and red, in the format's whole numbers."""
    top = (1 << format.bits) - 1
    if "rgb" in format.pixel_format or "gbr" in format.pixel_format or "bgr" in format.pixel_format:
        return [np.round(rgb[..., index] * top).astype(np.uint16) for index in (1, 2, 0)]
    kr, kb = KR_KB[format.matrix]
    luma = rgb @ np.array([kr, 1 - kr - kb, kb])
    blue, red = (rgb[..., 2] - luma) / (2 * (1 - kb)), (rgb[..., 0] - luma) / (2 * (1 - kr))
    unit = 1 << (format.bits - 8)
    if format.full:
        found = [luma * top, blue * top + 128 * unit, red * top + 128 * unit]
    else:
        found = [(219 * luma + 16) * unit, (224 * blue + 128) * unit, (224 * red + 128) * unit]
    return [np.clip(np.round(plane), 0, top).astype(np.uint16) for plane in found]


@encoding()
def write_patches(path: Path, format: Format, rgb: Floats | None = None, frames: int = FRAMES) -> Path:
    """A clip of one row of patches, PATCHES unless ``rgb`` ``[patches, 3]`` are given as signals."""
    given = signals(format) if rgb is None else rgb
    values = planes(given, format)
    target = path.with_name(f"inner-{path.name}") if format.container_only else path
    with av.open(str(target), "w") as file:
        stream = file.add_stream(format.codec, rate=8, options=format.options)
        assert isinstance(stream, VideoStream)
        stream.width, stream.height, stream.pix_fmt = PATCH * len(given), PATCH, format.pixel_format
        if not format.container_only:
            _tag(stream.codec_context, format)
        for index in range(frames):
            frame = _frame(values, format)
            frame.pts = index
            if not format.container_only:
                _tag(frame, format)
            file.mux(stream.encode(frame))
        file.mux(stream.encode(None))
    if format.container_only:
        with av.open(str(target)) as inner, av.open(str(path), "w") as outer:
            copy = outer.add_stream_from_template(inner.streams.video[0])
            _tag(copy.codec_context, format)
            for packet in inner.demux(video=0):
                if packet.size:  # not the end
                    packet.stream = copy
                    outer.mux(packet)
    return path


def far_off(frame: NDArray[np.uint8], format: Format) -> dict[str, list[int]]:
    """The patches that a frame does not show as PATCHES are.

    Components near black of strong colours, where 0 and 30 are both less than 0.6 % of white's light, have no three
    levels in 10 bits: exact decoding of the numbers in the file is as far off. There it is the light that counts.
    """
    found = {}
    for (name, wanted), colour in zip(PATCHES.items(), centres(frame), strict=True):
        light = (colour / 255) ** 2.4 - (np.array(wanted) / 255) ** 2.4
        if not ((np.abs(colour - wanted) <= format.levels) | (np.abs(light) <= 0.006)).all():
            found[name] = colour.tolist()
    return found


def centres(frame: NDArray[np.uint8]) -> NDArray[np.int64]:
    """``[patches, 3]``: the middle of each patch of a frame ``[H, W, 3]``."""
    return frame[PATCH // 2, PATCH // 2 :: PATCH].astype(np.int64)


def _tag(at: av.VideoFrame | av.video.codeccontext.VideoCodecContext, format: Format) -> None:
    at.color_primaries, at.color_trc, at.colorspace, at.color_range = format.tags


def _frame(values: list[NDArray[np.uint16]], format: Format) -> av.VideoFrame:
    width = PATCH * len(values[0])
    if format.pixel_format in ("rgb24", "bgr0"):
        green, blue, red = (np.repeat(plane, PATCH)[None].repeat(PATCH, 0).astype(np.uint8) for plane in values)
        return av.VideoFrame.from_ndarray(np.stack([red, green, blue], -1), format="rgb24").reformat(
            format=format.pixel_format
        )
    frame = av.VideoFrame(width, PATCH, format.pixel_format)
    for plane, levels in zip(frame.planes, values, strict=True):
        kind = np.uint16 if format.bits > 8 else np.uint8
        rows = np.zeros((plane.height, plane.line_size // np.dtype(kind).itemsize), kind)
        rows[:, : plane.width] = np.repeat(levels, plane.width // len(levels))
        plane.update(rows.tobytes())
    return frame
