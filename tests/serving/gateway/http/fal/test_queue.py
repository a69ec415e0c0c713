"""Requests through fal's own client for Python."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import fal_client
import pytest
from httpx_sse import connect_sse

from tests.serving.gateway.harness import Collector, Service, until
from tests.serving.gateway.http.fal.kit import PROMPT, T2V, VIDEO, WEB, claim, fail, post, router, succeed
from zoetrope.serving.jobs.job import Stage, State


def test_subscribe(service: Service, fal: fal_client.SyncClient) -> None:
    updates: list[Any] = []
    with router(service) as seen:
        result = fal.subscribe(T2V, {**PROMPT, "seed": 7}, with_logs=True, on_queue_update=updates.append)
    (job,) = seen
    assert isinstance(updates[-1], fal_client.Completed)
    assert updates[-1].error is None
    assert updates[-1].metrics["inference_time"] >= 0
    assert updates[-1].logs is not None and "seed 7" in updates[-1].logs[0]["message"]
    video = result.pop("video")
    assert WEB.get(video["url"]).content == VIDEO  # without a key
    assert {name: video[name] for name in ("content_type", "file_name", "file_size")} == {
        "content_type": "video/mp4",
        "file_name": f"{job.id}.mp4",
        "file_size": len(VIDEO),
    }
    assert (video["width"], video["height"], video["fps"]) == (job.spec["width"], job.spec["height"], job.spec["fps"])
    assert (result["seed"], result["prompt"]) == (7, "a red circle")


def test_one_step_after_the_other(service: Service, fal: fal_client.SyncClient) -> None:
    first, second = fal.submit(T2V, PROMPT), fal.submit(T2V, PROMPT)
    assert first.response_url == f"{service.http}/fal-ai/wan/requests/{first.request_id}"
    assert (first.status_url, first.cancel_url) == (f"{first.response_url}/status", f"{first.response_url}/cancel")
    assert [handle.status() for handle in (first, second)] == [fal_client.Queued(0), fal_client.Queued(1)]
    with pytest.raises(fal_client.client.FalClientHTTPError, match="still in progress") as caught:
        fal_client.client._request(fal._client, "GET", first.response_url)
    assert caught.value.status_code == 400
    second.cancel()
    job = claim(service, first.request_id)
    service.progress(job, Stage.DENOISING, 1)
    until(lambda: first.status() == fal_client.InProgress(logs=[]))
    logs = first.status(with_logs=True)
    assert isinstance(logs, fal_client.InProgress) and logs.logs is not None
    assert any("1/" in line["message"] for line in logs.logs)
    succeed(service, job)
    assert first.get()["video"]["file_size"] == len(VIDEO)
    assert fal.result(T2V, first.request_id)["seed"] == job.spec["seed"]  # by its id alone


def test_cancel(service: Service, fal: fal_client.SyncClient) -> None:
    handle = fal.submit(T2V, PROMPT)
    answer = WEB.put(handle.cancel_url)
    assert (answer.status_code, answer.json()) == (202, {"status": "CANCELLATION_REQUESTED"})
    assert service.job(handle.request_id).state is State.CANCELLED
    status = handle.status()
    assert isinstance(status, fal_client.Completed)
    assert status.error_type == "client_cancelled"
    answer = WEB.put(handle.cancel_url)
    assert (answer.status_code, answer.json()) == (400, {"status": "ALREADY_COMPLETED"})
    with pytest.raises(fal_client.client.FalClientHTTPError) as caught:
        handle.get()
    assert (caught.value.status_code, caught.value.error_type) == (499, "client_cancelled")


def test_a_request_that_fails(service: Service, fal: fal_client.SyncClient) -> None:
    with router(service, fail), pytest.raises(fal_client.client.FalClientHTTPError) as caught:
        fal.subscribe(T2V, PROMPT)
    assert caught.value.status_code == 500
    assert caught.value.error_type == "internal_server_error"
    (detail,) = caught.value.response.json()["detail"]
    assert detail == {"loc": ["body"], "msg": "the picture fell off the wall", "type": "internal_server_error"}


def test_run(service: Service, fal: fal_client.SyncClient) -> None:
    with router(service):
        assert fal.run(T2V, PROMPT)["video"]["file_size"] == len(VIDEO)
    with router(service, fail), pytest.raises(fal_client.client.FalClientHTTPError) as caught:
        fal.run(T2V, PROMPT)
    assert caught.value.status_code == 500
    with pytest.raises(fal_client.client.FalClientHTTPError) as caught:
        fal.run(T2V, {**PROMPT, "num_frames": 0})
    assert caught.value.status_code == 422


async def test_the_async_client(service: Service) -> None:
    client = fal_client.AsyncClient(key="none")
    with router(service):
        handles = await asyncio.gather(*(client.submit(T2V, {**PROMPT, "seed": seed}) for seed in range(3)))
        results = await asyncio.gather(*(handle.get() for handle in handles))
    assert [result["seed"] for result in results] == [0, 1, 2]
    handle = await client.submit(T2V, PROMPT)
    await handle.cancel()
    assert isinstance(await handle.status(), fal_client.Completed)


def test_a_stream_of_states(service: Service) -> None:
    job_id = post(service, T2V, PROMPT).json()["request_id"]
    url = f"{service.http}/fal-ai/wan/requests/{job_id}/status/stream?logs=1"
    opened = threading.Event()

    def events() -> Any:
        with connect_sse(WEB, "GET", url) as source:
            assert source.response.headers["x-fal-request-id"] == job_id
            for event in source.iter_sse():
                opened.set()
                yield event.json()

    seen = Collector(events())
    assert opened.wait(15)
    job = claim(service, job_id)
    service.progress(job, Stage.DENOISING, 1)
    until(lambda: any("1/" in line["message"] for event in seen.seen for line in event["logs"]))
    succeed(service, job)
    events_seen = seen.join()
    states = [event["status"] for event in events_seen]
    assert states == sorted(states, key=("IN_QUEUE", "IN_PROGRESS", "COMPLETED").index)
    assert {"IN_QUEUE", "IN_PROGRESS", "COMPLETED"} == set(states)
    lines = [line["message"] for event in events_seen for line in event["logs"]]
    assert len(set(lines)) == len(lines)  # each once


def test_a_stream_ends_with_a_job_that_is_deleted(service: Service) -> None:
    job_id = post(service, T2V, PROMPT).json()["request_id"]
    url = f"{service.http}/zoetrope/nano/requests/{job_id}/status/stream"
    service.store.request_cancel(job_id, "")
    with WEB.stream("GET", url) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        assert "client_cancelled" in answer.read().decode()
    assert WEB.delete(f"{service.http}/v1/videos/{job_id}").is_success
    assert WEB.get(url).status_code == 404


def test_jobs_of_other_apis(service: Service, fal: fal_client.SyncClient) -> None:
    with router(service):
        name = service.client.create(prompt="a blue square")
        result = fal.result("zoetrope/nano", name.removeprefix("operations/"))
    assert result["prompt"] == "a blue square"
    status = WEB.get(f"{service.http}/fal-ai/any/requests/{name.removeprefix('operations/')}/status").json()
    assert status["response_url"].startswith(f"{service.http}/zoetrope/nano/requests/")


def test_unknown_ones(service: Service, fal: fal_client.SyncClient) -> None:
    url = f"{service.http}/fal-ai/wan/requests/vid_x"
    for method, path in (("GET", ""), ("GET", "/status"), ("GET", "/status/stream"), ("PUT", "/cancel")):
        answer = WEB.request(method, url + path)
        assert answer.status_code == 404
        assert "is not a known job" in answer.json()["detail"]
    with pytest.raises(fal_client.client.FalClientHTTPError) as caught:
        fal.submit("fal-ai/flux/dev", PROMPT)
    assert caught.value.status_code == 404
    assert "served are: zoetrope/nano, fal-ai/wan/v2.7/text-to-video" in str(caught.value)
    assert WEB.get(f"{url}/status?logs=yes").json()["detail"][0]["loc"] == ["query", "logs"]


def test_what_is_said_of_no_engine(service: Service, fal: fal_client.SyncClient) -> None:
    handle = fal.submit(T2V, PROMPT)
    body = WEB.get(handle.status_url, params={"logs": "1"}).json()
    assert "no engine serves nano now" in [line["message"] for line in body["logs"]]
