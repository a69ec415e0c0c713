"""The dashscope SDK against a real gateway; the router's part is played by hand."""

from __future__ import annotations

import asyncio
import base64
import re
import threading
import time
from pathlib import Path
from typing import Any

import dashscope
import httpx
import pytest
from dashscope.aigc.video_synthesis import AioVideoSynthesis, VideoSynthesis
from dashscope.api_entities.aio_session import close_shared_aio_session

from tests.serving.gateway.harness import Service, running_service, until
from tests.serving.gateway.http.dashscope.documented import NO_WATERMARK
from tests.serving.gateway.http.dashscope.kit import (
    VIDEO,
    claim,
    created,
    data,
    job_of,
    kinds,
    refused,
    succeed,
    use_sdk,
)
from tests.serving.gateway.http.samples import clip, picture, sound
from tests.serving.jobs.harness import claim_oldest
from zoetrope.serving.gateway.http.dashscope.schema import task
from zoetrope.serving.jobs.job import State
from zoetrope.serving.jobs.key_table import KeyLimits

CREATE = "services/aigc/video-generation/video-synthesis"
TIME = re.compile(r"20\d\d-\d\d-\d\d \d\d:\d\d:\d\d\.\d\d\d")


def test_text_to_video_until_its_file_is_fetched(service: Service) -> None:
    answer = created(size="40*24", duration=3, seed=5, negative_prompt="blur", prompt_extend=True, watermark=False)
    spec = job_of(service, answer).spec
    assert (spec["width"], spec["height"], spec["frames"], spec["fps"], spec["seed"]) == (40, 24, 24, 8, 5)
    assert spec["task"] == {"kind": "text_to_video", "prompt": "a red circle", "negative_prompt": "blur"}
    assert VideoSynthesis.fetch(answer).output.task_status == "PENDING"
    job = claim(service)
    assert VideoSynthesis.fetch(answer.output.task_id).output.task_status == "RUNNING"
    succeed(service, job)
    done = VideoSynthesis.fetch(answer)
    output = done.output
    assert output.task_status == "SUCCEEDED"
    assert all(TIME.fullmatch(output[field]) for field in ("submit_time", "scheduled_time", "end_time"))
    assert output["orig_prompt"] == output["actual_prompt"] == "a red circle"
    assert (done.usage["duration"], done.usage["video_count"], done.usage["SR"]) == (3, 1, 24)
    fetched = httpx.get(output.video_url)  # without a key
    assert (fetched.status_code, fetched.content) == (200, VIDEO)
    assert httpx.get(output.video_url, headers={"range": "bytes=-4"}).content == VIDEO[-4:]


def play(service: Service) -> None:
    """The router's part, in a thread: make the next job."""
    succeed(service, until(lambda: claim_oldest(service.store, "test", 1, 60.0, 5, ("nano",)))[0])


def test_wait(service: Service) -> None:
    router = threading.Thread(target=play, args=(service,))
    router.start()
    done = VideoSynthesis.call("wan2.7-t2v", "a red circle", resolution="720P", ratio="1:1")
    router.join()
    assert done.output.task_status == "SUCCEEDED"
    assert done.usage["size"] == "960*960"
    assert httpx.get(done.output.video_url).content == VIDEO


def test_image_to_video(service: Service) -> None:
    first, last, start = data(picture()), data(picture(seed=1)), data(clip(), "video/mp4")
    speech = {"type": "driving_audio", "url": data(sound(), "audio/wav")}
    one = job_of(service, created(model="wan2.7-i2v", media=[{"type": "first_frame", "url": first}, speech]))
    assert (one.spec["task"]["kind"], kinds(service, [one.spec["task"]["image"]])) == ("image_to_video", ["image"])
    assert kinds(service, [one.spec["audio"]]) == ["sound"]
    both = [{"type": "last_frame", "url": last}, {"type": "first_frame", "url": first}]
    two = job_of(service, created(model="wan2.7-i2v", prompt=None, media=both)).spec["task"]
    assert two["kind"] == "first_last_frame"
    stored = service.stores.media.get(two["last_frame"], "")
    assert stored is not None and stored.key is not None
    assert b"".join(service.artifacts.read(stored.key)) == picture(seed=1)
    more = job_of(service, created(model="wan2.7-i2v", media=[{"type": "first_clip", "url": start}])).spec["task"]
    assert (more["kind"], more["image"], kinds(service, [more["clip"]])) == ("image_to_video", None, ["clip"])


def test_the_fields_of_earlier_models(service: Service) -> None:
    first, last = data(picture()), data(picture(seed=1))
    one = created(model="wan2.2-i2v-plus", img_url=first, resolution="480P")
    two = created(model="wanx2.1-kf2v-plus", first_frame_url=first, last_frame_url=last)
    old = created(model="wanx-kf2v", head_frame=first, tail_frame=last)
    many = created(model="wan2.6-r2v", reference_urls=[first], reference_video_urls=[data(clip(), "video/mp4")])
    assert [job_of(service, answer).spec["task"]["kind"] for answer in (one, two, old, many)] == [
        "image_to_video",
        "first_last_frame",
        "first_last_frame",
        "reference_to_video",
    ]


def test_references_keep_their_order(service: Service) -> None:
    media = [
        {"type": "reference_video", "url": data(clip(), "video/mp4")},
        {"type": "reference_image", "url": data(picture())},
    ]
    task = job_of(service, created(model="wan2.7-r2v", prompt="Image 1 in Video 1", media=media)).spec["task"]
    assert (task["kind"], kinds(service, task["references"])) == ("reference_to_video", ["clip", "image"])


def test_an_edit(service: Service) -> None:
    media = [
        {"type": "video", "url": data(clip(2.0), "video/mp4")},
        {"type": "reference_image", "url": data(picture())},
    ]
    answer = created(model="wan2.7-videoedit", prompt="as in Image 1", media=media, audio_setting="origin")
    task = job_of(service, answer).spec["task"]
    assert (task["kind"], task["keep_audio"]) == ("edit_video", True)
    assert kinds(service, [task["video"], *task["references"]]) == ["clip", "image"]


def test_cancel(service: Service) -> None:
    waiting = created()
    assert VideoSynthesis.cancel(waiting).status_code == 200
    assert VideoSynthesis.fetch(waiting).output.task_status == "CANCELED"
    refusal = VideoSynthesis.cancel(waiting)
    assert (refusal.status_code, refusal.code) == (400, "UnsupportedOperation")
    running = created()
    job = claim(service)
    assert VideoSynthesis.cancel(running).status_code == 200
    assert service.job(job.id).cancel_requested
    service.store.finish(job.id, job.lease_epoch, State.CANCELLED)
    assert VideoSynthesis.wait(running).output.task_status == "CANCELED"


def test_failures_and_unknown_tasks(service: Service) -> None:
    answer = created()
    job = claim(service)
    service.store.finish(
        job.id, job.lease_epoch, State.FAILED, error_code="DEADLINE_EXCEEDED", error_message="took too long"
    )
    failed = VideoSynthesis.wait(answer).output
    assert (failed.task_status, failed["code"], failed["message"]) == ("FAILED", "RequestTimeOut", "took too long")
    unknown = VideoSynthesis.fetch("vid_nothing")
    assert (unknown.status_code, unknown.code) == (404, "TaskNotFound")
    body = httpx.get(f"{service.http}/api/v1/tasks/vid_nothing").json()
    assert body["output"] == {"task_id": "vid_nothing", "task_status": "UNKNOWN"}
    assert VideoSynthesis.cancel("vid_nothing").status_code == 404


def test_list(service: Service) -> None:
    ids = [created(model=model).output.task_id for model in ("wan2.7-t2v", "wan2.2-t2v-plus", "nano")]
    page = VideoSynthesis.list(page_size=2).output
    assert [entry["task_id"] for entry in page["data"]] == ids[:0:-1]
    assert page["total"] >= 3 and page["total_page"] == -(-page["total"] // 2)
    assert VideoSynthesis.list(page_no=2, page_size=2).output["data"][0]["task_id"] == ids[0]
    named = VideoSynthesis.list(model_name="wan2.2-t2v-plus", status="PENDING").output["data"]
    assert [entry["task_id"] for entry in named] == [ids[1]]
    assert VideoSynthesis.list(end_time="20200101000000").output["data"] == []
    since = VideoSynthesis.list(start_time="20200101000000", status="PENDING").output["data"]
    assert {entry["task_id"] for entry in since} == set(ids)
    for wrong in ({"status": "DONE"}, {"page_no": 0}, {"page_size": 101}, {"start_time": "yesterday"}):
        answer: Any = VideoSynthesis.list(**wrong)
        assert (answer.status_code, answer.code) == (400, "InvalidParameter")
        assert next(iter(wrong)) in answer.message


IMAGE = data(picture())


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"prompt": ""}, "input.prompt: is empty"),
        ({"prompt": None}, "input.prompt: is empty"),
        ({"size": "1*1"}, "parameters.size: '1*1'"),
        ({"resolution": "8K"}, "parameters.resolution: '8K' is not one of 480P, 720P, 1080P"),
        ({"resolution": "720P", "size": "40*24"}, "parameters.resolution: cannot be combined with size"),
        ({"ratio": "2:1"}, "parameters.ratio: '2:1'"),
        ({"duration": 16}, "parameters.duration: 16.0 must be above 0 and at most 15"),
        ({"seed": -1}, "parameters.seed: -1 must be from 0 to 2147483647"),
        ({"seed": 2**31}, "parameters.seed: 2147483648 must be from 0 to 2147483647"),
        ({"flow_shift": 0}, "parameters.flow_shift: 0.0 must be from 0.01"),
        ({"fit": "stretch"}, "parameters.fit: "),
        ({"shot_type": "many"}, "parameters.shot_type: 'many' must be 'single' or 'multi'"),
        ({"duration": 0}, "parameters.duration: 0.0 must be above 0"),
        ({"negative_prompt": "x" * 501}, "input.negative_prompt: has 501 characters"),
        ({"surprise": 1}, "parameters.surprise"),
        ({"extra_input": {"surprise": 1}}, "input.surprise"),
        ({"media": [{"type": "first_frame", "url": IMAGE}]}, "input.media.0.type: 'first_frame' is none of what"),
        ({"model": "wan2.7-i2v"}, "input.media: holds no first_frame and no first_clip, which wan2.7-i2v needs"),
        ({"model": "wan2.7-videoedit", "media": [{"type": "reference_image", "url": IMAGE}]}, "holds no video"),
        ({"model": "wan2.7-i2v", "last_frame_url": IMAGE}, "input.last_frame_url: a last_frame needs a first_frame"),
        ({"model": "wan2.7-r2v", "reference_urls": [IMAGE] * 6}, "input.media: has 6 references, at most 5"),
        ({"model": "wan2.7-r2v", "reference_urls": [IMAGE] * 3}, "input.media: has 3 entries, at most 2 for nano"),
        (
            {"model": "wan2.7-i2v", "media": [{"type": "first_frame", "url": IMAGE}] * 2},
            "input.media.1.url: is a second first_frame",
        ),
        ({"model": "wan2.7-i2v", "img_url": "ftp://host/a.png"}, "input.img_url: 'ftp://host/a.png' must be an http"),
        ({"model": "wan2.7-i2v", "img_url": "http://169.254.169.254/a"}, "input.img_url: "),
        ({"model": "wan2.7-i2v", "img_url": "data:image/png;base64,AAAA"}, "input.img_url: "),
        ({"model": "wan2.7-i2v", "img_url": "AAAA" * 40}, "input.img_url: cannot read the file"),
        ({"model": "wan2.7-i2v", "img_url": "AAAA" * 40 + "?"}, "input.img_url: is a data: address whose base64 is"),
        ({"model": "wan2.7-i2v", "media": [{"type": "first_frame", "url": data(clip())}]}, "input.media.0.url: "),
    ],
)
def test_bad_fields_are_named(service: Service, fields: Any, says: str) -> None:
    answer = refused(**fields)
    assert answer.code == "InvalidParameter"
    assert says in answer.message and str(service.settings.directory) not in answer.message
    assert not claim_oldest(service.store, "test", 1, 60.0, 5, ("nano",))


def test_models_and_calls_that_wait(service: Service) -> None:
    answer = refused(404, model="sora-2")
    assert answer.code == "ModelNotFound" and "served: nano, wan2.7-t2v" in answer.message
    body = {"model": "wan2.7-t2v", "input": {"prompt": "a red circle"}}
    url = f"{service.http}/api/v1/{CREATE}"
    refusal = httpx.post(url, json=body)
    assert (refusal.status_code, refusal.json()["code"]) == (403, "AccessDenied")
    headers = {"X-DashScope-Async": "enable", "Idempotency-Key": "again"}
    first, again = (httpx.post(url, json=body, headers=headers).json() for _ in range(2))
    assert first["output"]["task_id"] == again["output"]["task_id"]
    assert httpx.post(url, json={**body, "input": {"prompt": "b"}}, headers=headers).status_code == 409
    assert httpx.post(url, content=b"{", headers=headers).json()["code"] == "InvalidParameter"


async def test_the_async_client(service: Service, tmp_path: Path) -> None:
    """Every call that it has."""
    answer = await AioVideoSynthesis.async_call("wan2.7-i2v", "it turns", img_url=data(picture()), watermark=True)
    assert (answer.output.task_status, answer.output.warnings) == ("PENDING", [NO_WATERMARK])
    assert (await AioVideoSynthesis.fetch(answer)).output.task_status == "PENDING"
    succeed(service, claim(service))
    done = await AioVideoSynthesis.wait(answer)
    assert (done.output.task_status, done.output.warnings) == ("SUCCEEDED", [NO_WATERMARK])
    (tmp_path / "a.png").write_bytes(picture())
    media = [{"type": "reference_image", "url": str(tmp_path / "a.png"), "reference_voice": "https://host/voice.mp3"}]
    waiting = await AioVideoSynthesis.async_call("wan2.7-r2v", "Image 1 turns", media=media)
    assert kinds(service, job_of(service, waiting).spec["task"]["references"]) == ["image"]
    assert (await AioVideoSynthesis.cancel(waiting)).status_code == 200
    listed = await AioVideoSynthesis.list(model_name="wan2.7-r2v", status="CANCELED")
    assert listed.output["data"][0]["task_id"] == waiting.output.task_id
    playing = asyncio.create_task(asyncio.to_thread(play, service))
    called = await AioVideoSynthesis.call("wan2.7-t2v", "a red circle", resolution="720P", ratio="1:1", seed=1)
    await playing
    assert (called.output.task_status, called.usage["size"]) == ("SUCCEEDED", "960*960")
    refusal = await AioVideoSynthesis.async_call("wan2.7-i2v", "it turns")
    assert (refusal.status_code, refusal.code) == (400, "InvalidParameter")
    await close_shared_aio_session()


def test_what_is_not_used_is_said_with_the_task(service: Service) -> None:
    answer = created(prompt_extend=True, watermark=True, shot_type="multi", enable_thinking=True, audio=True)
    said = answer.output.warnings
    assert [warning.partition(":")[0] for warning in said] == [
        f"parameters.{field}" for field in ("watermark", "prompt_extend", "enable_thinking", "shot_type", "audio")
    ]
    assert list(job_of(service, answer).warnings) == said
    succeed(service, claim(service))
    done = VideoSynthesis.wait(answer).output
    assert (done.task_status, done.warnings) == ("SUCCEEDED", said)
    assert "warnings" not in VideoSynthesis.fetch(created(watermark=False)).output


def test_bare_base64(service: Service) -> None:
    """In lines too, as base64 programs write it."""
    for text in (base64.b64encode(picture()).decode(), base64.encodebytes(picture()).decode()):
        task = job_of(service, created(model="wan2.2-i2v-plus", img_url=text)).spec["task"]
        stored = service.stores.media.get(task["image"], "")
        assert stored is not None and stored.key is not None
        assert b"".join(service.artifacts.read(stored.key)) == picture()


@pytest.mark.parametrize("base", ["{}/api/v1", "{}/api/v1/"])
def test_base_addresses_and_headers_of_other_regions(
    base: str, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They differ in their hosts alone, and some clients name a workspace."""
    monkeypatch.setattr(dashscope, "base_http_api_url", base.format(service.http))
    answer = created(workspace="ws-1", headers={"X-DashScope-OssResourceResolve": "enable"})
    assert VideoSynthesis.fetch(answer, workspace="ws-1").output.task_status == "PENDING"
    assert VideoSynthesis.cancel(answer, workspace="ws-1").status_code == 200


def test_jobs_of_other_faces_are_tasks_too(service: Service) -> None:
    name = service.client.create(prompt="a red circle", size="480p")
    job = claim(service)
    succeed(service, job)
    body = task(service.job(name), "http://host/files/x")
    assert (body["output"]["task_id"], body["output"]["video_url"]) == (job.id, "http://host/files/x")
    assert VideoSynthesis.fetch(job.id).output.task_status == "SUCCEEDED"


@pytest.mark.integration
def test_other_tenants_and_keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with running_service(tmp_path, model="nano") as service:
        use_sdk(service, monkeypatch)
        limits = KeyLimits(requests_per_second=None, burst=1, concurrent_jobs=1)
        ann, bob = (service.stores.keys.create(name, name, limits)[1] for name in ("ann", "bob"))
        end = time.monotonic() + 15  # the gateway believes for a moment that there are no keys
        while VideoSynthesis.fetch("vid_nothing", api_key="zk_wrong").status_code != 401:
            assert time.monotonic() < end
        answer = refused(401, api_key="zk_wrong")
        assert answer.code == "InvalidApiKey"
        (tmp_path / "a.png").write_bytes(picture())
        local = [{"type": "first_frame", "url": str(tmp_path / "a.png")}]
        mine = created(model="wan2.7-i2v", api_key=ann, media=local)
        assert local[0]["url"].startswith("oss://")
        theirs = refused(404, model="wan2.7-i2v", api_key=bob, media=local)
        assert theirs.code == "InvalidURL"
        assert refused(429, api_key=ann).code == "Throttling.AllocationQuota"
        assert VideoSynthesis.fetch(mine, api_key=ann).output.task_status == "PENDING"
        assert VideoSynthesis.fetch(mine, api_key=bob).status_code == 404
        assert VideoSynthesis.cancel(mine, api_key=bob).status_code == 404
        assert VideoSynthesis.list(api_key=bob).output["data"] == []
