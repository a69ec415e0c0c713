"""Clients that others wrote: OpenAI's async and Node SDKs, LiteLLM, the Vercel AI SDK."""

from __future__ import annotations

import asyncio
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import openai
import pytest

from tests.node.run import run_node
from tests.serving.gateway.harness import Service
from tests.serving.gateway.http.router_double import ending_jobs
from tests.serving.gateway.http.samples import picture
from zoetrope.serving.jobs.job import Artifact, Job, Result, State

pytestmark = [
    pytest.mark.filterwarnings("ignore:The Sora API is scheduled:DeprecationWarning"),
    pytest.mark.integration,
]
VIDEO = bytes(range(256)) * 40


def finishing(service: Service) -> AbstractContextManager[list[Job]]:
    """The router's part, meanwhile: each job is done as soon as it is there, unless its prompt asks to wait."""
    return ending_jobs(service, finish)


def finish(service: Service, job: Job) -> None:
    spec = job.spec
    if "wait" in spec["task"]["prompt"]:
        return
    stored: Artifact = service.artifacts.put_bytes(f"jobs/{job.id}/1/video.mp4", VIDEO, "video/mp4")
    result = Result(stored, None, spec["frames"], spec["width"], spec["height"], spec["fps"])
    service.store.finish(job.id, job.lease_epoch, State.SUCCEEDED, result=result)


def is_ended(service: Service, job_id: str) -> bool:
    """Whether a job is gone, which one that still waited is at once, or asked to stop."""
    job = service.store.get(job_id, "")
    return job is None or job.cancel_requested


async def test_openai_async(service: Service) -> None:
    async with openai.AsyncOpenAI(base_url=f"{service.http}/v1", api_key="none", max_retries=0) as sdk:
        with finishing(service):
            first = ("first.png", picture(), "image/png")
            both = await asyncio.gather(
                sdk.videos.create_and_poll(prompt="a red circle", poll_interval_ms=50),
                sdk.videos.create_and_poll(prompt="it turns", input_reference=first, poll_interval_ms=50),
            )
            assert [video.status for video in both] == ["completed", "completed"]
            assert await (await sdk.videos.download_content(both[0].id)).aread() == VIDEO
            uploaded = await sdk.files.create(file=first, purpose="user_data")
            assert (await sdk.files.retrieve(uploaded.id)).filename == "first.png"
            assert {video.id for video in both} <= {video.id async for video in sdk.videos.list(limit=1)}
            running = await sdk.videos.create(prompt="wait")
            await sdk.videos.delete(running.id)
            assert is_ended(service, running.id)


def test_litellm(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LITELLM_LOCAL_MODEL_COST_MAP", "True")  # otherwise it is fetched
    import litellm

    where: dict[str, Any] = {"api_base": f"{service.http}/v1", "api_key": "none"}
    settings = {"num_inference_steps": 4, "negative_prompt": "blur"}
    with finishing(service):
        made = litellm.video_generation(
            prompt="it turns",
            model="openai/nano",
            seconds="2",
            size="64x48",
            user="ann",
            input_reference=picture(),
            extra_body=settings,
            **where,
        )
        job_id = _own_id(made.id)
        spec = service.job(job_id).spec
        assert (spec["task"]["kind"], spec["steps"], spec["width"], spec["height"]) == ("image_to_video", 4, 64, 48)
        assert service.job(job_id).warnings[-1].startswith("user:")
        status = made
        while status.status not in ("completed", "failed"):
            status = litellm.video_status(video_id=made.id, **where)
        assert status.status == "completed"
        assert litellm.video_content(video_id=made.id, **where) == VIDEO
        page: Any = litellm.video_list(custom_llm_provider="openai", **where)  # its types say a list
        assert job_id in {_own_id(video["id"]) for video in page["data"]}
        with pytest.raises(litellm.exceptions.BadRequestError, match="a job makes one video"):
            litellm.video_generation(prompt="x", model="openai/nano", extra_body={"n": 2}, **where)


def _own_id(video_id: str) -> str:
    from litellm.types.videos.utils import extract_original_video_id

    return str(extract_original_video_id(video_id))


def test_npm_openai(service: Service, tmp_path: Path) -> None:
    first = tmp_path / "first.png"
    first.write_bytes(picture())
    with finishing(service):
        seen = run_node("openai", OPENAI_BASE_URL=f"{service.http}/v1", OPENAI_API_KEY="none", FIRST=str(first))
    assert (seen["status"], seen["bytes"], seen["kind"]) == ("completed", len(VIDEO), "video/mp4")
    assert service.job(seen["id"]).spec["task"]["kind"] == "image_to_video"
    assert seen["id"] in seen["listed"] and is_ended(service, seen["waiting"])
    assert (seen["file"]["object"], seen["file"]["purpose"], seen["deleted"]) == ("file", "vision", True)
    assert seen["refused"] == {"status": 400, "param": "seconds", "code": "invalid_request"}


def test_vercel_ai_sdk(service: Service) -> None:
    """Its OpenAI provider makes no videos; Replicate's does."""
    with finishing(service):
        seen = run_node("ai-sdk", BASE_URL=f"{service.http}/v1")
    assert (seen["bytes"], seen["mediaType"], seen["openai"]) == (len(VIDEO), "video/mp4", False)
    spec = service.job(seen["id"]).spec
    assert (spec["task"]["kind"], spec["seed"], spec["steps"]) == ("text_to_video", 7, 4)
