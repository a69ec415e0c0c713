"""Data classes as rows: what a new field of a job needs, and what is stored of each kind of field."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from zoetrope.serving.jobs.db.records import columns, from_row, to_values
from zoetrope.serving.jobs.fair_shares import QUEUE_ORDER, queue_key
from zoetrope.serving.jobs.job import Job, JobWebhook, State
from zoetrope.serving.jobs.key_table import KeyLimits
from zoetrope.serving.jobs.open import Stores

SQLITE_INDEX = "SELECT sql FROM sqlite_master WHERE name = ?"
POSTGRES_INDEX = "SELECT indexdef AS sql FROM pg_indexes WHERE indexname = ?"
OUTSIDE = {"kind", "request_id", "fingerprint", "fruitless", "furthest"}  # columns that are no field of a job


@dataclass(frozen=True)
class Sample:
    text: str
    number: float | None
    flag: bool
    state: State
    names: tuple[str, ...]
    values: dict[str, Any]
    webhook: JobWebhook | None
    limits: KeyLimits


def test_each_kind_of_field_comes_back() -> None:
    webhook, limits = JobWebhook("https://a", ("start",)), KeyLimits(models=("nano",))
    for sample in (
        Sample("é", 1.5, True, State.QUEUED, ("a", "b"), {"c": [1]}, webhook, limits),
        Sample("", None, False, State.FAILED, (), {}, None, KeyLimits()),
    ):
        values = to_values(sample)
        assert all(value is None or type(value) in (str, int, float) for value in values.values())
        assert from_row(Sample, values) == sample


def test_what_an_older_release_stored_has_the_defaults_of_new_fields() -> None:
    values = to_values(Sample("", None, False, State.QUEUED, (), {}, None, KeyLimits()))
    assert from_row(Sample, values | {"limits": '{"burst": 7}'}).limits == KeyLimits(burst=7)


def test_what_is_not_json_is_refused() -> None:
    with pytest.raises(TypeError):
        to_values(Sample("", None, False, State.QUEUED, (), {"x": object()}, None, KeyLimits()))


def test_the_columns_of_a_job_are_its_fields(stores: Stores, create: Callable[..., Job]) -> None:
    create("a")
    row: Any = stores.database.read("SELECT * FROM job")[0]
    assert set(row.keys()) == {*columns(Job), *OUTSIDE}


def test_the_index_of_the_queue_follows_its_order(stores: Stores) -> None:
    sql = POSTGRES_INDEX if stores.database.dialect.skip_locked else SQLITE_INDEX
    (row,) = stores.database.read(sql, ("job_queued",))
    assert f"owner, {QUEUE_ORDER})" in row["sql"]


def test_the_order_is_the_same_in_python(stores: Stores, create: Callable[..., Job]) -> None:
    jobs = [create(name, priority=priority) for name, priority in (("b", 0), ("a", 0), ("c", 5), ("d", 5))]
    rows = stores.database.read(f"SELECT id FROM job ORDER BY {QUEUE_ORDER}")
    keys = {job.id: queue_key(job.priority, job.created_at, job.id) for job in jobs}
    assert [row["id"] for row in rows] == sorted(keys, key=lambda name: keys[name])
