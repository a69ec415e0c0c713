"""The openai SDK against a real gateway; the router's part is played by hand."""

from __future__ import annotations

import base64
import hashlib
import time
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from tests.serving.gateway.harness import Service, running_service, until
from tests.serving.gateway.http.samples import clip, picture
from tests.serving.jobs.harness import claim_oldest
from tests.serving.media.files import write_animation
from zoetrope.serving.jobs.job import Artifact, Job, Preview, Result, Stage, State
from zoetrope.serving.jobs.key_table import KeyLimits

pytestmark = pytest.mark.filterwarnings("ignore:The Sora API is scheduled:DeprecationWarning")
VIDEO = bytes(range(256)) * 40


def claim(service: Service, video_id: str) -> Job:
    (job,) = claim_oldest(service.store, "test", 10, 60.0, 5, ("nano",))
    assert job.id == video_id
    return job


def succeed(service: Service, job: Job, data: bytes = VIDEO) -> None:
    """With a file of the length and size that was asked for."""
    spec, key = job.spec, f"jobs/{job.id}/{job.lease_epoch}/video.mp4"
    stored: Artifact = service.artifacts.put_bytes(key, data, "video/mp4")
    result = Result(stored, None, spec["frames"], spec["width"], spec["height"], spec["fps"])
    assert service.store.finish(job.id, job.lease_epoch, State.SUCCEEDED, result=result)


def made(service: Service, sdk: openai.OpenAI, data: bytes = VIDEO, **fields: Any) -> Any:
    """A video that is completed."""
    video = sdk.videos.create(prompt="a red circle", **fields)
    succeed(service, claim(service, video.id), data)
    return sdk.videos.retrieve(video.id)


def refused(call: Any, kind: type[openai.APIStatusError] = openai.BadRequestError) -> dict[str, Any]:
    """The error object of a call that is refused."""
    with pytest.raises(kind) as caught:
        call()
    body = caught.value.body
    assert isinstance(body, dict)
    assert set(body) == {"message", "type", "param", "code"}
    return body


def edit(service: Service, video_id: str, headers: dict[str, str] | None = None) -> httpx.Response:
    """What the SDK's edit() cannot send: its argument takes only files, though its types say otherwise."""
    body = {"prompt": "make it blue", "video": {"id": video_id}}
    return httpx.post(f"{service.http}/v1/videos/edits", json=body, headers=headers)


def test_a_video_from_words(service: Service, sdk: openai.OpenAI) -> None:
    video: Any = sdk.videos.create(prompt="a red circle", model="nano", seconds="4", size="40x24")  # type: ignore[arg-type]
    assert (video.object, video.status, video.progress, video.model) == ("video", "queued", 0, "nano")
    assert (video.seconds, video.size, video.prompt) == ("4", "40x24", "a red circle")
    assert abs(video.created_at - time.time()) < 60
    assert video.completed_at is video.error is video.expires_at is video.remixed_from_video_id is None
    job = claim(service, video.id)
    service.progress(job, Stage.DENOISING, job.steps // 2, 3.0)
    raw = sdk.videos.with_raw_response.retrieve(video.id)
    assert raw.headers["openai-poll-after-ms"] == "1500"
    assert (raw.parse().status, raw.parse().progress) == ("in_progress", 50)
    succeed(service, job)
    done = sdk.videos.poll(video.id)
    assert (done.status, done.progress) == ("completed", 100)
    stored = service.job(video.id)
    assert stored.finished_at is not None and stored.expire_at is not None
    assert (done.completed_at, done.expires_at) == (int(stored.finished_at), int(stored.expire_at))
    assert stored.origin == {"api": "openai"}


def test_create_and_poll(service: Service, sdk: openai.OpenAI, tmp_path: Path) -> None:
    """The helper waits through queued and in_progress."""
    import threading

    seen: list[Any] = []

    def call() -> None:
        seen.append(sdk.videos.create_and_poll(prompt="a red circle", poll_interval_ms=20))

    thread = threading.Thread(target=call)
    thread.start()
    succeed(service, until(lambda: claim_oldest(service.store, "test", 1, 60.0, 5, ("nano",)))[0])
    thread.join(15)
    assert seen[0].status == "completed"
    target = tmp_path / "video.mp4"
    sdk.videos.download_content(seen[0].id).write_to_file(target)
    assert target.read_bytes() == VIDEO


def test_a_picture_is_the_first_frame(service: Service, sdk: openai.OpenAI) -> None:
    video = sdk.videos.create(prompt="it turns", input_reference=("first.png", picture(), "image/png"))
    task = service.job(video.id).spec["task"]
    (medium,) = service.job(video.id).media
    assert (task["kind"], task["image"]) == ("image_to_video", medium)
    stored = service.stores.media.get(medium, "")
    assert stored is not None and stored.key is not None
    assert (stored.filename, b"".join(service.artifacts.read(stored.key))) == ("first.png", picture())


def test_of_a_picture_that_moves_the_first_frame_counts(service: Service, sdk: openai.OpenAI, tmp_path: Path) -> None:
    moving = write_animation(tmp_path / "a.gif")
    task = service.job(sdk.videos.create(prompt="it turns", input_reference=moving).id).spec["task"]
    assert task["kind"] == "image_to_video"
    edit = httpx.post(
        f"{service.http}/v1/videos/edits",
        data={"prompt": "make it blue"},
        files={"video": ("a.gif", write_animation(tmp_path / "b.gif", 24).read_bytes())},
    )
    assert service.job(edit.json()["id"]).spec["task"]["kind"] == "edit_video", "where a clip is wanted it is one"


def test_a_picture_as_an_address_in_a_form(service: Service, sdk: openai.OpenAI) -> None:
    address = "data:image/png;base64," + base64.b64encode(picture()).decode()
    # The SDK's own argument takes only files, though its types say otherwise.
    video = sdk.videos.create(prompt="it turns", extra_body={"input_reference": {"image_url": address}})
    known = {"input_reference": {"file_id": service.job(video.id).media[0]}}
    again = sdk.videos.create(prompt="it turns", extra_body=known)
    alone = sdk.videos.create(prompt="it turns", extra_body={"input_reference": address})
    other = sdk.videos.create(prompt="it turns", extra_body={"reference_url": address})
    for made_of in (video, again, alone, other):
        assert service.job(made_of.id).spec["task"]["kind"] == "image_to_video"


def test_clips_and_several_files_are_references(service: Service) -> None:
    files = [("input_reference", ("a.png", picture())), ("input_reference", ("b.mp4", clip()))]
    answer = httpx.post(f"{service.http}/v1/videos", data={"prompt": "Image 1 and Video 1"}, files=files)
    assert answer.status_code == 200, answer.text
    task = service.job(answer.json()["id"]).spec["task"]
    kinds = [service.stores.media.get(medium, "") for medium in task["references"]]
    assert task["kind"] == "reference_to_video"
    assert [medium.info["kind"] for medium in kinds if medium is not None and medium.info is not None] == [
        "image",
        "clip",
    ]


def test_the_fields_that_other_servers_take(service: Service, sdk: openai.OpenAI) -> None:
    extra = {"negative_prompt": "blur", "seed": 7, "num_inference_steps": 12, "guidance_scale": 2.5}
    form = sdk.videos.create(prompt="a red circle", extra_body={**extra, "num_frames": 9, "fps": 4})
    body = {"prompt": "a red circle", **extra, "num_frames": 9, "fps": 4, "width": 40, "height": 24}
    sent = httpx.post(f"{service.http}/v1/videos", json=body)
    assert sent.status_code == 200, sent.text
    for video_id in (form.id, sent.json()["id"]):
        spec = service.job(video_id).spec
        assert spec["task"]["negative_prompt"] == "blur"
        assert (spec["seed"], spec["steps"], spec["guidance"], spec["frames"], spec["fps"]) == (7, 12, 2.5, 9, 4)
    assert (spec["width"], spec["height"]) == (40, 24)
    assert sent.json()["seconds"] == "2.25"


def test_an_idempotency_key_gives_the_same_video(service: Service, sdk: openai.OpenAI) -> None:
    headers = {"Idempotency-Key": "again"}
    first = sdk.videos.create(prompt="a red circle", extra_headers=headers)
    assert sdk.videos.create(prompt="a red circle", extra_headers=headers).id == first.id
    error = refused(lambda: sdk.videos.create(prompt="a blue circle", extra_headers=headers), openai.ConflictError)
    assert error["param"] == "Idempotency-Key"


@pytest.mark.parametrize(
    ("fields", "param", "says"),
    [
        ({"prompt": " "}, "prompt", "is empty"),
        ({"seconds": "99"}, "seconds", "at most 15"),
        ({"seconds": "soon"}, "seconds", "'soon'"),
        ({"size": "1x1"}, "size", "'1x1'"),
        ({"extra_body": {"num_frames": 500}}, "num_frames", "1 to 120"),
        ({"extra_body": {"num_inference_steps": 0}}, "num_inference_steps", "1 to 1000"),
        ({"extra_body": {"guidance_scale": 99}}, "guidance_scale", "0 to 30"),
        ({"extra_body": {"guidance_scale_2": 1}}, "guidance_scale_2", "no two noise experts"),
        ({"extra_body": {"fancy": 1}}, "fancy", "is not a known field"),
        ({"extra_body": {"width": 40}}, "size", "both width and height"),
        ({"input_reference": ("a.txt", b"no picture")}, "input_reference", ""),
        (
            {"extra_body": {"input_reference": {"image_url": "file:///etc/passwd"}}},
            "input_reference.0.image_url",
            "must be an http, https or data URL",
        ),
        ({"extra_body": {"input_reference": {"image_url": "http://127.0.0.1/a.png"}}}, "input_reference", "127.0.0.1"),
    ],
)
def test_bad_fields_are_named(service: Service, sdk: openai.OpenAI, fields: Any, param: str, says: str) -> None:
    error = refused(lambda: sdk.videos.create(**{"prompt": "a red circle", **fields}))
    assert (error["type"], error["param"]) == ("invalid_request_error", param)
    assert says in error["message"] and str(service.settings.directory) not in error["message"]
    assert sdk.videos.list(limit=100).data == [] or not claim_oldest(service.store, "test", 1, 60.0, 5, ("nano",))


def test_models(service: Service, sdk: openai.OpenAI) -> None:
    assert [model.id for model in sdk.models.list()] == ["nano"]
    assert sdk.models.retrieve("nano").object == "model"
    error = refused(lambda: sdk.videos.create(prompt="a cat", model="sora-2"), openai.NotFoundError)
    assert (error["param"], error["code"]) == ("model", "model_not_found")
    assert "'sora-2'" in error["message"] and "served: nano" in error["message"]
    assert refused(lambda: sdk.models.retrieve("sora-2"), openai.NotFoundError)["code"] == "model_not_found"


def test_content(service: Service, sdk: openai.OpenAI) -> None:
    video = sdk.videos.create(prompt="a red circle")
    assert refused(lambda: sdk.videos.download_content(video.id))["code"] == "not_succeeded"
    job = claim(service, video.id)
    missing = refused(lambda: sdk.videos.download_content(video.id, variant="thumbnail"), openai.NotFoundError)
    assert "video is offered" in missing["message"]
    stored = service.artifacts.put_bytes(f"jobs/{job.id}/1/preview.png", picture(), "image/png")
    preview = Preview(stored.key, "image/png", 40, 24, stored.size_bytes, 3)
    service.store.put_preview(job.id, job.lease_epoch, preview)
    assert sdk.videos.download_content(video.id, variant="thumbnail").read() == picture()
    succeed(service, job)
    whole = sdk.videos.download_content(video.id, variant="video")
    assert whole.read() == VIDEO and whole.response.headers["content-type"] == "video/mp4"
    url = f"{service.http}/v1/videos/{video.id}/content"
    part = httpx.get(url, headers={"range": "bytes=10-19"})
    assert (part.status_code, part.content) == (206, VIDEO[10:20])
    assert part.headers["etag"] == f'"{hashlib.sha256(VIDEO).hexdigest()}"'
    error = refused(lambda: sdk.videos.download_content(video.id, variant="spritesheet"))
    assert error["param"] == "variant" and "video and thumbnail" in error["message"]


def test_remix_and_edit(service: Service, sdk: openai.OpenAI) -> None:
    video = made(service, sdk, clip(3.0), seconds="3", extra_body={"num_inference_steps": 9})
    remixed = sdk.videos.remix(video.id, prompt="make it blue")
    job = service.job(remixed.id)
    assert remixed.remixed_from_video_id == video.id
    assert remixed.prompt == job.spec["task"]["prompt"] == "make it blue"
    assert (job.spec["task"]["kind"], job.spec["task"]["video"], job.spec["steps"]) == ("edit_video", *job.media, 9)
    assert (remixed.size, remixed.seconds) == (video.size, "3")
    edited = edit(service, video.id).json()
    assert edited["remixed_from_video_id"] == video.id
    brought = sdk.videos.edit(prompt="make it green", video=("a.mp4", clip(2.0, seed=1), "video/mp4"))
    assert service.job(brought.id).spec["task"]["kind"] == "edit_video"
    assert refused(lambda: sdk.videos.remix(edited["id"], prompt="x"))["code"] == "not_succeeded"
    assert refused(lambda: sdk.videos.remix(video.id, prompt=""))["param"] == "prompt"


def test_a_failure_is_told(service: Service, sdk: openai.OpenAI) -> None:
    video = sdk.videos.create(prompt="a red circle")
    job = claim(service, video.id)
    service.store.finish(
        job.id, job.lease_epoch, State.FAILED, error_code="RESOURCE_EXHAUSTED", error_message="no memory"
    )
    failed = sdk.videos.poll(video.id)
    assert failed.status == "failed" and failed.error is not None
    assert (failed.error.code, failed.error.message) == ("resource_exhausted", "no memory")


def test_delete(service: Service, sdk: openai.OpenAI) -> None:
    video = made(service, sdk)
    stored = service.job(video.id)
    assert stored.result is not None
    deleted = sdk.videos.delete(video.id)
    assert (deleted.id, deleted.deleted, deleted.object) == (video.id, True, "video.deleted")
    assert not service.artifacts.exists(stored.result["video"]["key"])
    error = refused(lambda: sdk.videos.retrieve(video.id), openai.NotFoundError)
    assert (error["param"], error["code"]) == ("video_id", "video_not_found")
    waiting = sdk.videos.create(prompt="a red circle")
    assert sdk.videos.delete(waiting.id).deleted
    running = sdk.videos.create(prompt="a red circle")
    job = claim(service, running.id)
    assert not sdk.videos.delete(running.id).deleted
    assert service.job(running.id).cancel_requested
    service.store.finish(job.id, job.lease_epoch, State.CANCELLED)
    cancelled = sdk.videos.retrieve(running.id)
    assert cancelled.status == "failed" and cancelled.error is not None and cancelled.error.code == "cancelled"
    assert sdk.videos.delete(running.id).deleted


def test_list_by_page_in_both_orders(service: Service, sdk: openai.OpenAI) -> None:
    ids = [sdk.videos.create(prompt=f"number {i}").id for i in range(5)]
    everything = [video.id for video in sdk.videos.list(limit=2)]  # the SDK follows the pages
    assert everything[:5] == ids[::-1]
    assert [video.id for video in sdk.videos.list(limit=2, order="asc")] == everything[::-1]
    page = sdk.videos.list(limit=2, after=ids[3])
    assert ([video.id for video in page.data], page.has_more, page.last_id) == (ids[2:0:-1], True, ids[1])
    assert refused(lambda: sdk.videos.list(after="vid_nothing"))["param"] == "after"
    assert refused(lambda: sdk.videos.list(limit=0))["param"] == "limit"
    assert refused(lambda: sdk.videos.list(order="sideways"))["param"] == "order"  # type: ignore[arg-type]


async def test_the_async_client(service: Service, sdk: openai.OpenAI) -> None:
    async with openai.AsyncOpenAI(max_retries=0) as client:
        video = await client.videos.create(prompt="it turns", input_reference=("a.png", picture(), "image/png"))
        succeed(service, claim(service, video.id))
        done = await client.videos.poll(video.id)
        assert done.status == "completed"
        assert (await client.videos.download_content(video.id)).read() == VIDEO
        assert (await client.videos.list(limit=1)).data[0].id == video.id


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (b"{", "application/json"),
        (b"[]", "application/json"),
        (b"--x\r\nnonsense", "multipart/form-data; boundary=x"),
        (b"nonsense", "multipart/form-data"),
        (b"prompt=a&prompt=b", "application/x-www-form-urlencoded"),
        (b"prompt[a]=1&prompt=b", "application/x-www-form-urlencoded"),
        (b"", "text/plain"),
        (b'{"prompt": "a", "\\ud800": 1}', "application/json"),
        (b'{"prompt": "a", "\xed\xa0\x80": 1}', "application/json"),
        (b'{"prompt": "a\\u0000"}', "application/json"),
        (b'{"prompt": "a", "seconds": NaN}', "application/json"),
        (b'{"prompt": "a", "seconds": 1e999}', "application/json"),
        (b'{"prompt": "a", "seed": ' + b"9" * 5_000 + b"}", "application/json"),
        (b"prompt=a", "application/x-www-form-urlencoded; charset=idna"),
        (b'--x\r\nContent-Disposition: form-data; name="seed"\r\n\r\na\r\n--x--', "multipart/form-data; boundary=x"),
    ],
)
def test_malformed_bodies(service: Service, body: bytes, kind: str) -> None:
    answer = httpx.post(f"{service.http}/v1/videos", content=body, headers={"content-type": kind})
    assert answer.status_code == 400
    assert answer.json()["error"]["type"] == "invalid_request_error"


def test_bodies_are_bounded(service: Service) -> None:
    url = f"{service.http}/v1/videos"
    large = httpx.post(url, data={"prompt": "x"}, files={"input_reference": ("a.png", bytes(200_000))})
    assert "100000" in large.json()["error"]["message"]
    huge = httpx.post(url, data={"prompt": "x"}, files={"input_reference": ("a.png", bytes(3 << 20))})
    many = httpx.post(url, data={"prompt": "x"}, files=[("input_reference", ("a.png", b"a"))] * 6)
    assert [answer.status_code for answer in (large, huge, many)] == [400, 400, 400]


@pytest.mark.integration
def test_other_tenants_and_keys(tmp_path: Path) -> None:
    with running_service(tmp_path, model="nano") as service:
        limits = KeyLimits(requests_per_second=None, burst=1, concurrent_jobs=1)
        secrets = [service.stores.keys.create(name, name, limits)[1] for name in ("ann", "bob")]
        ann, bob = (openai.OpenAI(base_url=f"{service.http}/v1", api_key=secret, max_retries=0) for secret in secrets)
        nobody = openai.OpenAI(base_url=f"{service.http}/v1", api_key="zk_wrong", max_retries=0)
        end = time.monotonic() + 15  # the gateway believes for a moment that there are no keys
        while time.monotonic() < end:
            try:
                nobody.models.retrieve("nano")
            except openai.AuthenticationError:
                break
        assert refused(lambda: nobody.models.retrieve("nano"), openai.AuthenticationError)["code"] == "invalid_api_key"
        video = ann.videos.create(prompt="a red circle")
        quota = refused(lambda: ann.videos.create(prompt="another"), openai.RateLimitError)
        assert (quota["type"], quota["code"]) == ("rate_limit_error", "quota_exceeded")
        for call in (
            lambda: bob.videos.retrieve(video.id),
            lambda: bob.videos.delete(video.id),
            lambda: bob.videos.download_content(video.id),
            lambda: bob.videos.remix(video.id, prompt="x"),
        ):
            assert refused(call, openai.NotFoundError)["code"] == "video_not_found"
        theirs = edit(service, video.id, {"authorization": f"Bearer {secrets[1]}"})
        assert (theirs.status_code, theirs.json()["error"]["code"]) == (404, "video_not_found")
        assert bob.videos.list().data == []
        assert ann.videos.retrieve(video.id).status == "queued"
