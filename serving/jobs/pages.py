"""Builds the query for a page of an owner's jobs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from zoetrope.serving.jobs.db.database import Dialect
from zoetrope.serving.jobs.db.migrations import LABEL_CHARS
from zoetrope.serving.jobs.job import JobFilter


def query(
    dialect: Dialect,
    owner: str,
    page_size: int,
    where: JobFilter,
    before: tuple[float, str] | None,
    oldest_first: bool = False,
) -> tuple[str, Sequence[Any]]:
    """Return the query for rows of `job`, and its values. Arguments as in `JobStore.list`."""
    source, by = "job", "job"
    conditions: list[tuple[str, Sequence[Any]]] = []
    if where.labels:  # the page is found along one label's index; the row must have all labels
        source, by = "job_label JOIN job ON job.id = job_label.job_id", "job_label"
        first = next(iter(where.labels.items()))
        conditions.append(("job_label.key = ? AND job_label.value = ?", [text[:LABEL_CHARS] for text in first]))
    conditions.insert(0, (f"{by}.owner = ?", (owner,)))
    if where.states:
        places = ", ".join("?" * len(where.states))
        conditions.append((f"state IN ({places})", [str(state) for state in where.states]))
    conditions += [(dialect.has_label, label) for label in where.labels.items()]
    for column, value in (("model = ?", where.model), ("kind = ?", where.kind)):
        if value is not None:
            conditions.append((column, (value,)))
    created, name = f"{by}.created_at", "job.id" if by == "job" else "job_label.job_id"
    for relation, at in ((">=", where.created_after), ("<", where.created_before)):
        if at is not None:
            conditions.append((f"{created} {relation} ?", (float(at),)))
    if before is not None:
        further = ">" if oldest_first else "<"
        conditions.append((f"({created}, {name}) {further} (?, ?)", (float(before[0]), before[1])))
    sql = f"SELECT job.* FROM {source} WHERE {' AND '.join(condition for condition, _ in conditions)}"
    order = "ASC" if oldest_first else "DESC"
    sql += f" ORDER BY {created} {order}, {name} {order} LIMIT ?"
    return sql, [*(value for _, some in conditions for value in some), max(page_size, 0)]
