"""The replicate SDK against a real gateway; the router's part is played by hand."""

from __future__ import annotations

import asyncio
import io
import json
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from replicate.exceptions import ModelError
from replicate.pagination import paginate

from tests.serving.gateway.harness import Service, until
from tests.serving.gateway.http.replicate.kit import (
    EDIT,
    I2V,
    PROMPT,
    R2V,
    T2V,
    VIDEO,
    claim,
    end,
    fail,
    refused,
    router,
    succeed,
)
from tests.serving.gateway.http.samples import clip, picture
from tests.serving.jobs.harness import claim_oldest
from zoetrope.serving.gateway.http.replicate.views import prediction
from zoetrope.serving.jobs.job import Stage, State

# What the README promises.


def test_run_and_read(service: Service, sdk: Any) -> None:
    fields = {**PROMPT, "resolution": "1080p", "duration": 5, "num_inference_steps": 50, "guidance_scale": 4, "seed": 7}
    with router(service) as jobs:
        output = sdk.run(T2V, input=fields)
    assert output.read() == VIDEO
    assert b"".join(output) == VIDEO
    (job,) = jobs
    assert job.spec["task"] == {"kind": "text_to_video", "prompt": "a red circle", "negative_prompt": ""}
    asked = {name: job.spec[name] for name in ("width", "height", "frames", "fps", "steps", "guidance", "seed")}
    expected = {"width": 1920, "height": 1080, "frames": 40, "fps": 8, "steps": 50, "guidance": 4, "seed": 7}
    assert asked == expected
    assert job.origin["api"] == "replicate"


def test_run_async(service: Service, sdk: Any) -> None:
    async def run() -> bytes:
        output = await sdk.async_run(T2V, input=PROMPT)
        return bytes(await output.aread())

    with router(service):
        assert asyncio.run(run()) == VIDEO


def test_async_client(service: Service, sdk: Any) -> None:
    async def use() -> None:
        file = await sdk.files.async_create(io.BytesIO(picture()), filename="a.png")
        assert (await sdk.files.async_get(file.id)).size == file.size
        assert file.id in [item.id for item in await sdk.files.async_list()]
        made = await sdk.predictions.async_create(model=I2V, input={**PROMPT, "image": file.urls["get"]})
        with router(service):
            await made.async_wait()
        assert made.status == "succeeded"
        async with httpx.AsyncClient() as anybody:
            assert (await anybody.get(made.output)).content == VIDEO
        held = await sdk.models.predictions.async_create(model=T2V, input=PROMPT)
        assert (await sdk.predictions.async_cancel(held.id)).status == "canceled"
        await held.async_reload()
        assert held.status == "canceled"
        listed = await sdk.predictions.async_list()
        assert [item.id for item in listed.results[:2]] == [held.id, made.id]
        assert (await sdk.models.async_get(T2V)).latest_version.id == sdk.models.get(T2V).latest_version.id
        assert await sdk.files.async_delete((await sdk.files.async_create(io.BytesIO(picture(seed=9)))).id)

    asyncio.run(use())


def test_edit_with_a_file(service: Service, sdk: Any, tmp_path: Path) -> None:
    path = tmp_path / "clip.mp4"
    path.write_bytes(clip(2.0))
    with router(service) as jobs, path.open("rb") as file:
        fields = {"prompt": "make it blue", "video": file, "guidance_scale": 5.0, "resolution": "720p", "duration": 0}
        output = sdk.run(EDIT, input=fields)
    assert output.read() == VIDEO
    (job,) = jobs
    assert job.spec["task"]["kind"] == "edit_video"
    assert job.spec["task"]["video"] == job.media[0]
    assert job.spec["frames"] == 16  # all two seconds
    assert job.origin["input"]["video"].startswith(f"{service.http}/v1/files/{job.media[0]}")


def test_references_and_a_storyboard(service: Service, sdk: Any) -> None:
    still, moving = sdk.files.create(io.BytesIO(picture())), sdk.files.create(io.BytesIO(clip()))
    fields = {"prompt": "Image 1 beside Video 1", "reference_images": [still.urls["get"]]}
    made = sdk.predictions.create(model=R2V, input={**fields, "reference_videos": [moving.urls["get"]]})
    task = service.job(made.id).spec["task"]
    assert (task["kind"], task["references"]) == ("reference_to_video", [still.id, moving.id])

    panels = [io.BytesIO(picture(seed=i)) for i in range(9)]
    made = sdk.predictions.create(model=I2V, input={**PROMPT, "images": panels, "aspect_ratio": "1:1"})
    job = service.job(made.id)
    assert (job.spec["task"]["kind"], len(set(job.spec["task"]["panels"]))) == ("grid_to_video", 9)
    assert (job.spec["width"], job.spec["height"]) == (960, 960)
    assert made.input["images"] == [f"{service.http}/v1/files/{name}" for name in job.spec["task"]["panels"]]


def test_a_result_is_an_input(service: Service, sdk: Any, web: httpx.Client) -> None:
    data = clip(2.0)
    with router(service, lambda service, job: succeed(service, job, data)) as jobs:
        sdk.run(T2V, input=PROMPT)
        address = web.get("/v1/predictions").json()["results"][0]["output"]
        sdk.run(I2V, input={**PROMPT, "first_clip": address})
    assert jobs[1].spec["task"]["kind"] == "image_to_video"
    assert jobs[1].spec["task"]["clip"] == jobs[1].media[0]


def test_version_reference(service: Service, sdk: Any) -> None:
    version = sdk.models.get(T2V).latest_version
    assert version is not None
    assert set(version.openapi_schema["components"]["schemas"]["Input"]["required"]) == {"prompt"}
    assert sdk.models.get(T2V).versions.get(version.id).id == version.id
    assert [found.id for found in sdk.models.get(T2V).versions.list()] == [version.id]
    with router(service):
        assert sdk.run(f"{T2V}:{version.id}", input=PROMPT).read() == VIDEO
        made = sdk.predictions.create(version=version.id, input=PROMPT)
        made.wait()
    assert (made.version, made.model, made.status) == (version.id, T2V, "succeeded")
    refused(lambda: sdk.predictions.create(version="0" * 64, input=PROMPT), 404)


# A prediction's life.


def test_life_of_a_prediction(service: Service, sdk: Any) -> None:
    made = sdk.predictions.create(model=T2V, input={**PROMPT, "negative_prompt": "blur", "num_inference_steps": 50})
    assert (made.status, made.version, made.output, made.error) == ("starting", "hidden", None, None)
    assert made.input == {**PROMPT, "negative_prompt": "blur", "num_inference_steps": 50}
    assert made.progress is None
    assert made.urls["get"] == f"{service.http}/v1/predictions/{made.id}"

    job = claim(service, made.id)
    service.progress(job, Stage.DENOISING, 16, 3.0)
    made.reload()
    assert (made.status, made.completed_at) == ("processing", None)
    assert made.progress is not None
    assert (made.progress.percentage, made.progress.current, made.progress.total) == (0.32, 16, 50)

    service.progress(job, Stage.DENOISING, 50, 0.0)
    succeed(service, job)
    made.wait()
    assert made.status == "succeeded"
    assert made.progress is not None
    assert made.progress.current == 50
    assert made.metrics["predict_time"] >= 0
    assert made.metrics["denoise_seconds"] == 1.5
    assert f"seed {job.spec['seed']}" in made.logs
    assert made.started_at is not None
    assert made.created_at <= made.started_at <= made.completed_at


def test_failed(service: Service, sdk: Any) -> None:
    with router(service, fail), pytest.raises(ModelError, match="fell off the wall") as caught:
        sdk.run(T2V, input=PROMPT)
    assert caught.value.prediction.status == "failed"


def test_wait_ends_before_the_job(service: Service, sdk: Any, web: httpx.Client) -> None:
    """ "processing" would make run() return None."""
    started = time.monotonic()
    with ThreadPoolExecutor(1) as pool:
        path = f"/v1/models/{T2V}/predictions"
        future = pool.submit(web.post, path, json={"input": PROMPT}, headers={"prefer": "respond-async, wait=1"})
        (job,) = until(lambda: claim_oldest(service.store, "test", 10, 60.0, 5, ("nano",)))
        response = future.result()
    assert time.monotonic() - started >= 1.0
    assert (response.status_code, response.json()["status"]) == (202, "starting")
    assert sdk.predictions.get(job.id).status == "processing"


def test_wait_ends_with_the_job(service: Service, sdk: Any) -> None:
    with router(service):
        made = sdk.models.predictions.create(model=T2V, input=PROMPT, wait=30)
    assert made.status == "succeeded"
    assert made.output.startswith("data:video/mp4;base64,")


def test_cancel(service: Service, sdk: Any) -> None:
    queued = sdk.predictions.create(model=T2V, input=PROMPT)
    queued.cancel()
    assert (queued.status, queued.error) == ("canceled", None)

    running = sdk.predictions.create(model=T2V, input=PROMPT)
    job = claim(service, running.id)
    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(sdk.predictions.cancel, running.id)
        until(lambda: service.job(job.id).cancel_requested)
        assert service.store.finish(job.id, job.lease_epoch, State.CANCELLED)
        assert future.result().status == "canceled"
    assert sdk.predictions.cancel(running.id).status == "canceled"  # again


def test_cancel_after(service: Service, web: httpx.Client) -> None:
    path = f"/v1/models/{T2V}/predictions"
    made = web.post(path, json={"input": PROMPT}, headers={"cancel-after": "1m30s"}).json()
    job = service.job(made["id"])
    assert job.deadline_at == pytest.approx(job.created_at + 90, abs=5)
    end(service, claim(service, job.id), "DEADLINE_EXCEEDED", "took too long")
    assert web.get(f"/v1/predictions/{job.id}").json()["status"] == "canceled"
    for header in ("4s", "1h1", "-5s", "soon", "", "9999h"):
        problem = web.post(path, json={"input": PROMPT}, headers={"cancel-after": header})
        assert problem.status_code == 422
        assert [item["field"] for item in problem.json()["invalid_fields"]] == ["Cancel-After"]


def test_a_repeated_create_may_have_cancel_after(service: Service, web: httpx.Client) -> None:
    def create(cancel_after: str) -> httpx.Response:
        headers = {"idempotency-key": "repeated-with-cancel-after", "cancel-after": cancel_after}
        return web.post(f"/v1/models/{T2V}/predictions", json={"input": PROMPT}, headers=headers)

    first = create("90s")
    assert first.status_code == 201
    assert create("1m30s").json()["id"] == first.json()["id"]
    assert create("91s").json()["reason"] == "REQUEST_ID_REUSED"
    end(service, claim(service, first.json()["id"]), "DEADLINE_EXCEEDED", "took too long")


def test_list_in_pages(service: Service, sdk: Any, web: httpx.Client) -> None:
    start = web.get("/v1/predictions").json()["results"]
    ids = [sdk.predictions.create(model=T2V, input=PROMPT).id for _ in range(103)]
    pages = list(paginate(sdk.predictions.list))
    assert len(pages[0].results) == 100
    found = [item.id for page in pages for item in page]
    assert found[: len(ids)] == ids[::-1]
    assert len(found) == len(set(found)) >= len(ids) + len(start[:1])
    low, high = (sdk.predictions.get(ids[i]).created_at for i in (40, 50))
    some = web.get("/v1/predictions", params={"created_after": low, "created_before": high})
    assert [item["id"] for item in some.json()["results"]] == ids[40:50][::-1]
    for query in ({"cursor": "nonsense"}, {"created_after": "yesterday"}):
        problem = web.get("/v1/predictions", params=query)
        assert problem.status_code == 422
        assert problem.json()["invalid_fields"][0]["field"] == next(iter(query))


def test_jobs_of_other_faces(service: Service, sdk: Any) -> None:
    name = service.client.create(prompt="a blue square", seed=3)
    found = sdk.predictions.get(name.removeprefix("operations/"))
    assert (found.model, found.input["prompt"], found.input["seed"]) == (T2V, "a blue square", 3)


def test_idempotency_key(web: httpx.Client) -> None:
    def post(prompt: str) -> httpx.Response:
        body = {"model": T2V, "input": {"prompt": prompt}}
        return web.post("/v1/predictions", json=body, headers={"idempotency-key": "once"})

    assert post("one").json()["id"] == post("one").json()["id"]
    other = post("two")
    assert (other.status_code, other.json()["reason"]) == (422, "REQUEST_ID_REUSED")
    assert other.json()["invalid_fields"][0]["field"] == "Idempotency-Key"


def test_webhook_is_kept(service: Service, sdk: Any) -> None:
    url = "https://example.com/hook"
    for given, events in (
        ({"webhook": url}, ("output", "completed")),
        ({"webhook": url, "webhook_events_filter": ["start", "completed"]}, ("start", "completed")),
        ({"webhook_completed": url}, ("completed",)),
    ):
        made = sdk.predictions.create(model=T2V, input=PROMPT, **given)
        hook = service.job(made.id).webhook
        assert hook is not None
        assert (hook.url, hook.events) == (url, events)
    assert sdk.webhooks.default.secret().key.startswith("whsec_")
    detail = refused(lambda: sdk.predictions.create(model=T2V, input=PROMPT, webhook="ftp://example.com"), 422)
    assert detail.startswith("webhook: ")
    detail = refused(lambda: sdk.predictions.create(model=T2V, input=PROMPT, webhook_events_filter=["x"]), 422)
    assert detail.startswith("webhook_events_filter.0: ")


def test_a_prediction_is_rendered_from_its_job_alone(service: Service, sdk: Any) -> None:
    made = sdk.predictions.create(model=T2V, input=PROMPT)
    succeed(service, claim(service, made.id), b"abcd")
    job = service.job(made.id)
    body = prediction(job, "https://videos.example")
    assert body["output"] == f"https://videos.example/v1/predictions/{job.id}/output/video.mp4"
    assert prediction(job, "http://x", output="data:,")["output"] == "data:,"
    assert json.loads(json.dumps(body)) == body
    assert (body["status"], body["model"], body["input"]) == ("succeeded", T2V, PROMPT)
