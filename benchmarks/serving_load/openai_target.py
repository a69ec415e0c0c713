"""A server that speaks OpenAI's videos API: ours, vLLM-Omni's, SGLang's and others'.

Jobs are sent as forms, as OpenAI's SDK does, with the fields that these servers take beside OpenAI's own: num_frames,
fps, num_inference_steps, guidance_scale. Their ends are noticed by polling, so latencies are as exact as its interval.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoetrope.benchmarks.errors import BenchmarkError
from zoetrope.benchmarks.serving_load.inputs import InputFiles
from zoetrope.benchmarks.serving_load.target import (
    CHECK_SECONDS,
    PROMPT,
    FollowedJob,
    JobEnding,
    Served,
    Sight,
    TargetRefused,
    describe_job,
    key_of,
    plain,
)
from zoetrope.benchmarks.simulate.trace import TraceJob

if TYPE_CHECKING:
    import httpx

CALL_SECONDS = 60.0
RETRY_SECONDS = 0.5  # between two tries of a server that is away
TASKS = ("text_to_video", "image_to_video", "reference_to_video", "edit_video")  # that the API can express
FAILED = ("failed", "cancelled", "canceled", "expired")


class OpenAITarget:
    """A server at an address, with or without ``/v1`` at its end.

    A server that does not answer is asked again about a job for ``patience`` seconds.
    """

    def __init__(
        self,
        address: str,
        model: str,
        keys: Mapping[str, str],
        folder: Path,
        *,
        fps: int,
        poll: float,
        patience: float = 30.0,
    ) -> None:
        import httpx

        self._address = address.removesuffix("/v1")
        self._model, self._keys, self._fps = model, keys, fps
        self._poll, self._patience = poll, patience
        self._files = InputFiles(folder, fps)
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=64)
        self._http = httpx.AsyncClient(base_url=self._address, timeout=CALL_SECONDS, limits=limits)

    async def open(self) -> Served:
        import httpx

        try:
            answer = await self._http.get("/v1/models", headers=self._headers(""), timeout=CHECK_SECONDS)
            answer.raise_for_status()
            names = [str(model["id"]) for model in answer.json()["data"]]
        except httpx.HTTPStatusError as error:
            raise BenchmarkError(f"target: {self._address}/v1/models: {_problem(error.response)}") from None
        except httpx.HTTPError as error:
            raise BenchmarkError(f"target: {self._address} does not answer: {_words(error)}") from None
        except (ValueError, KeyError, TypeError):
            raise BenchmarkError(f"target: {self._address}/v1/models is no list of models as OpenAI has it") from None
        if self._model and self._model not in names:
            served = ", ".join(names) or "none"
            raise BenchmarkError(f"model: {self._model!r} is not served at {self._address}, which serves {served}")
        self._model = self._model or next(iter(names), "")
        return Served(self._model, self._fps)

    async def prepare(self, jobs: Collection[TraceJob]) -> None:
        for job in jobs:
            if job.task not in TASKS:
                known = ", ".join(TASKS)
                raise BenchmarkError(f"{describe_job(job)}: task must be one of {known} for OpenAI's videos API")
            if job.priority or job.deadline is not None:
                name = "priority" if job.priority else "deadline"
                raise BenchmarkError(f"{describe_job(job)}: {name} cannot be expressed in OpenAI's videos API")
            self._files.of(job)

    async def submit(self, job: TraceJob, seed: int, deadline: float | None) -> str:
        path, fields, files = self._form(job, seed)
        # httpx sends a form with parts where `files` is given, texts among them.
        parts: list[tuple[str, tuple[str | None, str | bytes]]] = []
        parts += [(name, (None, str(value))) for name, value in fields.items()]
        parts += [(name, (file.name, file.read_bytes())) for name, file in files]
        answer = await self._call("POST", path, job.tenant, files=parts)
        try:
            return str(answer.json()["id"])
        except (ValueError, KeyError, TypeError):
            raise TargetRefused("UNKNOWN", f"POST {path}: the answer is no video object") from None

    async def follow(self, tenant: str, name: str, job: FollowedJob) -> JobEnding:
        sent = time.monotonic()
        began: float | None = None
        while True:
            answer = await self._patient("GET", f"/v1/videos/{name}", tenant)
            try:
                video = answer.json()
                state = str(video["status"])
            except (ValueError, KeyError, TypeError):
                raise TargetRefused("UNKNOWN", f"{name}: the answer is no video object") from None
            if state != "queued" and began is None:
                began = time.monotonic()
                job.on_start()
            if state == "completed":
                return _completed(video, began, sent)
            if state in FAILED:
                return _failed(video, began, sent)
            await asyncio.sleep(self._poll)

    async def cancel(self, tenant: str, name: str) -> None:
        """Delete the video: the API has no other way."""
        await self._call("DELETE", f"/v1/videos/{name}", tenant)

    async def sights(self) -> list[Sight] | None:
        return None

    async def close(self) -> None:
        await self._http.aclose()

    def _form(self, job: TraceJob, seed: int) -> tuple[str, dict[str, Any], list[tuple[str, Path]]]:
        fields: dict[str, Any] = {"prompt": PROMPT, "num_inference_steps": job.steps, "seed": seed}
        if self._model:
            fields["model"] = self._model
        if job.branches == 1:
            fields["guidance_scale"] = 1.0
        if job.quality != "exact":
            fields["quality"] = job.quality
        if job.adapters:
            fields["loras"] = "[" + ", ".join(f'{{"name": "{name}"}}' for name in job.adapters) + "]"
        found = self._files.of(job)
        if job.task == "edit_video":
            return "/v1/videos/edits", fields, [("video", _one(found["video"]))]
        fields |= {"size": f"{job.width}x{job.height}", "num_frames": job.frames, "fps": self._fps}
        if job.task == "text_to_video":
            return "/v1/videos", fields, []
        if job.task == "image_to_video":
            return "/v1/videos", fields, [("input_reference", _one(found["image"]))]
        references = found["references"]
        assert isinstance(references, list)
        return "/v1/videos", fields, [("input_references", path) for path in references]

    def _headers(self, tenant: str) -> dict[str, str]:
        key = key_of(self._keys, tenant)
        return {"Authorization": f"Bearer {key}"} if key else {}

    async def _call(self, method: str, path: str, tenant: str, **more: Any) -> httpx.Response:
        import httpx

        try:
            answer = await self._http.request(method, path, headers=self._headers(tenant), **more)
        except httpx.HTTPError as error:
            raise TargetRefused("UNAVAILABLE", _words(error)) from None
        if answer.is_error:
            raise TargetRefused(f"HTTP {answer.status_code}", _problem(answer))
        return answer

    async def _patient(self, method: str, path: str, tenant: str) -> httpx.Response:
        """Repeat a call for as long as the server may only be away."""
        end = time.monotonic() + self._patience
        while True:
            try:
                return await self._call(method, path, tenant)
            except TargetRefused as refused:
                away = refused.kind in ("UNAVAILABLE", "HTTP 502", "HTTP 503", "HTTP 504", "HTTP 429")
                if not away or time.monotonic() >= end:
                    raise
            await asyncio.sleep(RETRY_SECONDS)


def _one(found: Path | list[Path]) -> Path:
    assert isinstance(found, Path)
    return found


def _completed(video: Mapping[str, Any], began: float | None, sent: float) -> JobEnding:
    usage = video.get("usage") or {}
    used = _amount(usage.get("used_gpu_seconds")) if isinstance(usage, dict) else None
    queued = None if began is None else began - sent
    return JobEnding("succeeded", queued=queued, video_seconds=_amount(video.get("seconds")) or 0.0, gpu_seconds=used)


def _amount(value: object) -> float | None:
    """A number that a server tells, or None if it is none, or cannot be one."""
    try:
        found = float(value) if isinstance(value, (str, int, float)) else math.nan
    except (OverflowError, ValueError):
        return None
    return found if math.isfinite(found) and found >= 0 else None


def _failed(video: Mapping[str, Any], began: float | None, sent: float) -> JobEnding:
    error = video.get("error")
    code = str(error.get("code") or "failed") if isinstance(error, dict) else "failed"
    state = "cancelled" if code.startswith("cancel") or str(video["status"]).startswith("cancel") else "failed"
    return JobEnding(
        "cancelled" if state == "cancelled" else "failed",
        error="" if state == "cancelled" else plain(code.upper()),
        queued=None if began is None else began - sent,
    )


def _problem(answer: httpx.Response) -> str:
    text = " ".join(answer.text.split())[:300]
    return f"status {answer.status_code}{f': {text}' if text else ''}"


def _words(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
