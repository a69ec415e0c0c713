"""What the APIs show of a job's state."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.serving.jobs.harness import LIMITS, new_job
from zoetrope.model.catalog.presets import find_model
from zoetrope.model.request.resolve import resolve
from zoetrope.model.request.tasks import TextToVideo, VideoRequest
from zoetrope.serving.gateway.grpc.encode import video_state
from zoetrope.serving.gateway.http.dashscope import schema as dashscope
from zoetrope.serving.gateway.http.openai import schema as openai
from zoetrope.serving.gateway.http.replicate.views import prediction
from zoetrope.serving.jobs.job import PUBLIC, Job, State
from zoetrope.serving.jobs.open import open_stores

SHOWN: dict[str, Callable[[Job], object]] = {
    "gRPC": video_state,
    "OpenAI": lambda job: openai.video(job)["status"],
    "Replicate": lambda job: prediction(job, "http://here")["status"],
    "DashScope": lambda job: dashscope.task(job)["output"]["task_status"],
    "DashScope, lists": lambda job: dashscope.listed(job)["status"],
}


@pytest.mark.parametrize("api", SHOWN)
def test_a_state_that_clients_do_not_know_is_shown_as_another(
    api: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    card = find_model("nano")
    spec = resolve(VideoRequest(task=TextToVideo(prompt="a red circle")), card, 0).to_dict()
    stores = open_stores(f"sqlite://{tmp_path}/jobs.db")
    try:
        job = stores.jobs.create(new_job("a", spec=spec), LIMITS)
    finally:
        stores.close()
    queued = SHOWN[api](job)
    monkeypatch.setitem(PUBLIC, State.QUEUED, State.RUNNING)
    assert SHOWN[api](job) != queued
