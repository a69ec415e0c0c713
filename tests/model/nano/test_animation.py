"""The animation of the README: every task with what it was given, in motion."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from tests.model.nano.conftest import CARD
from zoetrope.model.nano.animation import TITLES, Cell, cells_of, draw, save
from zoetrope.model.nano.cases import held_out
from zoetrope.model.nano.samples import TASKS
from zoetrope.model.nano.sheet import Frames

RED, GREEN = (200, 30, 30), (30, 200, 30)


def clip(frames: int) -> Frames:
    """Red frames, the last one green."""
    pixels = np.full((frames, 24, 40, 3), RED, np.uint8)
    pixels[-1] = GREEN
    return pixels


def share(image: Image.Image, color: tuple[int, int, int]) -> float:
    return float((np.asarray(image).reshape(-1, 3) == color).all(1).mean())


def test_all_six_tasks_are_shown_with_their_own_frames() -> None:
    cases = [held_out(kind, CARD, 1, 1)[0] for kind in TASKS]
    cells = cells_of(cases, [case.ideal for case in cases])
    assert [cell.title for cell in cells] == [TITLES[kind] for kind in TASKS]
    assert [len(cell.clip) for cell in cells] == [case.spec.frames for case in cases]
    assert [len(cell.given) for cell in cells][:4] == [0, 1, 2, 1]
    moving = cells[-1].given[0]
    assert len(moving) > 1, "the clip to edit moves, too"
    assert len({image.tobytes() for image in draw(cells)}) > 8


def test_a_shorter_clip_rests_on_its_last_frame() -> None:
    frames = draw([Cell("a", "short", (), clip(2)), Cell("b", "long", (clip(1),), clip(4))])
    assert len(frames) == 4
    red, green = [share(image, RED) for image in frames], [share(image, GREEN) for image in frames]
    assert red[0] > red[1] == red[2] > red[3] == 0
    assert green[0] < green[1] == green[2] < green[3]


def test_what_is_saved_is_an_animation_that_repeats(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "clip.webp"
    brighter = np.stack([np.full((24, 40, 3), 50 * i, np.uint8) for i in range(5)])  # WebP joins frames that are equal
    save(draw([Cell("a", "a caption", (clip(1),), brighter)]), path)
    with Image.open(path) as image:
        assert (image.format, getattr(image, "n_frames", 1), image.info["loop"]) == ("WEBP", 5, 0)
