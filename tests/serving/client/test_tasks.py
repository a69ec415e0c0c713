"""All six kinds of task through the client, with media in every form that it takes."""

from __future__ import annotations

import http.server
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.fixtures.media_files import TASKS, task_of, write_media
from tests.serving.gateway.harness import Service, running_service
from tests.serving.jobs.harness import claim_oldest
from zoetrope.model.request.tasks import FirstLastFrame
from zoetrope.serving.client import ClientError
from zoetrope.serving.jobs.job import Result, State
from zoetrope.serving.media.formats import MEDIA_TYPES


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """With nano's limits, which takes all kinds, and leave to fetch from this machine."""
    networks = ("127.0.0.0/8",)
    with running_service(tmp_path_factory.mktemp("gateway"), model="nano", allow_networks=networks) as service:
        yield service


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """picture.png, other.png, large.png of more than the request itself carries, and clip.mp4 of 2.5 s."""
    return write_media(tmp_path_factory.mktemp("media"))


def made(service: Service, clip: Path) -> str:
    """A job that made ``clip``."""
    name = service.client.create(prompt="a red circle", frames=16, steps=3, labels={"of": "made"})
    (job,) = claim_oldest(service.store, "test", 10, 60.0, 5, ("nano",))
    video = service.artifacts.put_file(f"jobs/{job.id}/1/video.mp4", clip, "video/mp4")
    result = Result(video, None, frames=30, width=160, height=90, fps=12, timings={"denoising": 1.5})
    assert service.store.finish(job.id, job.lease_epoch, State.SUCCEEDED, result=result)
    return name


@pytest.mark.parametrize("case", TASKS)
def test_every_kind_with_local_files(case: str, service: Service, files: Path) -> None:
    kind = case.partition(" ")[0]
    task = task_of(case, files)
    sent: dict[str, tuple[int, int]] = {}
    name = service.client.create(
        {"task": task}, steps=2, on_upload=lambda field, have, total: sent.update({field: (have, total)})
    )
    status = service.client.get(name)
    assert (status.task, status.state, status.steps % 2) == (kind, "queued", 0)
    stored = service.job(name).spec["task"]
    named: list[Any] = []
    for field, value in TASKS[case].items():
        if field != "loop":
            named += stored[field] if isinstance(value, list) else [stored[field]]
    assert all(item.startswith("med_") for item in named)
    distinct = {str(item) for value in TASKS[case].values() for item in (value if isinstance(value, list) else [value])}
    distinct -= {"True"}
    assert len(set(named)) == len(distinct) == len(sent), "each file goes up once"
    assert set(service.job(name).media) == set(named)
    assert all(have == total > 0 for have, total in sent.values())


@pytest.fixture
def address(files: Path) -> Iterator[str]:
    """Where the files are served."""

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            """Nothing."""

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(files)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


def test_every_form_of_a_medium(service: Service, files: Path, address: str) -> None:
    picture = files / "picture.png"
    stored = service.client.upload(picture)
    large = (files / "large.png").read_bytes()
    assert len(large) > 512 << 10
    for image in (str(picture), picture.read_bytes(), large, stored, stored.name, f"{address}/picture.png"):
        name = service.client.create(task={"kind": "image_to_video", "image": image})
        assert service.job(name).spec["task"]["image"].startswith("med_")
    service.empty_queue()
    earlier = made(service, files / "clip.mp4")
    name = service.client.create(task={"kind": "edit_video", "prompt": "make it blue", "video": earlier})
    assert service.job(name).spec["task"]["video"].startswith("med_")
    with pytest.raises(ClientError) as caught:
        service.client.create(task={"kind": "image_to_video", "image": f"{address}/nothing.png"})
    assert [v.field for v in caught.value.violations] == ["image_to_video.image"]


def test_files_that_will_not_do_are_named(service: Service, files: Path, tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("no picture")
    before = len(service.client.list_media(200).media)
    cases: list[tuple[dict[str, Any], str, str]] = [
        ({"first_frame": tmp_path / "no.png", "last_frame": tmp_path}, "first_frame", "is not a readable file"),
        ({"first_frame": tmp_path / "text.png", "last_frame": files / "other.png"}, "first_frame", "cannot read"),
        ({"first_frame": b"no picture", "last_frame": b"x"}, "first_last_frame.first_frame", "cannot read"),
        ({"first_frame": "media/med_none", "last_frame": files / "other.png"}, "first_frame", "is not a known file"),
        ({"first_frame": files / "clip.mp4", "last_frame": files / "other.png"}, "first_frame", "is a clip"),
    ]
    for task, field, text in cases:
        with pytest.raises(ClientError) as caught:
            service.client.create(task={"kind": "first_last_frame", **task})
        assert caught.value.code in ("INVALID_ARGUMENT", "NOT_FOUND"), str(caught.value)
        assert caught.value.violations[0].field.endswith(field)
        assert text in str(caught.value)
    assert queued(service) == []
    assert len(service.client.list_media(200).media) == before + 3, "what was refused is gone"


def queued(service: Service) -> list[Any]:
    return [job for job in service.store.list("", page_size=100) if job.state is State.QUEUED]


def test_a_repeated_request_uploads_again_and_is_the_same_job(service: Service, files: Path) -> None:
    task = between(files)
    first = service.client.create(task, request_id="twice")
    assert service.client.create(task, request_id="twice") == first
    other = FirstLastFrame(first_frame=str(files / "other.png"), last_frame=str(files / "picture.png"))
    with pytest.raises(ClientError) as caught:
        service.client.create(other, request_id="twice")
    assert (caught.value.code, caught.value.reason) == ("ALREADY_EXISTS", "REQUEST_ID_REUSED")


def test_batch_is_all_or_none(service: Service, files: Path) -> None:
    image = {"kind": "image_to_video", "image": files / "picture.png"}
    mixed: list[Any] = [{"prompt": "one"}, {"task": image}, between(files)]
    names = service.client.create_batch(mixed)
    assert [service.client.get(name).task for name in names] == [
        "text_to_video",
        "image_to_video",
        "first_last_frame",
    ]
    service.empty_queue()
    cases: list[tuple[list[Any], list[str]]] = [
        ([{"prompt": "one"}, {"prompt": "two", "steps": 0}], ["requests.1.steps"]),
        ([{"prompt": "one", "fps": "x"}, {"prompt": "two", "colour": 1}], ["requests.0.fps", "requests.1.colour"]),
        ([{"prompt": "one"}, {"task": {**image, "image": files / "no"}}], ["requests.1.image"]),
    ]
    for bad, fields in cases:
        with pytest.raises(ClientError) as caught:
            service.client.create_batch(bad)
        assert [v.field for v in caught.value.violations] == fields
    assert queued(service) == []


def between(files: Path) -> FirstLastFrame:
    return FirstLastFrame(first_frame=str(files / "picture.png"), last_frame=str(files / "other.png"))


def test_extend_update_and_what_is_told_of_a_job(service: Service, files: Path) -> None:
    source = made(service, files / "clip.mp4")
    status = service.client.get(source)
    assert status.video is not None
    assert (status.video.timings, status.video.task) == ({"denoising": 1.5}, "text_to_video")
    assert status.expire_time == pytest.approx(status.video.expire_time)
    name = service.client.extend(source, "and then it falls", frames=9, labels={"part": "2"}, seed=4)
    spec = service.job(name).spec
    assert (spec["task"]["kind"], spec["task"]["prompt"], spec["seed"]) == ("image_to_video", "and then it falls", 4)
    assert service.client.get(name).labels == {"part": "2"}
    again = service.client.extend(source, request_id="once")
    assert service.client.extend(source, request_id="once") == again
    assert service.job(again).spec["task"]["prompt"] == "a red circle"
    with pytest.raises(ClientError) as caught:
        service.client.extend(name)
    assert (caught.value.code, caught.value.reason) == ("FAILED_PRECONDITION", "NOT_SUCCEEDED")

    assert service.client.update(name, priority=7, labels={"part": "two"}).priority == 7
    assert service.client.update(name, labels={}).labels == {}
    until = status.create_time + 3_600
    assert service.client.update(source, expire_time=until).expire_time == pytest.approx(until, abs=1e-3)
    for bad, field in (({"priority": 10}, "changes.priority"), ({"labels": {"a b": ""}}, "changes.labels")):
        with pytest.raises(ClientError) as caught:
            service.client.update(name, **bad)
        assert [v.field for v in caught.value.violations] == [field]
    with pytest.raises(ClientError) as caught:
        service.client.update(source, priority=1)
    assert caught.value.code == "FAILED_PRECONDITION"

    events = service.client.events(source)
    assert [event.from_state for event in events] == ["", "queued", "running"]
    assert [event.to_state for event in events] == ["queued", "running", "succeeded"]
    assert events[0].actor == "client"
    assert [e.time for e in events] == sorted(e.time for e in events)
    page = service.client.list(filter='labels.of="made" AND task=text_to_video AND done=true')
    assert source in [s.name for s in page.operations]
    assert [s.name for s in service.client.iterate('state=queued AND task="image_to_video"')] == [again, name]


def test_webhooks_and_account(service: Service) -> None:
    name = service.client.create(prompt="a", webhook="http://127.0.0.1:8099/hook")
    service.client.cancel(name)
    assert service.client.replay_webhooks(name) == 1
    secret = service.client.webhook_secret()
    assert secret.startswith("whsec_")
    assert service.client.webhook_secret() == secret
    account = service.client.account()
    assert (account.tenant, account.requests_per_second, account.max_priority) == ("", None, 9)
    assert (account.max_upload_bytes, account.default_retention) == (100_000_000, 86_400.0)
    assert account.media_formats == MEDIA_TYPES
    with pytest.raises(ClientError) as caught:
        service.client.create(prompt="a", webhook="ftp://x", deadline=1.0, retention=0, priority=11)
    fields = {v.field for v in caught.value.violations}
    assert fields == {"webhook.url", "deadline", "retention", "priority"}
