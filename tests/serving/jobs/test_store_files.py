"""The job store's SQLite file: whose it is, what is refused, and older versions of it."""

from __future__ import annotations

import json
import sqlite3
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.serving.jobs.harness import LIMITS, claim, claim_oldest, ids, new_job
from zoetrope.serving.jobs.db.errors import StoreError
from zoetrope.serving.jobs.db.migrations import APPLICATION_ID, MIGRATIONS
from zoetrope.serving.jobs.errors import QueueFull
from zoetrope.serving.jobs.job import DAY_SECONDS, JobFilter, JobWebhook, QueueLimits, State, TenantUsage
from zoetrope.serving.jobs.open import Stores, open_stores


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "jobs.db"


@pytest.fixture
def stores(path: Path) -> Iterator[Stores]:
    stores = at(path)
    yield stores
    stores.close()


def at(path: Path) -> Stores:
    return open_stores(f"sqlite://{path}")


def test_a_new_store_finds_what_an_earlier_one_wrote(path: Path, stores: Stores) -> None:
    job = stores.jobs.create(new_job("a"), LIMITS)
    stores.close()
    stores.close()  # once more does nothing
    with pytest.raises(StoreError, match="closed"):
        stores.jobs.get("a", "")
    with pytest.raises(StoreError, match="closed"):
        stores.jobs.create(new_job("b"), LIMITS)
    again = at(path)
    assert again.jobs.get("a", "") == job
    again.close()


def test_the_file_is_private_and_its_directory_is_made(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "jobs.db"
    at(path).close()
    assert path.stat().st_mode & 0o077 == 0


def test_a_file_that_is_no_database_is_refused(path: Path) -> None:
    path.write_bytes(b"not a database, but some text that is long enough\n" * 100)
    content = path.read_bytes()
    with pytest.raises(StoreError, match=r"jobs\.db: file is not a database"):
        at(path)
    assert path.read_bytes() == content


def test_a_database_of_another_program_is_refused_untouched(path: Path) -> None:
    with sqlite3.connect(path) as other:
        other.execute("CREATE TABLE job (id)")
    other.close()
    content = path.read_bytes()
    with pytest.raises(StoreError, match="another program"):
        at(path)
    assert path.read_bytes() == content


def test_a_newer_schema_is_refused_with_both_versions(path: Path) -> None:
    at(path).close()
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA user_version = 77")
    connection.close()
    with pytest.raises(StoreError, match=rf"version 77, this release knows versions up to {len(MIGRATIONS)}"):
        at(path)


def test_a_path_that_cannot_be_opened_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for path in (tmp_path, tmp_path / "file" / "jobs.db"):
        with pytest.raises(StoreError) as caught:
            at(path)
        assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_many_openers_of_a_new_file_agree(tmp_path: Path) -> None:
    for attempt in range(5):
        path, start = tmp_path / f"{attempt}.db", threading.Barrier(6)

        def opened(path: Path = path, start: threading.Barrier = start) -> None:
            start.wait()
            stores = at(path)
            assert stores.jobs.list("", page_size=1) == []
            stores.close()

        with ThreadPoolExecutor(6) as pool:
            for done in [pool.submit(opened) for _ in range(6)]:
                done.result()


# Older versions


def older(path: Path, version: int) -> None:
    """A file as release ``version`` left it: a job in each state, the end of one long ago."""
    connection = sqlite3.connect(path)
    for statement in (sql for migration in MIGRATIONS[:version] for sql in migration):
        connection.execute(statement)
    connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    connection.execute(f"PRAGMA user_version = {version}")
    spec = json.dumps({"task": {"kind": "text_to_video", "prompt": "a red circle"}, "frames": 27, "fps": 12})
    columns = "id, owner, model, spec, steps, created_at, request_id, fingerprint, state"
    rows = [
        ("queued", "NULL", "NULL", "NULL", "NULL", "NULL", "NULL"),
        ("running", "'r0'", "1.0", "'denoising'", "NULL", "NULL", "NULL"),
        ("succeeded", "NULL", "NULL", "NULL", "900.0", "'{}'", "NULL"),
        ("failed", "NULL", "NULL", "NULL", "900.0", "NULL", "'INTERNAL'"),
        ("cancelled", "NULL", "NULL", "NULL", "900.0", "NULL", "NULL"),
    ]
    for number, (state, owner, until, stage, finished, result, error) in enumerate(rows):
        connection.execute(
            f"INSERT INTO job ({columns}, attempt, lease_owner, lease_until, stage, finished_at, result, error_code)"
            " VALUES (?, '', 'nano', ?, 10, ?, ?, 'f', ?, ?,"
            f" {owner}, {until}, {stage}, {finished}, {result}, {error})",
            (state, spec, 100.0 + number, f"request {state}", state, int(state != "queued")),
        )
    if version >= 2:
        connection.execute("UPDATE job SET warnings = '[\"no sound\"]' WHERE id = 'running'")
    connection.commit()
    connection.execute("PRAGMA journal_mode = WAL")
    connection.close()


def test_results_of_an_older_version_count(path: Path) -> None:
    older(path, 4)
    connection = sqlite3.connect(path)
    both = {"video": {"size_bytes": 7}, "latents": {"size_bytes": 5_000_000_000}}
    for number, result in enumerate((both, {"video": {"size_bytes": 1}, "latents": None})):
        connection.execute(
            "INSERT INTO job (id, owner, model, spec, steps, created_at, fingerprint, state, finished_at, result)"
            " VALUES (?, 'o', 'nano', '{}', 10, 1.0, 'f', 'succeeded', 2.0, ?)",
            (f"made {number}", json.dumps(result)),
        )
    connection.commit()
    connection.close()
    stores = at(path)
    assert stores.jobs.usage("o", None, 9).result_bytes == 5_000_000_008
    assert stores.jobs.usage("", None, 9).queued_jobs == 1
    stores.close()


@pytest.mark.parametrize("version", [1, 2])
def test_an_older_file_keeps_its_jobs(path: Path, version: int) -> None:
    older(path, version)
    begun = time.time()
    stores = at(path)
    jobs = {job.id: job for job in stores.jobs.list("", page_size=9)}
    assert {job_id: str(job.state) for job_id, job in jobs.items()} == {state: state for state in jobs}
    assert len(jobs) == len(State)
    assert jobs["running"].warnings == (("no sound",) if version == 2 else ())
    for job in jobs.values():
        assert (job.labels, job.priority, job.media, job.webhook, job.preview) == ({}, 0, (), None, None)
        assert job.seconds == 27 / 12 and job.retention_seconds == DAY_SECONDS
        # Nothing that ended long ago is deleted by the upgrade itself.
        expire_at = job.expire_at
        assert (expire_at is not None) == job.state.final
        assert expire_at is None or expire_at >= int(begun) + DAY_SECONDS
    assert stores.jobs.delete_expired(9) == 0
    assert stores.jobs.counts() == dict.fromkeys(map(str, State), 1)
    assert stores.jobs.usage("", None, 9) == TenantUsage(0, 0.0, queued_jobs=1, queue_share=9, result_bytes=0)
    # Request ids, limits and claims go on.
    assert stores.jobs.create(new_job("again", request_id="request failed"), LIMITS) == jobs["failed"]
    with pytest.raises(QueueFull):
        stores.jobs.create(new_job("more"), QueueLimits(max_queued=1))
    assert ids(claim(stores.jobs, 9)) == ["queued", "running"]
    stores.jobs.create(new_job("more", webhook=JobWebhook("http://127.0.0.1/")), QueueLimits(max_queued=1))
    stores.close()
    with sqlite3.connect(path) as connection:
        assert connection.execute("PRAGMA user_version").fetchone() == (len(MIGRATIONS),)
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    connection.close()


def test_an_upgrade_that_fails_changes_nothing(path: Path) -> None:
    older(path, 1)
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE outbox (id)")  # in the way of the newest version's
    connection.commit()
    before = list(connection.iterdump())
    with pytest.raises(StoreError, match="outbox"):
        at(path)
    assert list(connection.iterdump()) == before
    assert connection.execute("PRAGMA user_version").fetchone() == (1,)
    connection.close()


@pytest.mark.parametrize("url", ["jobs.db", "sqlite://jobs.db", "mysql://root:geheim@db/jobs", ""])
def test_a_url_of_no_database_is_refused_without_its_password(url: str) -> None:
    with pytest.raises(StoreError, match="a database URL starts with sqlite:///") as caught:
        open_stores(url)
    assert "geheim" not in str(caught.value)


def test_attempts_before_the_upgrade_do_not_count(path: Path) -> None:
    older(path, 3)
    stores = at(path)
    assert [job.id for job in claim_oldest(stores.jobs, "r1", 9, 0.0, 1, ["nano"])] == ["queued", "running"]
    stores.close()


def test_labels_of_before_the_upgrade_are_found(path: Path) -> None:
    older(path, 3)
    connection = sqlite3.connect(path)
    connection.execute("UPDATE job SET labels = '{\"team\": \"red\"}' WHERE id = 'failed'")
    connection.commit()
    connection.close()
    stores = at(path)
    assert [job.id for job in stores.jobs.list("", page_size=9, where=JobFilter(labels={"team": "red"}))] == ["failed"]
    stores.close()
