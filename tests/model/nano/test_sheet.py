"""Contact sheets: what was given beside what was made."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from tests.model.nano.conftest import CARD
from zoetrope.model.media.inputs import Inputs
from zoetrope.model.nano.cases import held_out
from zoetrope.model.nano.samples import TASKS, TaskKind
from zoetrope.model.nano.sheet import GIVEN_EDGE, Frames, Tile, contact_sheet, given_pictures

RED, GREEN = (200, 30, 30), (30, 200, 30)
LONG = "a red circle moving right on a white background " * 6


def plain(color: tuple[int, int, int], *shape: int) -> Frames:
    return np.full((*shape, 3), color, np.uint8)


def share(sheet: Image.Image, color: tuple[int, int, int]) -> float:
    return float((np.asarray(sheet).reshape(-1, 3) == color).all(1).mean())


def test_clips_of_all_sizes_are_shown_two_in_a_row() -> None:
    sheet = contact_sheet([Tile(plain(RED, 9, h, w), LONG) for w, h in CARD.native_sizes])
    assert share(sheet, RED) > 0.3
    assert share(sheet, GIVEN_EDGE) == 0
    assert 3 * 96 < sheet.height < 5 * 96, "five clips, three rows"


def test_what_was_given_stands_left_of_the_clip() -> None:
    tiles = [Tile(plain(RED, 9, 24, 40), LONG, (plain(GREEN, 24, 40),) * number) for number in (1, 2)]
    sheet = contact_sheet(tiles)
    pixels = np.asarray(sheet)
    green, red = (pixels == GREEN).all(2), (pixels == RED).all(2)
    assert green.any()
    assert int(np.nonzero(green.any(0))[0].max()) < int(np.nonzero(red.any(0))[0].min())
    assert share(sheet, GIVEN_EDGE) > 0
    assert sheet.height > 2 * 96, "one clip in a row"


@pytest.mark.parametrize(
    ("kind", "numbers"),
    [
        ("text_to_video", {0}),
        ("image_to_video", {1}),
        ("first_last_frame", {2}),
        ("grid_to_video", {1}),
        ("reference_to_video", {1, 2}),
        ("edit_video", {3, 4}),
    ],
)
def test_every_task_shows_what_it_was_given(kind: TaskKind, numbers: set[int]) -> None:
    assert kind in TASKS
    given = [given_pictures(case.inputs) for case in held_out(kind, CARD, 12, 1)]
    assert {len(pictures) for pictures in given} == numbers
    for case, pictures in zip(held_out(kind, CARD, 12, 1), given, strict=True):
        if kind == "grid_to_video":
            height, width = case.ideal.shape[1:3]
            assert pictures[0].shape == (3 * height, 3 * width, 3)
            assert np.array_equal(pictures[0][:height, :width], case.ideal[0])
            assert np.array_equal(pictures[0][-height:, -width:], case.ideal[-1])
    assert given_pictures(Inputs()) == ()
