"""The job store's file: what is refused, and what threads, processes and kills may do to it."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

import serving
from serving.jobs.job import Job, Stage
from serving.jobs.schema import MIGRATIONS
from serving.jobs.store import JobStore, StoreError

ROOT = Path(serving.__file__).parent.parent


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "jobs.db"


@pytest.fixture
def store(path: Path) -> Iterator[JobStore]:
    store = JobStore(path)
    yield store
    store.close()


def create(store: JobStore, job_id: str, **changes: Any) -> Job:
    values: dict[str, Any] = {
        "owner": "",
        "model": "nano",
        "spec": {"prompt": "a red circle"},
        "steps": 10,
        "request_id": None,
        "fingerprint": "f",
        "max_queued": 1_000,
    }
    return store.create(job_id=job_id, **(values | changes))


def test_a_new_store_finds_what_an_earlier_one_wrote(path: Path, store: JobStore) -> None:
    job = create(store, "a")
    store.close()
    with pytest.raises(StoreError):
        store.get("a", "")
    again = JobStore(path)
    assert again.get("a", "") == job
    again.close()


def test_the_file_is_private_and_its_directory_is_made(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "jobs.db"
    JobStore(path).close()
    assert path.stat().st_mode & 0o077 == 0


def test_a_file_that_is_no_database_is_refused(path: Path) -> None:
    path.write_bytes(b"not a database, but some text that is long enough\n" * 100)
    content = path.read_bytes()
    with pytest.raises(StoreError, match=r"jobs\.db: file is not a database"):
        JobStore(path)
    assert path.read_bytes() == content


def test_a_database_of_another_program_is_refused_untouched(path: Path) -> None:
    with sqlite3.connect(path) as other:
        other.execute("CREATE TABLE job (id)")
    other.close()
    content = path.read_bytes()
    with pytest.raises(StoreError, match="another program"):
        JobStore(path)
    assert path.read_bytes() == content


def test_a_newer_schema_is_refused_with_both_versions(path: Path) -> None:
    JobStore(path).close()
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA user_version = 77")
    connection.close()
    with pytest.raises(StoreError, match=rf"version 77, this release knows versions up to {len(MIGRATIONS)}"):
        JobStore(path)


def test_a_path_that_cannot_be_opened_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for path in (tmp_path, tmp_path / "file" / "jobs.db"):
        with pytest.raises(StoreError) as caught:
            JobStore(path)
        assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_a_failed_write_leaves_nothing_behind(store: JobStore) -> None:
    create(store, "a")
    with pytest.raises(TypeError):
        create(store, "b", spec={"prompt": object()})
    with pytest.raises(StoreError):
        create(store, "b", steps="many")
    assert store.get("b", "") is None
    assert create(store, "b").id == "b"


# Threads and processes


def test_many_openers_of_a_new_file_agree(tmp_path: Path) -> None:
    for attempt in range(5):
        path, start = tmp_path / f"{attempt}.db", threading.Barrier(6)

        def opened(path: Path = path, start: threading.Barrier = start) -> None:
            start.wait()
            store = JobStore(path)
            assert store.list("", page_size=1) == []
            store.close()

        with ThreadPoolExecutor(6) as pool:
            for done in [pool.submit(opened) for _ in range(6)]:
                done.result()


@pytest.mark.parametrize("shared", [True, False], ids=["one store", "a store each"])
def test_threads_never_claim_a_job_twice(path: Path, shared: bool) -> None:
    first = JobStore(path)
    names = {f"j{number:03}" for number in range(100)}
    for name in names:
        create(first, name)

    def work(owner: str) -> list[str]:
        store = first if shared else JobStore(path)
        taken: list[str] = []
        while jobs := store.claim(owner, 3, 60, 5):
            for job in jobs:
                assert job.lease_owner == owner and job.lease_epoch == 1
                assert store.progress(job.id, 1, stage=Stage.DENOISING, step=1, eta_seconds=None)
                taken.append(job.id)
        if not shared:
            store.close()
        return taken

    with ThreadPoolExecutor(4) as pool:
        taken = [name for names_of_one in pool.map(work, ["w0", "w1", "w2", "w3"]) for name in names_of_one]
    assert len(taken) == 100 and set(taken) == names
    first.close()


def test_one_of_many_creators_with_a_request_id_wins(store: JobStore) -> None:
    with ThreadPoolExecutor(8) as pool:
        jobs = list(pool.map(lambda number: create(store, f"j{number}", request_id="r"), range(8)))
    assert len({job.id for job in jobs}) == 1
    assert len(store.list("", page_size=9)) == 1


def python(code: str, path: Path, *arguments: str) -> subprocess.Popen[str]:
    head = (
        "import sys; from pathlib import Path; from serving.jobs.store import *; store = JobStore(Path(sys.argv[1]))\n"
    )
    return subprocess.Popen(
        [sys.executable, "-c", head + code, str(path), *arguments],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


CLAIMS = """
print("open", flush=True)
input()
while jobs := store.claim(sys.argv[2], 2, 60, 5):
    for job in jobs:
        print(job.id, flush=True)
"""


def test_processes_never_claim_a_job_twice(path: Path, store: JobStore) -> None:
    names = [create(store, f"j{number:02}").id for number in range(60)]
    workers = [python(CLAIMS, path, owner) for owner in ("p0", "p1")]
    for worker in workers:
        assert worker.stdout is not None and worker.stdin is not None
        assert worker.stdout.readline() == "open\n"
    for worker in workers:
        assert worker.stdin is not None
        worker.stdin.write("go\n")
        worker.stdin.flush()
    taken = [worker.communicate(timeout=60)[0].split() for worker in workers]
    assert [worker.returncode for worker in workers] == [0, 0]
    assert sorted(taken[0] + taken[1]) == names


CREATES = """
for number in range(1_000_000):
    store.create(job_id=f"{number:07}", owner="", model="m", spec={"prompt": "x" * 3000}, steps=1,
                 request_id=None, fingerprint="", max_queued=1_000_000)
    print(f"{number:07}", flush=True)
"""


def test_every_acknowledged_job_survives_a_killed_process(path: Path) -> None:
    with python(CREATES, path) as process:
        assert process.stdout is not None
        acknowledged = [process.stdout.readline().strip() for _ in range(50)]
        process.kill()
        acknowledged += process.stdout.read().split("\n")[:-1]  # the last line may be cut
    store = JobStore(path)
    stored = [job.id for job in store.list("", page_size=1_000_000)][::-1]
    assert len(stored) >= 50
    assert stored[: len(acknowledged)] == acknowledged
    assert len(stored) <= len(acknowledged) + 1  # stored, then killed before it could say so
    store.close()
    with sqlite3.connect(path) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    connection.close()
