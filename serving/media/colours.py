"""What the numbers of a video's frames mean, and the frames as RGB for an SDR display."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar

import av
import numpy as np
from av.video.codeccontext import VideoCodecContext
from av.video.reformatter import ColorRange, Interpolation, VideoReformatter
from numpy.typing import NDArray

from model.fit import Frames
from serving.media.errors import MediaError
from serving.media.tone import BT709, BT2020, CHROMATICITIES, HDR, LINEAR, tone_map

T = TypeVar("T", np.uint8, np.uint16)

TO_RGB = int(Interpolation.BICUBIC | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INP | Interpolation.BITEXACT)
HD_HEIGHT = 720  # from here on players take an unspecified colour space for BT.709, below for BT.601

# Code points of ITU-T H.273.
UNSPECIFIED: Final = 2
NOT_SAID: Final = (0, UNSPECIFIED, 3)  # 0 and 3 are reserved, but for the matrix, where 0 is RGB
MATRIX_BT709: Final = 1
MATRIX_BT601: Final = 5
MATRIX_BT2020: Final = 9
CHROMA_DERIVED: Final = 12  # the matrix of the primaries
# Not Y, Cb and Cr as others are; FFmpeg would refuse them or take them for BT.601.
NOT_READ: Final = {
    8: "YCgCo",
    10: "BT.2020 with constant luminance",
    11: "SMPTE ST 2085",
    13: "constant luminance of its own primaries",
    14: "ICtCp",
    15: "IPT-PQ-C2",
    16: "YCgCo-R",
    17: "YCgCo-R",
}
# Of Dolby Vision without a picture that other players can show (profile 5), which says nothing of its colours.
DOLBY_TAGS: Final = ("dvh1", "dvhe", "dva1", "dvav", "dav1")


@dataclass(frozen=True)
class Colours:
    """Code points of ITU-T H.273, and FFmpeg's of the range (1 limited, 2 full)."""

    primaries: int = UNSPECIFIED
    transfer: int = UNSPECIFIED
    matrix: int = UNSPECIFIED
    range: int = 0

    @property
    def said(self) -> bool:
        """Tell whether anything is known but the range, for which decoders have a default."""
        return not (
            self.primaries in NOT_SAID and self.transfer in NOT_SAID and self.matrix in (UNSPECIFIED, NOT_SAID[-1])
        )


def declared_colours(context: VideoCodecContext) -> Colours:
    """Take what a container says, before anything is decoded: decoders put their own word in its place, or nothing."""
    return Colours(context.color_primaries, context.color_trc, context.colorspace, context.color_range)


class ToRgb:
    """Convert frames of one stream to 8-bit RGB that an SDR display shows as it should.

    Signals of high dynamic range (PQ, HLG) and of wide gamuts (BT.2020, Display P3) are converted
    (`serving.media.tone`). The primaries of standard definition (SMPTE 170M, BT.470BG) are taken for BT.709's, as
    players do: they are nearly the same.
    """

    def __init__(self, path: Path, declared: Colours, tag: str, width: int, height: int) -> None:
        """
        Args:
            declared: by the container; counts where frames say nothing themselves.
            tag: the container's name of the codec.
            width, height: to scale frames to.
        """
        self._path = path
        self._declared = declared
        self._dolby = tag in DOLBY_TAGS
        self._size = (width, height)
        self._reformatter = VideoReformatter()

    def check(self, frame: av.VideoFrame) -> None:
        """Make sure that frames such as this one can be converted.

        Raises:
            MediaError: colours of this kind cannot be read; names it.
        """
        self._colours(frame)

    def __call__(self, frame: av.VideoFrame) -> Frames:
        """Convert to ``[H, W, 3]``, not yet upright.

        Raises:
            MediaError: as `check`.
        """
        colours = self._colours(frame)
        primaries = colours.primaries if colours.primaries in CHROMATICITIES else BT709
        # In planes, for which FFmpeg calculates; for pixels of 4:2:0 it looks up tables that are some levels off.
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
        """Find what the numbers mean, with nothing left unspecified that matters."""
        said = Colours(frame.color_primaries, frame.color_trc, frame.colorspace, frame.color_range)
        if not said.said and (self._declared.said or not said.range):
            said = self._declared
        primaries = _either(said.primaries, self._declared.primaries)
        transfer = _either(said.transfer, self._declared.transfer)
        matrix = _either(said.matrix, self._declared.matrix)
        if self._dolby and transfer in NOT_SAID:
            raise MediaError(f"{self._path} is Dolby Vision without a base layer (profile 5), which cannot be read")
        if transfer in HDR and primaries in NOT_SAID:
            primaries = BT2020
        if frame.format.is_rgb:
            return Colours(primaries, transfer, 0, said.range)
        if matrix in NOT_READ:
            raise MediaError(f"{self._path} has colours as {NOT_READ[matrix]}, which cannot be read")
        if matrix == CHROMA_DERIVED:
            matrix = {BT709: MATRIX_BT709, BT2020: MATRIX_BT2020}.get(primaries, MATRIX_BT601)
        elif matrix in NOT_SAID:
            hd = MATRIX_BT709 if frame.height >= HD_HEIGHT else MATRIX_BT601
            matrix = MATRIX_BT2020 if primaries == BT2020 else hd
        full = frame.format.name.startswith("yuvj")
        return Colours(primaries, transfer, matrix, ColorRange.JPEG if full else said.range)

    def _reformat(self, frame: av.VideoFrame, colours: Colours, format: str) -> av.VideoFrame:
        frame.colorspace, frame.color_range = colours.matrix, colours.range
        return self._reformatter.reformat(
            frame,
            *self._size,
            format,
            dst_color_range=ColorRange.JPEG,
            interpolation=TO_RGB,
        )


def _either(said: int, declared: int) -> int:
    return declared if said in NOT_SAID else said


def _white(frame: av.VideoFrame, colours: Colours) -> int:
    """Give the number that FFmpeg makes of white in 16 bits: it shifts what has less to the left."""
    bits = min(16, frame.format.components[0].bits)
    if colours.matrix and colours.range != ColorRange.JPEG:
        bits = 8  # limited range becomes full range by the rule of 8 bits
    return ((1 << bits) - 1) << (16 - bits)


def _plane(frame: av.VideoFrame, index: int, kind: type[T]) -> NDArray[T]:
    """Give ``[H, W]``, the frame's own memory."""
    plane = frame.planes[index]
    rows = np.frombuffer(memoryview(plane), kind).reshape(plane.height, -1)
    return rows[:, : plane.width]
