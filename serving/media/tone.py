"""Tone map high dynamic range and wide gamuts to SDR: BT.709 primaries, 8 bits, full range."""

from __future__ import annotations

from functools import lru_cache
from typing import Any, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from zoetrope.model.media.resize import Frames

Floats: TypeAlias = NDArray[np.float32]
Plane: TypeAlias = NDArray[np.uint16]

# Code points of ITU-T H.273, as used by FFmpeg, MP4, Matroska and PNG.
LINEAR: Final = 8
PQ: Final = 16  # SMPTE ST 2084
HLG: Final = 18  # ARIB STD-B67
HDR: Final = (PQ, HLG)
BT709: Final = 1
BT2020: Final = 9
DISPLAY_P3: Final = 12

WHITE: Final = 203.0  # cd/m2 of HDR reference white: 58 % of a PQ signal, 75 % of an HLG signal (ITU-R BT.2408)
HLG_PEAK: Final = 1_000.0  # cd/m2, peak of the reference display for HLG
HLG_SYSTEM_GAMMA: Final = 1.2  # of that display (ITU-R BT.2100-2, table 5)
SDR_GAMMA: Final = 2.4  # of an SDR display (ITU-R BT.1886)
KNEE: Final = 0.96  # of reference white: light is unchanged up to here, everything brighter is compressed into the rest
LEAST: Final = 1e-12  # keeps logarithms finite

LEVELS: Final = 1 << 16
BLOCK: Final = 1 << 15  # pixels at a time, so that they stay in the processor's cache

# CIE 1931 x and y of red, green, blue (ITU-R BT.709-6, BT.2020-2, SMPTE EG 432-1); white is D65 in all.
CHROMATICITIES: Final = {
    BT709: ((0.640, 0.330), (0.300, 0.600), (0.150, 0.060)),
    BT2020: ((0.708, 0.292), (0.170, 0.797), (0.131, 0.046)),
    DISPLAY_P3: ((0.680, 0.320), (0.265, 0.690), (0.150, 0.060)),
}
D65: Final = (0.3127, 0.3290)


class ToneMap:
    """Converts a signal to what an SDR display can show of it.

    Display light (ITU-R BT.2100: PQ's EOTF; HLG's inverse OETF and OOTF) is taken relative to reference white,
    converted to BT.709's primaries, and encoded for BT.1886. So reference white becomes SDR white, 18 % grey stays
    where an SDR camera puts it, and everything within SDR's range matches its SDR version (the inverse of the direct
    mapping of BT.2408). Brighter light rolls off by its largest component, the other two in proportion, which keeps hue
    and saturation; it uses the top three levels. Colours outside BT.709 have negative components clipped (ITU-R
    BT.2407).
    """

    def __init__(self, transfer: int, primaries: int, white: int = LEVELS - 1) -> None:
        """
        Args:
            transfer: PQ, HLG or LINEAR; any other is treated as SDR (BT.1886).
            primaries: one of CHROMATICITIES.
            white: the value of a full signal, 1 to LEVELS - 1.
        """
        self._light = light(transfer, white)
        to_xyz = rgb_to_xyz(primaries)
        self._matrix = (np.linalg.inv(rgb_to_xyz(BT709)) @ to_xyz).astype(np.float32).tolist()
        self._luminance = to_xyz[1].tolist() if transfer == HLG else None
        self._knee = KNEE if transfer in HDR else 1.0

    def __call__(self, red: Plane, green: Plane, blue: Plane) -> Frames:
        """Convert three planes ``[H, W]`` of 16 bits, from 0 to ``white``, to uint8 ``[H, W, 3]``."""
        height, width = red.shape
        result = np.empty((height, width, 3), np.uint8)
        rows = max(1, BLOCK // width)
        for top in range(0, height, rows):
            part = slice(top, top + rows)
            self._convert([plane[part] for plane in (red, green, blue)], result[part])
        return result

    def _convert(self, planes: list[Plane], result: Frames) -> None:
        given = [np.take(self._light, plane, mode="clip") for plane in planes]  # much faster than indexing
        shown = [sum_of(row, given) for row in self._matrix]
        if self._luminance is not None:  # HLG's OOTF: scene light to display light
            scene = power(sum_of(self._luminance, given), HLG_SYSTEM_GAMMA - 1)
            for component in shown:
                component *= scene
        strongest = np.maximum(np.maximum(shown[0], shown[1]), shown[2])
        np.maximum(strongest, np.float32(self._knee), out=strongest)
        scale = rolled_off(strongest, self._knee) / strongest
        for index, component in enumerate(shown):
            component *= scale
            coded = power(component, 1 / SDR_GAMMA)
            coded *= 255
            coded += 0.5
            result[..., index] = coded.astype(np.uint8)  # faster via a plane


@lru_cache(maxsize=8)
def tone_map(transfer: int, primaries: int, white: int = LEVELS - 1) -> ToneMap:
    """Return a cached `ToneMap`."""
    return ToneMap(transfer, primaries, white)


def light(transfer: int, white: int) -> Floats:
    """Return the light of each of LEVELS values, relative to reference white: display light, or for HLG scene light,
    because its OOTF mixes components, scaled so that the OOTF gives display light."""
    signal = np.minimum(np.arange(LEVELS) / white, 1.0)
    if transfer == PQ:  # BT.2100-2, table 4
        m1, m2 = 2610 / 16384, 2523 / 4096 * 128
        c1, c2, c3 = 3424 / 4096, 2413 / 4096 * 32, 2392 / 4096 * 32
        root = signal ** (1 / m2)
        result = 10_000 / WHITE * (np.maximum(root - c1, 0) / (c2 - c3 * root)) ** (1 / m1)
    elif transfer == HLG:  # BT.2100-2, table 5
        a, b, c = 0.17883277, 0.28466892, 0.55991073
        scene = np.where(signal <= 0.5, signal**2 / 3, (np.exp((signal - c) / a) + b) / 12)
        result = (HLG_PEAK / WHITE) ** (1 / HLG_SYSTEM_GAMMA) * scene
    elif transfer == LINEAR:
        result = signal
    else:
        result = signal**SDR_GAMMA
    return result.astype(np.float32)


def rolled_off(strongest: Floats, knee: float) -> Floats:
    """Compress light of at least ``knee`` smoothly into the rest of SDR's range."""
    if knee == 1.0:
        return np.ones_like(strongest)
    room = np.float32(1 - knee)
    over = (strongest - np.float32(knee)) / room
    return np.float32(knee) + room * (over / (1 + over))


def rgb_to_xyz(primaries: int) -> NDArray[np.float64]:
    """Return the 3 x 3 matrix to CIE XYZ; its middle row is the luminance of each component (SMPTE RP 177)."""

    def xyz(x: float, y: float) -> list[float]:
        return [x / y, 1.0, (1 - x - y) / y]

    columns = np.array([xyz(*point) for point in CHROMATICITIES[primaries]]).T
    return columns * np.linalg.solve(columns, np.array(xyz(*D65)))


def sum_of(weights: list[float], planes: list[Floats]) -> Floats:
    """Return the weighted sum of three planes."""
    total: Floats = planes[0] * np.float32(weights[0])
    for weight, plane in zip(weights[1:], planes[1:], strict=True):
        total += plane * np.float32(weight)
    return total


def power(base: Floats, exponent: float) -> Floats:
    """Raise to a power in place, by vectorised logarithms; negative values become 0."""
    np.maximum(base, np.float32(LEAST), out=base)
    np.log(base, out=base)
    base *= np.float32(exponent)
    result: Any = np.exp(base, out=base)
    return result  # type: ignore[no-any-return]
