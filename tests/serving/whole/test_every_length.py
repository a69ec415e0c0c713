"""Every task at every length that nano allows, through a service."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.serving.media.files import write_clip, write_picture
from tests.serving.whole.service import Service
from zoetrope.serving.media import probe

pytestmark = [pytest.mark.long, pytest.mark.timeout(900)]

FPS = 8
SOURCE_SECONDS = 10


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    folder = tmp_path_factory.mktemp("media")
    still, other = write_picture(folder / "a.png"), write_picture(folder / "b.jpg")
    clip = write_clip(folder / "clip.mp4", "libx264", frames=20)
    source = write_clip(folder / "source.mp4", "libx264", frames=SOURCE_SECONDS * FPS)
    prompt = "a red circle"
    return [
        {"kind": "text_to_video", "prompt": prompt},
        {"kind": "image_to_video", "image": still},
        {"kind": "image_to_video", "image": still, "loop": True},
        {"kind": "image_to_video", "clip": clip},
        {"kind": "image_to_video", "clip": clip, "last_frame": other},
        {"kind": "first_last_frame", "first_frame": still, "last_frame": other},
        {"kind": "grid_to_video", "panels": [still] * 9},
        {"kind": "reference_to_video", "prompt": prompt, "references": [still, clip], "first_frame": other},
        {"kind": "edit_video", "prompt": prompt, "video": source, "references": [other]},
    ]


def test_every_task_is_made_at_every_length(service: Service, tasks: list[dict[str, Any]], tmp_path: Path) -> None:
    client = service.client
    made: dict[str, tuple[dict[str, Any], int]] = {}
    for task in tasks:
        for seconds in range(1, 16):
            if task["kind"] == "edit_video" and seconds > SOURCE_SECONDS:
                break
            name = client.create({"task": task}, duration_seconds=seconds, steps=1, guidance=1.0, size="40x24")
            made[name] = (task, seconds)
    assert len(made) == 8 * 15 + 10
    for name, (task, seconds) in made.items():
        status = client.wait(name)
        assert status.state == "succeeded", (task, seconds, status.error)
        assert status.video is not None
        # What ends with a given picture is as long as whole latent frames, so that the picture is its last frame.
        whole = "last_frame" in task or task.get("loop", False)
        assert status.video.frames == seconds * FPS + whole
    longest = next(name for name, (task, seconds) in made.items() if seconds == 15 and "last_frame" in task)
    client.download(longest, tmp_path / "longest.mp4")
    assert probe(tmp_path / "longest.mp4").frames == 15 * FPS + 1
    extended = client.wait(client.extend(longest, "a red circle", duration_seconds=2.0, steps=1))
    assert extended.state == "succeeded", "a clip as long as they get can be gone on from"
