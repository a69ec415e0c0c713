"""Sound that is asked for and not there is known when a job is created, by every API."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.serving.gateway.harness import Service, running_service
from tests.serving.media.files import without_sound, write_clip, write_clip_with_sound, write_sound
from zoetrope.serving.client import ClientError

DASHSCOPE = "/api/v1/services/aigc/video-generation/video-synthesis"
EDIT = {"kind": "edit_video", "prompt": "make it blue"}


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with running_service(tmp_path_factory.mktemp("gateway"), model="nano") as running:
        yield running


@pytest.fixture(scope="module")
def silent(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return without_sound(tmp_path_factory.mktemp("silent"))


def data(path: Path) -> str:
    return f"data:application/octet-stream;base64,{base64.b64encode(path.read_bytes()).decode()}"


def by_replicate(service: Service, audio: str) -> list[dict[str, str]]:
    body = {"model": "wan-video/wan-2.7-t2v", "input": {"prompt": "a", "audio": audio}}
    answer = httpx.post(f"{service.http}/v1/predictions", json=body)
    assert answer.status_code == 422
    return answer.json()["invalid_fields"]  # type: ignore[no-any-return]


def by_dashscope(service: Service, audio: str) -> dict[str, Any]:
    body = {"model": "wan2.7-t2v", "input": {"prompt": "a", "audio_url": audio}}
    answer = httpx.post(service.http + DASHSCOPE, json=body, headers={"X-DashScope-Async": "enable"})
    assert answer.status_code == 400
    return answer.json()  # type: ignore[no-any-return]


def test_every_face_refuses_sound_that_is_none(service: Service, silent: dict[str, Path]) -> None:
    for what, path in silent.items():
        with pytest.raises(ClientError) as caught:
            service.client.create(prompt="a", audio=path)
        [violation] = caught.value.violations
        assert (caught.value.code, violation.field) == ("INVALID_ARGUMENT", "audio"), what
        reason = violation.description
        assert by_replicate(service, data(path)) == [{"field": "input.audio", "description": reason}], what
        message = by_dashscope(service, data(path))["message"]
        assert message.startswith("input.audio_url: ") and reason in message, what
    assert service.store.list("", page_size=10) == []


def test_every_face_takes_sound(service: Service, tmp_path: Path) -> None:
    for path in (write_sound(tmp_path / "a.mp3", "libmp3lame"), write_clip_with_sound(tmp_path / "a.mov")):
        assert service.job(service.client.create(prompt="a", audio=path)).spec["audio"]
    service.empty_queue()


def test_an_edit_of_a_silent_clip_is_silent_and_says_so(service: Service, tmp_path: Path) -> None:
    silent = write_clip(tmp_path / "silent.mp4", "libx264", frames=24)
    loud = write_clip(tmp_path / "loud.mp4", "libx264", frames=24, sound="aac")
    for path, kept in ((silent, False), (loud, True)):
        name = service.client.create(task={**EDIT, "video": path, "keep_audio": True})
        assert (service.job(name).spec["audio"] is not None) == kept
        assert any("keep_audio" in warning for warning in service.client.get(name).warnings) == (not kept)
    service.empty_queue()
