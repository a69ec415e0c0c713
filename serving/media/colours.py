"""Find the colour encoding of video frames and convert them to RGB for an SDR display."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar

import av
import numpy as np
from av.video.codeccontext import VideoCodecContext
from av.video.reformatter import ColorRange, Interpolation, VideoReformatter
from numpy.typing import NDArray

from zoetrope.model.media.resize import Frames
from zoetrope.serving.media.errors import MediaError
from zoetrope.serving.media.tone import BT709, BT2020, CHROMATICITIES, HDR, LINEAR, tone_map

T = TypeVar("T", np.uint8, np.uint16)

TO_RGB = int(Interpolation.BICUBIC | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INP | Interpolation.BITEXACT)
HD_HEIGHT = 720  # players take an unspecified colour space for BT.709 from this height on, for BT.601 below

# Code points of ITU-T H.273.
UNSPECIFIED: Final = 2
UNKNOWN: Final = (0, UNSPECIFIED, 3)  # 0 and 3 are reserved, except for the matrix, where 0 is RGB
MATRIX_BT709: Final = 1
MATRIX_BT601: Final = 5
MATRIX_BT2020: Final = 9
CHROMA_DERIVED: Final = 12  # the matrix derived from the primaries
# Not YCbCr; FFmpeg would refuse them or treat them as BT.601.
UNSUPPORTED_MATRICES: Final = {
    8: "YCgCo",
    10: "BT.2020 with constant luminance",
    11: "SMPTE ST 2085",
    13: "constant luminance derived from the primaries",
    14: "ICtCp",
    15: "IPT-PQ-C2",
    16: "YCgCo-R",
    17: "YCgCo-R",
}
# Dolby Vision without a base layer that other players can show (profile 5); it does not declare its colours.
DOLBY_TAGS: Final = ("dvh1", "dvhe", "dva1", "dvav", "dav1")


@dataclass(frozen=True)
class Colours:
    """A colour encoding: code points of ITU-T H.273, and FFmpeg's range (1 limited, 2 full)."""

    primaries: int = UNSPECIFIED
    transfer: int = UNSPECIFIED
    matrix: int = UNSPECIFIED
    range: int = 0

    @property
    def known(self) -> bool:
        """Tell whether anything but the range is known; for the range, decoders have a default."""
        return not (
            self.primaries in UNKNOWN and self.transfer in UNKNOWN and self.matrix in (UNSPECIFIED, UNKNOWN[-1])
        )


def declared_colours(context: VideoCodecContext) -> Colours:
    """Return what the container declares. Call before decoding: decoders overwrite these fields."""
    return Colours(context.color_primaries, context.color_trc, context.colorspace, context.color_range)


class RgbConverter:
    """Converts frames of one stream to 8-bit RGB for an SDR display.

    High dynamic range (PQ, HLG) and wide gamuts (BT.2020, Display P3) are tone mapped (`serving.media.tone`). The
    primaries of standard definition (SMPTE 170M, BT.470BG) are treated as BT.709's, as players do: they nearly match.
    """

    def __init__(self, path: Path, declared: Colours, tag: str, width: int, height: int) -> None:
        """
        Args:
            declared: the container's colours, used if a frame has none of its own.
            tag: the container's codec tag.
            width, height: size to scale frames to.
        """
        self._path = path
        self._declared = declared
        self._dolby = tag in DOLBY_TAGS
        self._size = (width, height)
        self._reformatter = VideoReformatter()

    def check(self, frame: av.VideoFrame) -> None:
        """Check that frames like this one can be converted.

        Raises:
            MediaError: the colour encoding is not supported; the message names it.
        """
        self._colours(frame)

    def __call__(self, frame: av.VideoFrame) -> Frames:
        """Convert a frame to ``[H, W, 3]``, not yet rotated.

        Raises:
            MediaError: as `check`.
        """
        colours = self._colours(frame)
        primaries = colours.primaries if colours.primaries in CHROMATICITIES else BT709
        # To planar formats, which FFmpeg computes; for packed ones it uses tables that are some levels off for 4:2:0.
        if colours.transfer in (*HDR, LINEAR) or primaries != BT709:
            deep = self._reformat(frame, colours, "gbrp16le")
            green, blue, red = (_plane(deep, index, np.uint16) for index in range(3))
            return tone_map(colours.transfer, primaries, _white(frame, colours))(red, green, blue)
        flat = self._reformat(frame, colours, "gbrp")
        result = np.empty((flat.height, flat.width, 3), np.uint8)
        for channel, index in enumerate((2, 0, 1)):
            result[..., channel] = _plane(flat, index, np.uint8)
        return result

    def _colours(self, frame: av.VideoFrame) -> Colours:
        """Find a frame's colour encoding, with defaults for what is unspecified."""
        own = Colours(frame.color_primaries, frame.color_trc, frame.colorspace, frame.color_range)
        if not own.known and (self._declared.known or not own.range):
            own = self._declared
        primaries = _first_known(own.primaries, self._declared.primaries)
        transfer = _first_known(own.transfer, self._declared.transfer)
        matrix = _first_known(own.matrix, self._declared.matrix)
        if self._dolby and transfer in UNKNOWN:
            raise MediaError(f"{self._path} is Dolby Vision without a base layer (profile 5), which is not supported")
        if transfer in HDR and primaries in UNKNOWN:
            primaries = BT2020
        if frame.format.is_rgb:
            return Colours(primaries, transfer, 0, own.range)
        if matrix in UNSUPPORTED_MATRICES:
            raise MediaError(f"{self._path} has an unsupported colour matrix: {UNSUPPORTED_MATRICES[matrix]}")
        if matrix == CHROMA_DERIVED:
            matrix = {BT709: MATRIX_BT709, BT2020: MATRIX_BT2020}.get(primaries, MATRIX_BT601)
        elif matrix in UNKNOWN:
            hd = MATRIX_BT709 if frame.height >= HD_HEIGHT else MATRIX_BT601
            matrix = MATRIX_BT2020 if primaries == BT2020 else hd
        full = frame.format.name.startswith("yuvj")
        return Colours(primaries, transfer, matrix, ColorRange.JPEG if full else own.range)

    def _reformat(self, frame: av.VideoFrame, colours: Colours, format: str) -> av.VideoFrame:
        frame.colorspace, frame.color_range = colours.matrix, colours.range
        return self._reformatter.reformat(
            frame,
            *self._size,
            format,
            dst_color_range=ColorRange.JPEG,
            interpolation=TO_RGB,
        )


def _first_known(own: int, declared: int) -> int:
    return declared if own in UNKNOWN else own


def _white(frame: av.VideoFrame, colours: Colours) -> int:
    """Return FFmpeg's 16-bit value of white: it shifts smaller bit depths to the left."""
    bits = min(16, frame.format.components[0].bits)
    if colours.matrix and colours.range != ColorRange.JPEG:
        bits = 8  # limited range is expanded by the rule for 8 bits
    return ((1 << bits) - 1) << (16 - bits)


def _plane(frame: av.VideoFrame, index: int, kind: type[T]) -> NDArray[T]:
    """Return a plane ``[H, W]`` as a view of the frame's memory."""
    plane = frame.planes[index]
    rows = np.frombuffer(memoryview(plane), kind).reshape(plane.height, -1)
    return rows[:, : plane.width]
