"""The tiles of a frame: few, of equal size, and none where a frame is small."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zoetrope.model.codecs.tiling import Tiling, spans
from zoetrope.model.request.sizes import MAX_SIDE as LARGEST
from zoetrope.model.request.tiles import MAX_SIDE, tiles_for


@pytest.mark.parametrize(
    ("size", "tiles", "grid"),
    [
        ((1280, 720), None, (1, 1)),
        ((1920, 1088), (576, 528, 64), (2, 4)),
        ((1088, 1920), (528, 576, 64), (4, 2)),
        ((1440, 1440), (528, 528, 64), (3, 3)),
        ((1920, 832), (448, 528, 64), (2, 4)),
    ],
)
def test_1080p_has_two_rows(size: tuple[int, int], tiles: tuple[int, ...] | None, grid: tuple[int, int]) -> None:
    assert tiles_for(*size) == tiles
    if tiles is not None:
        tiling, (width, height) = Tiling(*tiles), size
        rows = spans(height, tiling.tile_height, tiling.overlap)
        columns = spans(width, tiling.tile_width, tiling.overlap)
        assert (len(rows), len(columns)) == grid


@given(width=st.integers(3, LARGEST // 8), height=st.integers(3, LARGEST // 8))
def test_tiles_are_whole_cells_and_cover_the_frame_as_evenly_as_these_allow(width: int, height: int) -> None:
    width, height = 8 * width, 8 * height
    found = tiles_for(width, height)
    if found is None:
        assert width * height <= 1280 * 720
        return
    tiling = Tiling(*found)
    for size, tile in ((height, tiling.tile_height), (width, tiling.tile_width)):
        placed = spans(size, tile, tiling.overlap)
        assert tile % 16 == 0 and tile <= MAX_SIDE
        assert sum(span.length for span in placed) < size + (len(placed) - 1) * (tiling.overlap + 16) + 16
        assert len(placed) == 1 or len(spans(size, MAX_SIDE, tiling.overlap)) == len(placed), "no more than needed"
