"""The query for a page of an owner's jobs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from serving.jobs.database import Dialect
from serving.jobs.job import JobFilter


def query(
    dialect: Dialect, owner: str, page_size: int, where: JobFilter, before: tuple[float, str] | None
) -> tuple[str, Sequence[Any]]:
    """For the rows of `job`, newest first, and the values of its placeholders; arguments as of `JobStore.list`."""
    conditions: list[tuple[str, Sequence[Any]]] = [("owner = ?", (owner,))]
    if where.states:
        places = ", ".join("?" * len(where.states))
        conditions.append((f"state IN ({places})", [str(state) for state in where.states]))
    conditions += [(dialect.has_label, label) for label in where.labels.items()]
    for column, value in (("model = ?", where.model), ("kind = ?", where.kind)):
        if value is not None:
            conditions.append((column, (value,)))
    for column, at in (("created_at >= ?", where.created_after), ("created_at < ?", where.created_before)):
        if at is not None:
            conditions.append((column, (float(at),)))
    if before is not None:
        conditions.append(("(created_at, id) < (?, ?)", (float(before[0]), before[1])))
    sql = f"SELECT * FROM job WHERE {' AND '.join(condition for condition, _ in conditions)}"
    sql += " ORDER BY created_at DESC, id DESC LIMIT ?"
    return sql, [*(value for _, some in conditions for value in some), max(page_size, 0)]
