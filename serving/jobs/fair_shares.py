"""Decides whose turn it is: tenants share scarce resources evenly, both jobs to run and messages to send.

The tenant with the least in progress comes first; among equals, the one whose last turn was longest ago. Priorities
order the jobs of one tenant and have no effect between tenants, so that nobody gets ahead by asking for it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from heapq import heapify, heappop, heappush
from typing import Any, TypeAlias, TypeVar

from zoetrope.serving.jobs.db.database import Tx

T = TypeVar("T")

# The order of one tenant's queue, for SQL and for Python. The index job_queued follows it.
QUEUE_ORDER = "priority DESC, created_at, id"
QueueKey: TypeAlias = tuple[int, float, str]


def queue_key(priority: int, created_at: float, job_id: str) -> QueueKey:
    """Return a key that sorts as `QUEUE_ORDER`."""
    return -priority, created_at, job_id


# About the order in which jobs are claimed, while no router has said better: tenants in turn. Running jobs count first,
# so that a tenant's tenth job in all waits for every other tenant's ninth.
PLACES = (
    "SELECT queued.*, row_number() OVER (ORDER BY own + coalesce(busy.jobs, 0), queued.created_at, queued.id) - 1"
    " AS place FROM (SELECT id, owner, priority, created_at, row_number() OVER"
    f" (PARTITION BY owner ORDER BY {QUEUE_ORDER}) - 1 AS own FROM job WHERE state = 'queued') AS queued"
    " LEFT JOIN (SELECT owner, count(*) AS jobs FROM job WHERE state = 'running' GROUP BY owner) AS busy"
    " ON busy.owner = queued.owner"
)


def waiting_tenants(tx: Tx, table: str, where: str, values: Sequence[Any] = ()) -> list[str]:
    """Return the tenants that have such rows, with one index lookup for each tenant, however many rows it has.

    Args:
        where: a condition without the tenant; there must be an index by it and the tenant.
    """
    one = f"SELECT {table}.owner FROM {table} WHERE {where}"
    order = f"ORDER BY {table}.owner LIMIT 1"
    rows = tx.all(
        f"WITH RECURSIVE tenant (owner) AS (SELECT ({one} AND {table}.owner >= '' {order}) UNION ALL SELECT ({one}"
        f" AND {table}.owner > tenant.owner {order}) FROM tenant WHERE tenant.owner IS NOT NULL)"
        " SELECT owner FROM tenant WHERE owner IS NOT NULL",
        (*values, *values),
    )
    return [row["owner"] for row in rows]


def in_turn(loads: Mapping[str, tuple[int, int]], next_of: Callable[[str], T | None]) -> Iterator[tuple[str, T]]:
    """Go round the tenants as long as any has an item.

    Args:
        loads: for each tenant, how much is in progress and when it had its last turn.
        next_of: returns a tenant's next item; None: it has no more.
    """
    tenants = [(load, turn, owner) for owner, (load, turn) in loads.items()]
    heapify(tenants)
    last = max((turn for _, turn in loads.values()), default=0)
    while tenants:
        load, _, owner = heappop(tenants)
        item = next_of(owner)
        if item is not None:
            last += 1
            heappush(tenants, (load + 1, last, owner))
            yield owner, item
