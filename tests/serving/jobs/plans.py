"""What a store asks its database for, and how that goes about it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest

from zoetrope.serving.jobs.db.database import Row
from zoetrope.serving.jobs.open import Stores


@contextmanager
def statements(stores: Stores, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[tuple[str, Sequence[Any]]]]:
    """What is asked for in transactions."""
    asked: list[tuple[str, Sequence[Any]]] = []
    session = stores.database._session
    execute = session.execute

    def noted(sql: str, values: Sequence[Any]) -> tuple[list[Row], int]:
        asked.append((sql, values))
        return execute(sql, values)

    with monkeypatch.context() as patch:
        patch.setattr(session, "execute", noted)
        yield asked


def plan(stores: Stores, sql: str, values: Sequence[Any]) -> str:
    """How the database goes about a statement, one line for each step."""
    if stores.database.dialect.skip_locked:
        return "\n".join(
            row["QUERY PLAN"] for row in stores.database.write(lambda tx: tx.all(f"EXPLAIN {sql}", values))
        )
    rows = stores.database.write(lambda tx: tx.all(f"EXPLAIN QUERY PLAN {sql}", values))
    return "\n".join(row["detail"] for row in rows)


def check(steps: str, table: str, *, sorts: bool = False) -> None:
    """No step goes through all of a table, or sorts what it found."""
    bad = [rf"SCAN {table}(?! USING (COVERING )?INDEX job_(running|queued))", f"Seq Scan on {table}"]
    bad += [] if sorts else ["TEMP B-TREE", "Sort"]
    assert table in steps and not re.search("|".join(bad), steps), steps
