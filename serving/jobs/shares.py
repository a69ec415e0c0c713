"""Whose turn it is: tenants share evenly what is scarce, jobs to be run as well as messages to be sent.

The one with least under way comes first; among equals the one whose last turn is the longest ago. Priorities order the
jobs of one tenant and mean nothing between tenants, so that nobody comes first by asking for it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from heapq import heapify, heappop, heappush
from typing import Any, TypeVar

from serving.jobs.database import Tx

T = TypeVar("T")

# How a claim goes through the queue. Those that run come first in the count, so that a tenant's tenth job in all waits
# for every other's ninth.
PLACES = (
    "SELECT line.*, row_number() OVER (ORDER BY own + coalesce(busy.jobs, 0), coalesce(turn, 0), line.owner) - 1"
    " AS place FROM (SELECT id, owner, priority, created_at, row_number() OVER"
    " (PARTITION BY owner ORDER BY priority DESC, created_at, id) - 1 AS own FROM job WHERE state = 'queued') AS line"
    " LEFT JOIN tenant_turn ON tenant_turn.owner = line.owner"
    " LEFT JOIN (SELECT owner, count(*) AS jobs FROM job WHERE state = 'running' GROUP BY owner) AS busy"
    " ON busy.owner = line.owner"
)


def waiting_tenants(tx: Tx, table: str, where: str, values: Sequence[Any] = ()) -> list[str]:
    """Tenants that have such rows: one look at an index that leads to their names for each, however many rows it has.

    Args:
        where: a condition without the tenant, which the index is for.
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


def in_turn(loads: Mapping[str, tuple[int, int]], take: Callable[[str], T | None]) -> Iterator[tuple[str, T]]:
    """Go round the tenants for as long as one has something.

    Args:
        loads: what each has under way, and when it had its last turn.
        take: the next thing of a tenant's; None: it has no more.
    """
    line = [(load, turn, owner) for owner, (load, turn) in loads.items()]
    heapify(line)
    last = max((turn for _, turn in loads.values()), default=0)
    while line:
        load, _, owner = heappop(line)
        taken = take(owner)
        if taken is not None:
            last += 1
            heappush(line, (load + 1, last, owner))
            yield owner, taken


def turns(tx: Tx, owners: Sequence[str]) -> dict[str, int]:
    """When these tenants last had a job claimed, counted in claims; 0: never."""
    among, value = tx.among("owner", owners)
    found = {row["owner"]: row["turn"] for row in tx.all(f"SELECT * FROM tenant_turn WHERE {among}", (value,))}
    return {owner: found.get(owner, 0) for owner in owners}


def note_turns(tx: Tx, owners: Sequence[str]) -> None:
    """These tenants had turns, in this order."""
    row = tx.one("SELECT max(turn) AS turn FROM tenant_turn")
    last = int((row["turn"] if row is not None else None) or 0)
    newest = {owner: last + number for number, owner in enumerate(owners, 1)}
    sql = "INSERT INTO tenant_turn (owner, turn) VALUES (?, ?) ON CONFLICT (owner) DO UPDATE SET turn = excluded.turn"
    for owner, turn in sorted(newest.items()):  # in one order, against deadlocks
        tx.later(sql, (owner, turn))
