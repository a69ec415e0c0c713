"""CreateVideo, WatchVideo, DownloadVideo and ListModels against a running gateway."""

from __future__ import annotations

import hashlib
import random
import re
import time
from pathlib import Path

import pytest

from tests.serving.gateway.harness import (
    MODEL,
    Collector,
    Service,
    engine,
    failure,
    reason,
    text_request,
    until,
    violations,
)
from zoetrope.model.request.tasks import MAX_SEED
from zoetrope.serving.api.zoetrope.video.v1 import video_pb2
from zoetrope.serving.client import ClientError, OperationStatus
from zoetrope.serving.gateway.core.core import CHUNK_BYTES
from zoetrope.serving.jobs.job import JobFilter, Stage, State

BYTES = random.Random(0).randbytes(2_500_000)  # three chunks


def test_create_stores_what_was_asked_for(service: Service) -> None:
    operation = service.videos.CreateVideo(
        text_request(
            size="480p",
            ratio="9:16",
            duration_seconds=2,
            fps=8,
            steps=4,
            guidance=2.5,
            seed=7,
            format=video_pb2.VIDEO_FORMAT_MKV,
            keep_latents=True,
        )
    )
    assert re.fullmatch(r"operations/vid_[a-z2-7]{24}", operation.name)
    assert not operation.done
    metadata = video_pb2.VideoMetadata()
    assert operation.metadata.Unpack(metadata)
    assert metadata.state == video_pb2.VIDEO_STATE_QUEUED
    assert (metadata.step, metadata.steps, metadata.queue_position, metadata.model) == (0, 4, 0, MODEL)
    assert abs(metadata.create_time.ToMicroseconds() / 1e6 - time.time()) < 60
    spec = service.job(operation.name).spec
    assert (spec["width"], spec["height"], spec["frames"], spec["fps"]) == (480, 832, 16, 8)
    assert (spec["steps"], spec["guidance"], spec["seed"], spec["container"]) == (4, 2.5, 7, "mkv")
    assert spec["keep_latents"] is True


def test_defaults_and_random_seeds(service: Service) -> None:
    names = [service.client.create(prompt="a red circle", model=MODEL) for _ in range(4)]
    specs = [service.job(name).spec for name in names]
    assert [(spec["width"], spec["height"], spec["container"]) for spec in specs] == [(832, 480, "mp4")] * 4
    assert len({spec["seed"] for spec in specs}) == 4
    assert all(0 <= spec["seed"] <= MAX_SEED for spec in specs)
    assert [service.client.get(name).queue_position for name in names] == [0, 1, 2, 3]


def test_same_request_id_is_the_same_operation(service: Service) -> None:
    first = service.videos.CreateVideo(text_request(request_id="once", steps=3))
    again = service.videos.CreateVideo(text_request(request_id="once", steps=3, model=MODEL))  # names the default
    assert again.name == first.name
    assert len(service.store.list("", page_size=10, where=JobFilter(states=(State.QUEUED,)))) == 1
    for other in (text_request(request_id="once", steps=4), text_request("a blue circle", request_id="once", steps=3)):
        code, status = failure(lambda other=other: service.videos.CreateVideo(other))  # type: ignore[misc]
        assert (code, reason(status)) == ("ALREADY_EXISTS", "REQUEST_ID_REUSED")
        assert list(violations(status)) == ["request_id"]
    assert service.videos.CreateVideo(text_request(steps=3)).name != first.name


def test_watch_shows_every_step_and_ends_after_the_file_exists(service: Service, tmp_path: Path) -> None:
    ahead = service.client.create(prompt="in front")
    name = service.client.create(prompt="a red circle", steps=4)
    watch = Collector(service.client.watch(name))
    seen = watch.seen

    def last() -> tuple[str, int]:
        return (seen[-1].state, seen[-1].step) if seen else ("", -1)

    until(lambda: last() == ("queued", 0))
    assert seen[-1].queue_position == 1
    service.client.cancel(ahead)
    until(lambda: seen[-1].queue_position == 0)
    job = service.claim(name)
    until(lambda: last() == ("conditioning", 0))
    for step in range(1, 5):
        service.progress(job, Stage.DENOISING, step, eta_seconds=5.0 - step)
        until(lambda step=step: last() == ("denoising", step))  # type: ignore[misc]
        assert seen[-1].eta_seconds == pytest.approx(5.0 - step)
    service.progress(job, Stage.DECODING, 4)
    until(lambda: last() == ("decoding", 4))
    assert not watch.ended
    assert not any(event.done for event in seen)
    service.succeed(job, BYTES, tmp_path)
    events: list[OperationStatus] = watch.join()
    assert [event.done for event in events] == [False] * (len(events) - 1) + [True]
    assert [event.step for event in events] == sorted(event.step for event in events)
    video = events[-1].video
    assert video is not None
    assert events[-1].state == "succeeded"
    assert video.name == name.replace("operations/", "videos/")
    assert (video.width, video.height, video.frames, video.fps) == (832, 480, 33, 16)
    assert (video.size_bytes, video.sha256) == (len(BYTES), hashlib.sha256(BYTES).hexdigest())
    service.client.download(name, tmp_path / "out.mp4")
    assert (tmp_path / "out.mp4").read_bytes() == BYTES


def test_watch_sends_at_most_five_a_second_and_the_last_one(service: Service, tmp_path: Path) -> None:
    name = service.client.create(prompt="a red circle", steps=100)
    watch = Collector(service.client.watch(name))
    until(lambda: watch.seen)
    job = service.claim(name)
    for step in range(1, 101):
        service.progress(job, Stage.DENOISING, step)
        time.sleep(0.01)  # the load, not a wait
    service.succeed(job, b"x", tmp_path)
    events = watch.join()
    assert events[-1].done
    assert events[-1].step == 100
    assert [event.step for event in events] == sorted(event.step for event in events)
    assert len(events) <= (watch.times[-1] - watch.times[0]) * 5 + 2
    assert len(events) >= 4


def test_watch_of_a_new_attempt_starts_again(service: Service) -> None:
    name = service.client.create(prompt="a red circle", steps=9)
    watch = Collector(service.client.watch(name))
    job = service.claim(name)
    service.progress(job, Stage.DENOISING, 6)
    until(lambda: watch.seen and watch.seen[-1].step == 6)
    service.store.expire_leases()
    job = service.claim(name)
    until(lambda: watch.seen[-1].attempt == 2)
    assert watch.seen[-1].step == 0
    service.store.finish(job.id, job.lease_epoch, State.FAILED, error_code="UNAVAILABLE", error_message="no engine")
    last = watch.join()[-1]
    assert (last.state, last.done, last.video) == ("failed", True, None)
    assert (last.error.code, last.error.message) == ("UNAVAILABLE", "no engine")


def test_watch_of_a_job_that_is_done_is_one_event(service: Service) -> None:
    name = service.client.create(prompt="a red circle")
    service.client.cancel(name)
    events = list(service.client.watch(name))
    assert [(event.state, event.done, event.error and event.error.code) for event in events] == [
        ("cancelled", True, "CANCELLED")
    ]
    service.client.delete(name)
    with pytest.raises(ClientError) as caught:
        list(service.client.watch(name))
    assert caught.value.code == "NOT_FOUND"


def test_download_in_chunks_from_any_offset(service: Service, tmp_path: Path) -> None:
    name = service.make(BYTES, tmp_path, latents=b"latents", keep_latents=True)
    sha256 = hashlib.sha256(BYTES).hexdigest()
    for offset in (0, 1, 1 << 20, len(BYTES) - 1, len(BYTES)):
        chunks = list(service.videos.DownloadVideo(video_pb2.DownloadVideoRequest(name=name, offset=offset)))
        assert b"".join(chunk.data for chunk in chunks) == BYTES[offset:]
        assert all(len(chunk.data) <= 1 << 20 for chunk in chunks)
        assert {(chunk.total_bytes, chunk.sha256) for chunk in chunks} == {(len(BYTES), sha256)}
        position = offset
        for chunk in chunks:
            assert chunk.offset == position
            position += len(chunk.data)
    service.client.download(name, tmp_path / "latents", artifact="latents")
    assert (tmp_path / "latents").read_bytes() == b"latents"


def test_download_resumes_and_replaces_wrong_leftovers(service: Service, tmp_path: Path) -> None:
    name = service.make(BYTES, tmp_path)
    out = tmp_path / "out.mp4"
    partial = tmp_path / f".out.mp4.{name.removeprefix('operations/')}.partial"
    for left_over, first in (
        (BYTES[:2_000_000], 2_000_000 + CHUNK_BYTES),
        (BYTES, len(BYTES)),
        (b"?" * 2_000_000, 2_000_000 + CHUNK_BYTES),
        (b"?" * 3_000_000, CHUNK_BYTES),  # longer than the file
    ):
        partial.write_bytes(left_over)
        progress: list[tuple[int, int]] = []
        service.client.download(name, out, on_progress=lambda have, total, to=progress: to.append((have, total)))  # type: ignore[misc]
        assert out.read_bytes() == BYTES
        assert not partial.exists()
        assert progress[0] == (first, len(BYTES))
        assert progress[-1] == (len(BYTES), len(BYTES))
        out.unlink()


def test_download_that_is_refused_leaves_nothing(service: Service, tmp_path: Path) -> None:
    name = service.client.create(prompt="a red circle")
    for wanted in (name, "operations/vid_none"):
        with pytest.raises(ClientError):
            service.client.download(wanted, tmp_path / "out.mp4")
    with pytest.raises(ClientError, match="artifact: 'sound'"):
        service.client.download(name, tmp_path / "out.mp4", artifact="sound")
    assert list(tmp_path.iterdir()) == []


def test_download_of_damaged_bytes_is_refused(service: Service, tmp_path: Path) -> None:
    name = service.make(BYTES, tmp_path)
    result = service.job(name).result
    assert result is not None
    stored = Path(service.settings.artifacts_url) / result["video"]["key"]
    stored.write_bytes(b"?" + BYTES[1:])
    out = tmp_path / "out"
    out.mkdir()
    with pytest.raises(ClientError) as caught:
        service.client.download(name, out / "out.mp4")
    assert caught.value.code == "DATA_LOSS"
    assert list(out.iterdir()) == []


def test_models(service: Service) -> None:
    (model,) = service.client.models()
    assert (model.name, model.ready, model.tasks) == (MODEL, False, ("text_to_video",))
    assert (model.native_sizes, model.size_multiple, model.fps, model.max_frames) == ((), 16, 16, 81)
    assert (model.max_prompt_chars, model.max_seed, model.max_steps) == (5_000, MAX_SEED, 1_000)
    assert model.max_duration_seconds == pytest.approx(81 / 16)
    service.store.put_engine(engine(time.time()))
    assert service.client.models()[0].ready
    service.store.remove_engine("engine-0")


def test_a_request_is_validated_without_a_job(service: Service) -> None:
    before = [status.name for status in service.client.list().operations]
    found = service.client.validate(prompt="a red circle", steps=7, size="64x32", frames=9)
    assert (found.model, found.task, found.width, found.height) == (MODEL, "text_to_video", 64, 32)
    assert (found.frames, found.steps, found.computed_steps, found.segments) == (9, 7, 7, 1)
    assert found.price_gpu_seconds is not None and found.price_gpu_seconds > 0
    assert sum(found.price_by_stage.values()) == pytest.approx(found.price_gpu_seconds)
    assert not found.measured and found.estimated_cost is None and found.eta_seconds is None
    assert [status.name for status in service.client.list().operations] == before
    made = service.client.get(service.client.create(prompt="a red circle", steps=7, size="64x32", frames=9))
    assert made.price_gpu_seconds == pytest.approx(found.price_gpu_seconds)
    assert made.used_gpu_seconds == 0
    checked = video_pb2.ValidateVideoRequest(request=text_request(steps=0))
    code, status = failure(lambda: service.videos.ValidateVideo(checked))
    assert (code, list(violations(status))) == ("INVALID_ARGUMENT", ["steps"])
