"""Failures of real things, and what is done about them."""

from __future__ import annotations

import shutil
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from zoetrope.cluster.telemetry.catalogue import REGISTRY
from zoetrope.model.catalog.presets import find_model
from zoetrope.model.request.resolve import resolve
from zoetrope.model.request.specs import VideoSpec
from zoetrope.model.request.tasks import TextToVideo, VideoRequest
from zoetrope.serving.stages.failures import FAILURE_CODES, Remedy, StageError, classify
from zoetrope.serving.stages.render import render_video, save_latents
from zoetrope.serving.storage.store import ArtifactStore, open_artifacts

STAGE_FAILURES = "zoetrope_stage_failures_total"
FULL = "disk space: the disk is full"


def spec_of(container: str) -> VideoSpec:
    task = TextToVideo(prompt="a red circle")
    fields: dict[str, Any] = {"size": "64x64", "frames": 1, "container": container}
    return resolve(VideoRequest(task=task, **fields), find_model("nano"), 0)


def failure(call: Callable[[], object]) -> StageError:
    with pytest.raises(Exception) as failed:
        call()
    return classify(failed.value, spec_of("mp4"))


def frames() -> np.ndarray:
    return np.random.default_rng(5).integers(0, 256, (1, 64, 64, 3), dtype=np.uint8)


@pytest.mark.parametrize("container", ["mp4", "mkv", "png", "webp", "jpg"])
def test_a_full_disk_while_a_video_is_written_is_waited_for(tmp_path: Path, container: str) -> None:
    """However its library tells of it, Pillow's JPEGs not at all."""
    path = tmp_path / "video"
    path.symlink_to("/dev/full")
    found = failure(lambda: render_video(spec_of(container), [frames()], path))
    assert (found.remedy, str(found)) == (Remedy.WAIT, FULL)
    assert list(tmp_path.iterdir()) == [], "nothing half is left"


def test_a_full_disk_while_latents_are_written_is_waited_for(tmp_path: Path) -> None:
    path = tmp_path / "latents"
    path.symlink_to("/dev/full")
    found = failure(lambda: save_latents([torch.zeros(4, 4)], path))
    assert (found.remedy, str(found)) == (Remedy.WAIT, FULL)


def test_a_video_that_came_out_blank_ends_its_job(tmp_path: Path) -> None:
    black = np.zeros((1, 64, 64, 3), np.uint8)
    found = failure(lambda: render_video(spec_of("mp4"), [black], tmp_path / "video.mp4"))
    assert (found.remedy, found.code) == (Remedy.END, "INTERNAL") and "blank" in str(found)


def test_a_file_that_is_gone_is_told_from_a_store_that_is_away(tmp_path: Path) -> None:
    store = ArtifactStore(tmp_path / "store")
    store.put_bytes("media/a/1", b"1", "x/y")
    gone = failure(lambda: store.size("media/a/2"))
    assert (gone.remedy, gone.code, str(gone)) == (Remedy.END, "FAILED_PRECONDITION", "a file of the job is gone")
    shutil.move(tmp_path / "store", tmp_path / "unmounted")
    away = failure(lambda: store.size("media/a/1"))
    assert (away.remedy, str(away)) == (Remedy.WAIT, "storage: the artifact store cannot be reached")


def test_a_bucket_that_is_away_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    store = open_artifacts(f"s3://bucket/all?endpoint=http://127.0.0.1:{port}")
    calls: list[Callable[[], object]] = [lambda: store.size("jobs/a/1"), store.healthy]
    for call in calls:
        found = failure(call)
        assert (found.remedy, str(found)) == (Remedy.WAIT, "storage: the artifact store cannot be reached")


def test_failures_of_each_kind_are_counted_from_the_start() -> None:
    """So that Prometheus sees the first one as a change."""
    for stage in ("conditioning", "decoding"):
        for code in FAILURE_CODES:
            assert REGISTRY.get_sample_value(STAGE_FAILURES, {"stage": stage, "code": code}) is not None, (stage, code)
