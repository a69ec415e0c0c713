"""Threads, processes and kills: nobody's job twice, nobody's job lost, on each database."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import zoetrope
from tests.serving.jobs.harness import LIMITS, RESULT, claim, claim_oldest, new_job
from zoetrope.serving.jobs.errors import QueueFull, QuotaExceeded
from zoetrope.serving.jobs.job import QueueLimits, Stage, State
from zoetrope.serving.jobs.open import Stores, open_stores

ROOT = Path(zoetrope.__file__).parents[1]


@pytest.fixture
def clock() -> None:
    """The real one: these tests are about what happens at once."""


@pytest.fixture
def stores(database: str) -> Stores:
    return open_stores(database)


@pytest.mark.parametrize("shared", [True, False], ids=["one store", "a store each"])
def test_threads_never_claim_a_job_twice(database: str, stores: Stores, shared: bool) -> None:
    names = {f"j{number:03}" for number in range(400)}
    for start in range(0, 400, 100):
        stores.jobs.create_batch([new_job(name) for name in sorted(names)[start : start + 100]], LIMITS)

    def work(owner: str) -> list[str]:
        mine = stores if shared else open_stores(database)
        taken: list[str] = []
        while jobs := claim_oldest(mine.jobs, owner, 3, 60, 5, ["nano"]):
            for job in jobs:
                assert job.lease_owner == owner and job.lease_epoch == 1
                assert mine.jobs.progress(job.id, 1, stage=Stage.DENOISING, step=1, eta_seconds=None)
                taken.append(job.id)
        if not shared:
            mine.close()
        return taken

    with ThreadPoolExecutor(8) as pool:
        taken = [name for some in pool.map(work, [f"w{number}" for number in range(8)]) for name in some]
    assert len(taken) == 400 and set(taken) == names
    assert stores.jobs.counts() == {"queued": 0, "running": 400, "succeeded": 0, "failed": 0, "cancelled": 0}
    stores.close()


def test_one_of_many_creators_with_a_request_id_wins(stores: Stores) -> None:
    with ThreadPoolExecutor(8) as pool:
        jobs = list(pool.map(lambda n: stores.jobs.create(new_job(f"j{n}", request_id="r"), LIMITS), range(8)))
    assert len({job.id for job in jobs}) == 1
    assert len(stores.jobs.list("", page_size=9)) == 1
    stores.close()


def test_limits_hold_between_processes_and_while_jobs_come_and_go(database: str, stores: Stores) -> None:
    others = [stores, open_stores(database), open_stores(database)]
    limits = QueueLimits(max_queued=50, concurrent_jobs=40)

    def work(number: int) -> int:
        mine, accepted = others[number % 3], 0
        for count in range(30):
            try:
                mine.jobs.create(new_job(f"{number}-{count}", key_id=f"k{number % 2}"), limits)
                accepted += 1
            except (QueueFull, QuotaExceeded):
                for job in claim(mine.jobs, 2, owner=f"w{number}"):
                    mine.jobs.finish(job.id, job.lease_epoch, State.SUCCEEDED, result=RESULT)
            counts = mine.jobs.counts()
            assert counts["queued"] <= 50 and counts["queued"] + counts["running"] <= 80
        return accepted

    with ThreadPoolExecutor(6) as pool:
        accepted = sum(pool.map(work, range(6)))
    assert sum(stores.jobs.counts().values()) == accepted > 80
    # What the limits are compared with is what counting gives.
    counted = stores.database.read("SELECT state, count(*) AS jobs FROM job GROUP BY state")
    counts = {row["state"]: row["jobs"] for row in counted}
    assert {state: jobs for state, jobs in stores.jobs.counts().items() if jobs} == counts
    rows = {row["name"]: row["jobs"] for row in stores.database.read("SELECT name, jobs FROM tally")}
    assert rows["live k0"] + rows["live k1"] == counts["queued"] + counts.get("running", 0)
    for each in others:
        each.close()


def python(code: str, database: str, *arguments: str) -> subprocess.Popen[str]:
    head = (
        "import sys; from zoetrope.serving.jobs.open import open_stores\n"
        "from zoetrope.serving.jobs.job import NewJob, QueueLimits\n"
        "stores = open_stores(sys.argv[1])\n"
    )
    return subprocess.Popen(
        [sys.executable, "-c", head + code, database, *arguments],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


CLAIMS = """
from tests.serving.jobs.harness import claim_oldest
print("open", flush=True)
input()
while jobs := claim_oldest(stores.jobs, sys.argv[2], 2, 60, 5, ["nano"]):
    for job in jobs:
        print(job.id, flush=True)
stores.close()
"""


def test_processes_never_claim_a_job_twice(database: str, stores: Stores) -> None:
    names = [job.id for job in stores.jobs.create_batch([new_job(f"j{number:03}") for number in range(400)], LIMITS)]
    workers = [python(CLAIMS, database, f"p{number}") for number in range(8)]
    for worker in workers:
        assert worker.stdout is not None
        assert worker.stdout.readline() == "open\n"
    for worker in workers:
        assert worker.stdin is not None
        worker.stdin.write("go\n")
        worker.stdin.flush()
    taken = [worker.communicate(timeout=60)[0].split() for worker in workers]
    assert [worker.returncode for worker in workers] == [0] * 8
    assert sorted(name for some in taken for name in some) == names
    stores.close()


CREATES = """
import threading

def work(thread):
    for number in range(1_000_000):
        name = f"{thread}-{number:07}"
        spec = {"prompt": "x" * 3000}
        new = NewJob(id=name, owner="", model="m", spec=spec, steps=1, seconds=5.0, request_id=None, fingerprint="")
        stores.jobs.create(new, QueueLimits(max_queued=10_000_000))
        sys.stdout.write(name + "\\n")
        sys.stdout.flush()

for thread in range(8):
    threading.Thread(target=work, args=(thread,), daemon=True).start()
input()
"""


def test_every_acknowledged_job_survives_a_killed_process(database: str) -> None:
    with python(CREATES, database) as process:
        assert process.stdout is not None
        acknowledged = [process.stdout.readline().strip() for _ in range(100)]
        process.kill()
        acknowledged += process.stdout.read().split("\n")[:-1]  # the last line may be cut
    stores = open_stores(database)
    stored = {job.id for job in stores.jobs.list("", page_size=1_000_000)}
    assert len(acknowledged) >= 100 and set(acknowledged) <= stored
    assert len(stored) <= len(acknowledged) + 8  # stored, then killed before each thread could say so
    assert stores.jobs.counts()["queued"] == len(stored)
    (row,) = stores.database.read("SELECT count(*) AS lines FROM job_event")
    assert row["lines"] == len(stored)
    stores.close()
    if database.startswith("sqlite"):
        with sqlite3.connect(database.removeprefix("sqlite://")) as connection:
            assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        connection.close()
