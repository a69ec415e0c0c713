"""A task's media as its conditioner gets them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.serving.media.files import write_picture
from zoetrope.model.catalog.presets import find_model
from zoetrope.model.request.resolve import resolve
from zoetrope.model.request.tasks import InvalidRequest, VideoRequest, parse_request
from zoetrope.serving.media import VideoWriter, read_picture
from zoetrope.serving.media.task_inputs import examine, load


def continued(folder: Path) -> VideoRequest:
    """Write a clip of 20 frames and a picture; ask to go on from the one and to end with the other."""
    with VideoWriter(folder / "clip.mkv", 40, 24, 8, "mkv", {}) as writer:
        writer.write(np.broadcast_to(np.arange(20, dtype=np.uint8)[:, None, None, None] * 10, (20, 24, 40, 3)).copy())
    task = {"clip": str(folder / "clip.mkv"), "last_frame": str(write_picture(folder / "last.png"))}
    return parse_request({"task": {"kind": "image_to_video", **task}})


def test_a_clip_gives_its_end_to_what_follows_and_a_picture_the_last_frame(tmp_path: Path) -> None:
    request, card = continued(tmp_path), find_model("nano")
    media = examine(request.task)
    inputs = load(resolve(request, card, 0, media), card, media)
    assert inputs.before is not None and inputs.last is not None and inputs.first is None
    shades = inputs.before.frames.mean((1, 2, 3))
    assert np.abs(shades - np.arange(15, 20) * 10).max() < 3, "the last five frames, which segments overlap by"
    assert (inputs.last.pixels == read_picture(tmp_path / "last.png").pixels).all()


def test_a_broken_last_frame_is_named(tmp_path: Path) -> None:
    request = continued(tmp_path)
    (tmp_path / "last.png").write_bytes(b"no picture")
    with pytest.raises(InvalidRequest) as caught:
        examine(request.task)
    assert [violation.field for violation in caught.value.violations] == ["last_frame"]
