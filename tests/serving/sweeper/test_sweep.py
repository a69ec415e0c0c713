"""The sweeper's rounds, on a real store and a directory of files."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from tests.serving.jobs.harness import LIMITS, Clock, claim, new_job
from zoetrope.cluster.snapshots.objects import SnapshotObjects
from zoetrope.serving.config.settings import Settings
from zoetrope.serving.jobs.job import Artifact, Job, Preview, Result, State, file_keys
from zoetrope.serving.jobs.open import Stores, open_stores
from zoetrope.serving.storage.job_files import delete_files
from zoetrope.serving.storage.store import ArtifactStore, ArtifactUnavailable
from zoetrope.serving.sweeper import main
from zoetrope.serving.sweeper.sweep import discard_old, sweep, tidy


class Counting(ArtifactStore):
    """Counts listings, and cannot list the folders in ``away``."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.listed: list[str] = []
        self.away: set[str] = set()

    def below(self, folder: str) -> list[str]:
        self.listed.append(folder)
        if folder in self.away:
            raise ArtifactUnavailable(f"artifact {folder}: the store is away")
        return super().below(folder)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def stores(tmp_path: Path, clock: Clock) -> Iterator[Stores]:
    stores = open_stores(f"sqlite://{tmp_path}/jobs.db", clock)
    yield stores
    stores.close()


@pytest.fixture
def artifacts(tmp_path: Path) -> Counting:
    return Counting(tmp_path / "artifacts")


def put(artifacts: ArtifactStore, key: str) -> Artifact:
    return artifacts.put_bytes(key, b"bytes", "video/mp4")


def ended(stores: Stores, artifacts: ArtifactStore, job_id: str, clock: Clock) -> Job:
    """A job whose first holder lost its lease and left a file beside the video of the second."""
    stores.jobs.create(new_job(job_id, retention_seconds=7_200.0), LIMITS)
    claim(stores.jobs)
    put(artifacts, f"jobs/{job_id}/1/video.mp4")
    clock.now += 11
    claim(stores.jobs)
    video = put(artifacts, f"jobs/{job_id}/2/video.mp4")
    result = Result(video, None, frames=9, width=96, height=64, fps=12)
    assert stores.jobs.finish(job_id, 2, State.SUCCEEDED, result=result)
    job = stores.jobs.get(job_id, "")
    assert job is not None
    return job


def files(artifacts: ArtifactStore) -> list[str]:
    return ArtifactStore.below(artifacts, "jobs")


def test_strays_go_and_what_the_job_names_stays(stores: Stores, artifacts: Counting, clock: Clock) -> None:
    ended(stores, artifacts, "a", clock)
    assert sweep(stores, artifacts) == 0
    assert artifacts.listed == []  # a bucket charges for it
    tidy(stores, artifacts)
    assert files(artifacts) == ["jobs/a/2/video.mp4"]
    clock.now += 3_601
    artifacts.listed = []
    tidy(stores, artifacts)
    assert artifacts.listed == []


def test_a_preview_that_could_not_be_deleted_goes_after_the_end(
    stores: Stores, artifacts: Counting, clock: Clock
) -> None:
    """The store was away when the one holder of a job replaced it."""
    stores.jobs.create(new_job("a"), LIMITS)
    claim(stores.jobs)
    put(artifacts, "jobs/a/1/preview-5.webp")
    video = put(artifacts, "jobs/a/1/video.mp4")
    result = Result(video, None, frames=9, width=96, height=64, fps=12)
    assert stores.jobs.finish("a", 1, State.SUCCEEDED, result=result)
    tidy(stores, artifacts)
    assert files(artifacts) == ["jobs/a/1/video.mp4"]
    clock.now += 601
    artifacts.listed = []
    tidy(stores, artifacts)
    assert artifacts.listed == [], "nothing else is looked at for long"


def test_a_folder_that_cannot_be_listed_stops_nothing_else(
    stores: Stores, artifacts: Counting, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    for job_id in ("a", "b"):
        ended(stores, artifacts, job_id, clock)
    artifacts.away = {"jobs/a"}
    tidy(stores, artifacts)
    assert files(artifacts) == ["jobs/a/1/video.mp4", "jobs/a/2/video.mp4", "jobs/b/2/video.mp4"]
    assert "job a: strays may lie among its files: artifact jobs/a: the store is away" in caplog.text
    clock.now += 7_201
    assert sweep(stores, artifacts) == 2
    assert stores.jobs.get("a", "") is None and stores.jobs.get("b", "") is None
    assert files(artifacts) == ["jobs/a/1/video.mp4", "jobs/a/2/video.mp4"]
    artifacts.away = set()
    assert sweep(stores, artifacts) == 0
    assert files(artifacts) == []


def test_all_of_a_job_is_deleted_wherever_it_lies(stores: Stores, artifacts: Counting, clock: Clock) -> None:
    stores.jobs.create(new_job("a"), LIMITS)
    claim(stores.jobs)
    picture = put(artifacts, "previews/a.webp")
    preview = Preview(picture.key, "image/webp", 16, 16, picture.size_bytes, 5)
    assert stores.jobs.put_preview("a", 1, preview) == (True, None)
    for key in ("jobs/a/1/latents.safetensors", "jobs/a/2/video.mp4", "jobs/ab/1/video.mp4"):
        put(artifacts, key)
    job = stores.jobs.get("a", "")
    assert job is not None
    for _ in range(2):  # can be repeated
        delete_files(artifacts, "a", file_keys(job))
        assert files(artifacts) == ["jobs/ab/1/video.mp4"]
        assert not artifacts.exists(picture.key)


def test_what_is_written_after_a_job_was_deleted_goes_too(
    stores: Stores, artifacts: Counting, clock: Clock, tmp_path: Path
) -> None:
    """Its holder was at work when it was cancelled and deleted."""
    snapshots = SnapshotObjects(str(tmp_path / "snapshots"))
    stores.jobs.create(new_job("a"), LIMITS)
    claim(stores.jobs)
    assert stores.jobs.finish("a", 1, State.CANCELLED)
    assert stores.jobs.delete("a", "") is not None
    sweep(stores, artifacts, snapshots)
    put(artifacts, "jobs/a/1/video.mp4")
    snapshots.objects.put("snapshots/a/0/1-1", [b"late"])
    clock.now += 3_601
    sweep(stores, artifacts, snapshots)
    assert files(artifacts) == [] and snapshots.jobs() == set()
    assert stores.jobs.deleted(9) == []


def test_snapshots_of_jobs_that_are_over_go(stores: Stores, artifacts: Counting, clock: Clock, tmp_path: Path) -> None:
    snapshots = SnapshotObjects(str(tmp_path / "snapshots"))
    for job_id in ("a", "b"):
        stores.jobs.create(new_job(job_id), LIMITS)
    claim(stores.jobs, 2)
    assert stores.jobs.finish("a", 1, State.CANCELLED)
    for job_id in ("a", "b", "unknown", ".Trash-1000"):
        snapshots.objects.put(f"snapshots/{job_id}/0/1-1", [b"bytes"])
    tidy(stores, artifacts, snapshots)
    assert snapshots.jobs() == {"b", "unknown"}, "one that this database does not know may be another service's"


def test_a_round_ends_early_while_the_store_does_not_answer(
    stores: Stores, artifacts: Counting, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that overdue jobs are ended again soon: each call takes long to fail."""
    for job_id in ("a", "b", "c"):
        ended(stores, artifacts, job_id, clock)
    artifacts.away = {"jobs/a", "jobs/b", "jobs/c"}
    clock.now += 7_201
    monkeypatch.setattr("zoetrope.serving.sweeper.sweep.BROKEN_SECONDS", 0.0)
    for work in (sweep, tidy):
        artifacts.listed = []
        work(stores, artifacts)
        assert len(artifacts.listed) <= 1
    monkeypatch.undo()
    artifacts.away = set()
    sweep(stores, artifacts)
    assert files(artifacts) == []


def test_snapshots_that_no_job_needs_any_more_go_by_their_age(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of jobs that another database knew, for example."""
    snapshots = SnapshotObjects(str(tmp_path))
    snapshots.objects.put("snapshots/a/0/1-1", [b"bytes"])
    discard_old(snapshots)
    assert snapshots.jobs() == {"a"}
    monkeypatch.setattr("zoetrope.serving.sweeper.sweep.SNAPSHOT_AGE", timedelta(0))
    discard_old(snapshots)
    assert snapshots.jobs() == set()


async def test_files_are_listed_less_often_than_jobs_are_swept(
    stores: Stores, artifacts: Counting, clock: Clock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended(stores, artifacts, "a", clock)
    artifacts.away = {"jobs/a"}
    rounds = []

    def count(stores: Stores, artifacts: ArtifactStore, snapshots: SnapshotObjects) -> None:
        rounds.append(time.monotonic())

    assert main.TIDY_SECONDS >= 10 * main.SWEEP_SECONDS
    monkeypatch.setattr(main, "SWEEP_SECONDS", 0.01)
    monkeypatch.setattr(main, "sweep", count)
    monkeypatch.setattr(
        main, "stop_on_signals", lambda stop, with_stdin: asyncio.get_running_loop().call_later(0.5, stop)
    )
    assert await main.run(Settings(data_dir=tmp_path), stores, artifacts)
    assert artifacts.listed == ["jobs/a"]
    assert len(rounds) > 5


async def test_a_duty_is_stuck_while_a_round_does_not_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(main, "STUCK_SECONDS", 0.05)
    free, rounds = threading.Event(), 0

    def work() -> None:
        nonlocal rounds
        rounds += 1
        free.wait()

    duty = main.Duty("sweep", work, 0.0)
    assert not duty.stuck
    running = asyncio.create_task(duty.run())
    async with asyncio.timeout(20):
        while not duty.stuck:
            await asyncio.sleep(0.01)
        free.set()
        while rounds < 2 or duty.stuck:
            await asyncio.sleep(0)
    running.cancel()


async def test_a_sweep_that_breaks_ends_the_sweeper(
    stores: Stores,
    artifacts: Counting,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The supervisor then starts another; else nothing would be swept any more, and nobody would know."""

    def breaks(stores: Stores, artifacts: ArtifactStore, snapshots: SnapshotObjects) -> None:
        raise ZeroDivisionError("no such luck")

    monkeypatch.setattr(main, "sweep", breaks)
    monkeypatch.setattr(main, "stop_on_signals", lambda stop, with_stdin: None)
    in_order = await asyncio.wait_for(main.run(Settings(data_dir=tmp_path), stores, artifacts), 30)
    assert not in_order
    assert "the sweep ended" in caplog.text and "ZeroDivisionError" in caplog.text
