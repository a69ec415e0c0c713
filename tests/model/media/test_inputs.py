"""Pictures and clips of a task, and the sheet of nine."""

from __future__ import annotations

import numpy as np
import pytest

from zoetrope.model.media.inputs import Clip, Inputs, Picture, compose_sheet


def plain(value: int, width: int = 30, height: int = 20) -> Picture:
    return Picture(np.full((height, width, 3), value, np.uint8))


def test_nothing_is_the_default() -> None:
    empty = Inputs()
    assert (empty.first, empty.last, empty.video, empty.panels, empty.references) == (None, None, None, (), ())


def test_nine_pictures_lie_row_by_row() -> None:
    sizes = [(30, 20), (5, 80), (64, 64), (1, 1), (24, 16), (200, 3), (16, 24), (48, 32), (7, 7)]
    sheet = compose_sheet([plain(10 + i, *size) for i, size in enumerate(sizes)], 24, 16).pixels
    assert sheet.shape == (48, 72, 3)
    for i in range(9):
        row, column = divmod(i, 3)
        assert (sheet[16 * row : 16 * row + 16, 24 * column : 24 * column + 24] == 10 + i).all()


def test_a_panel_is_cropped_in_the_middle() -> None:
    wide = np.zeros((16, 72, 3), np.uint8)
    wide[:, 24:48] = 255  # the middle third has the panel's shape
    sheet = compose_sheet([Picture(wide), *[plain(0)] * 8], 24, 16).pixels
    assert (sheet[:16, :24] == 255).all() and not sheet[16:].any()


def test_a_composite_is_fitted_as_a_whole() -> None:
    nine = compose_sheet([plain(25 * i) for i in range(9)], 24, 16)
    assert compose_sheet([nine], 24, 16).pixels is not None
    np.testing.assert_array_equal(compose_sheet([nine], 24, 16).pixels, nine.pixels)
    double = Picture(nine.pixels.repeat(2, 0).repeat(2, 1))
    fitted = compose_sheet([double], 24, 16).pixels
    assert fitted.shape == nine.pixels.shape
    middle = (slice(8, None, 16), slice(12, None, 24))
    np.testing.assert_array_equal(fitted[middle], nine.pixels[middle])


@pytest.mark.parametrize("count", [0, 2, 8, 10])
def test_other_counts_are_refused(count: int) -> None:
    with pytest.raises(ValueError, match=f"{count} panels"):
        compose_sheet([plain(0)] * count, 24, 16)


@pytest.mark.parametrize("shape", [(0, 4, 3), (4, 4), (4, 4, 4), (2, 4, 4, 3)])
def test_pixels_of_another_shape_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="expected uint8 RGB with 3 axes"):
        Picture(np.zeros(shape, np.uint8))
    with pytest.raises(ValueError, match="expected uint8 RGB with 4 axes"):
        Clip(np.zeros((2, 4, 4, 3), np.float32), 8.0)
    with pytest.raises(ValueError, match="fps is 0, must be above 0"):
        Clip(np.zeros((2, 4, 4, 3), np.uint8), 0)
