"""What a claim reads while thousands of jobs of other models wait: counted by the databases themselves, not timed."""

from __future__ import annotations

from typing import Any

import pytest

from tests.serving.jobs.harness import claim, ids, new_job
from zoetrope.serving.jobs.db.database import Tx
from zoetrope.serving.jobs.db.sqlite import SqliteSession
from zoetrope.serving.jobs.job import QueueLimits
from zoetrope.serving.jobs.open import Stores
from zoetrope.serving.jobs.store import JobStore

FOREIGN = 6_000
BATCH = 2_000


class Meter:
    """Instructions of SQLite's machine, or rows of the job table that PostgreSQL looked at."""

    def __init__(self, stores: Stores) -> None:
        self._stores = stores
        self._instructions = 0
        session: Any = stores.database._session
        self.sqlite = isinstance(session, SqliteSession)
        if self.sqlite:
            session._connection.set_progress_handler(self._count, 1)

    def _count(self) -> int:
        self._instructions += 1
        return 0

    def read(self) -> int:
        return self._instructions if self.sqlite else self._stores.database.write(self._rows)

    def _rows(self, tx: Tx) -> int:
        tx.run("SELECT pg_stat_force_next_flush()")
        tx.run("COMMIT")  # which counts what came before
        tx.run("BEGIN")
        row = tx.one(
            "SELECT seq_tup_read + coalesce(idx_tup_fetch, 0) AS looked_at FROM pg_stat_user_tables"
            " WHERE relname = 'job'"
        )
        assert row is not None
        return int(row["looked_at"])


def cost_of_a_claim(store: JobStore, meter: Meter, job_id: str) -> int:
    """Of one that finds a job, and one that finds none."""
    store.create(new_job(job_id), QueueLimits(10 * FOREIGN))
    before = meter.read()
    assert ids(claim(store, 3)) == [job_id]
    assert claim(store, 3) == []
    return meter.read() - before


@pytest.mark.timeout(120)
def test_jobs_of_other_models_cost_a_claim_nothing(stores: Stores) -> None:
    meter, store = Meter(stores), stores.jobs
    alone = cost_of_a_claim(store, meter, "before")
    for first in range(0, FOREIGN, BATCH):
        jobs = [new_job(f"f{number}", model="other", priority=9) for number in range(first, first + BATCH)]
        store.create_batch(jobs, QueueLimits(FOREIGN))
    if not meter.sqlite:
        stores.database.write(lambda tx: tx.run("ANALYZE job"))  # as the server does now and then: plans change with it
    among_foreign = cost_of_a_claim(store, meter, "after")
    assert 0 < among_foreign < 3 * alone + 50, f"{alone} alone, {among_foreign} beside {FOREIGN} others"
