"""The outbox: webhook messages, stored with the change that they report, until they are delivered."""

from __future__ import annotations

import base64
import secrets
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias
from urllib.parse import urlsplit

from zoetrope.serving.jobs.db.database import Database, Row, Tx
from zoetrope.serving.jobs.db.records import from_row, insert
from zoetrope.serving.jobs.fair_shares import in_turn, waiting_tenants
from zoetrope.serving.jobs.job import DEFAULT_EVENTS, Job, WebhookEvent

Lane: TypeAlias = tuple[str, str]

SECRET_BYTES = 24
_INSERT = insert("outbox", ("id", "job_id", "owner", "event", "url", "host", "created_at", "next_at"))


@dataclass(frozen=True)
class OutboxTraffic:
    """What a sender has in flight, and how much it may have, so that a host that never answers delays little: some of
    one tenant's messages to it.

    Attributes:
        under_way: messages in flight by lane: a tenant and a host.
        per_lane, per_tenant, per_host: the most that may be in flight; None: any number.
        lanes: exceptions from ``per_lane``.
    """

    under_way: Mapping[Lane, int] = field(default_factory=dict)
    per_lane: int | None = None
    per_tenant: int | None = None
    per_host: int | None = None
    lanes: Mapping[Lane, int] = field(default_factory=dict)

    def of_tenant(self, owner: str, under_way: Mapping[Lane, int]) -> int:
        return sum(count for (known, _), count in under_way.items() if known == owner)

    def closed(self, owner: str, under_way: Mapping[Lane, int]) -> set[str] | None:
        """Return the hosts to which no more of a tenant's messages may go; None: the tenant has enough in flight."""
        if self.per_tenant is not None and self.of_tenant(owner, under_way) >= self.per_tenant:
            return None
        closed = {
            host
            for (known, host), most in self.lanes.items()
            if known == owner and under_way.get((owner, host), 0) >= most
        }
        hosts = Counter[str]()
        for (known, host), count in under_way.items():
            hosts[host] += count
            if known == owner and self.per_lane is not None and count >= self.per_lane:
                closed.add(host)
        if self.per_host is not None:
            closed |= {host for host, count in hosts.items() if count >= self.per_host}
        return closed


NO_TRAFFIC = OutboxTraffic()


@dataclass(frozen=True)
class Delivery:
    """A message that is due."""

    id: str
    job_id: str
    owner: str
    event: str
    url: str
    host: str
    body: str | None  # None until `Outbox.set_body`
    attempts: int  # so far
    created_at: float


def enqueue(tx: Tx, job: Job, events: Sequence[WebhookEvent], now: float) -> None:
    """Store a message for each of these events of a job that its client asked for."""
    webhook = job.webhook
    if webhook is None:
        return
    for event in events:
        if event in (webhook.events or DEFAULT_EVENTS):
            message_id, host = f"msg_{secrets.token_hex(16)}", host_of(webhook.url)
            tx.later(_INSERT, (message_id, job.id, job.owner, event, webhook.url, host, now, now))


def host_of(url: str) -> str:
    """Return the normalised host of a URL; "" if there is none."""
    try:
        return (urlsplit(url).hostname or "").removesuffix(".")
    except ValueError:
        return ""


class Outbox:
    """Messages in the order in which they are due, tenants in turn. Several senders may work at once: a message is
    leased to one of them, and is due again if that one does not report. Every method may raise StoreError."""

    def __init__(self, database: Database) -> None:
        self._db = database

    def due(self, limit: int, lease_seconds: float, traffic: OutboxTraffic = NO_TRAFFIC) -> list[Delivery]:
        """Claim up to ``limit`` messages that are due; each is due again in ``lease_seconds``. Tenants take turns, and
        those with less in flight come first."""

        def body(tx: Tx) -> list[Row]:
            now, taken = tx.now(), list[str]()
            under_way = Counter(traffic.under_way)

            def next_of(owner: str) -> Row | None:
                closed = traffic.closed(owner, under_way)
                if closed is None:
                    return None
                (never, hosts), (held, ids) = tx.among("host", sorted(closed)), tx.among("id", taken)
                return tx.one(
                    f"SELECT id, host FROM outbox WHERE owner = ? AND next_at <= ? AND NOT ({never}) AND NOT ({held})"
                    f" ORDER BY next_at, created_at, id LIMIT 1{tx.dialect.skip_locked}",
                    (owner, now, hosts, ids),
                )

            owners = waiting_tenants(tx, "outbox", "next_at IS NOT NULL")
            loads = {owner: (traffic.of_tenant(owner, under_way), turn) for turn, owner in enumerate(owners)}
            for owner, row in in_turn(loads, next_of) if limit > 0 else ():
                taken.append(row["id"])
                under_way[owner, row["host"]] += 1
                if len(taken) == limit:
                    break
            if not taken:
                return []
            among, value = tx.among("id", taken)
            return tx.all(f"UPDATE outbox SET next_at = ? WHERE {among} RETURNING *", (now + lease_seconds, value))

        rows = self._db.write(body, synced=False)
        return sorted(
            (from_row(Delivery, row) for row in rows), key=lambda delivery: (delivery.created_at, delivery.id)
        )

    def next_at(self) -> float | None:
        """Return when the next message is due (possibly in the past); None if none is waiting."""
        (row,) = self._db.read("SELECT min(next_at) AS next_at FROM outbox WHERE next_at IS NOT NULL")
        return None if row["next_at"] is None else float(row["next_at"])

    def set_body(self, message_id: str, body: str) -> str:
        """Set a message's body before it is first sent; a body set earlier stays.

        Returns:
            The body.
        """

        def change(tx: Tx) -> str:
            row = tx.one("UPDATE outbox SET body = coalesce(body, ?) WHERE id = ? RETURNING body", (body, message_id))
            return body if row is None else str(row["body"])

        return self._db.write(change)

    def delivered(self, message_id: str, status: int) -> None:
        """Record that a message arrived: the receiver answered with this HTTP status."""
        self._end(message_id, status, "")

    def give_up(self, message_id: str, note: str) -> None:
        """Record that a message will not arrive, and why."""
        self._end(message_id, None, note)

    def retry(self, message_id: str, at: float, note: str) -> None:
        """Record that a message did not arrive, and why; it is due again at ``at``."""
        sql = "UPDATE outbox SET next_at = ?, ended_at = NULL, attempts = attempts + 1, note = ? WHERE id = ?"
        self._db.write(lambda tx: tx.run(sql, (at, note, message_id)))

    def replay(self, job_id: str, owner: str) -> int:
        """Send all messages of a job again, with the same ids and bodies. Returns how many there are."""
        sql = (
            "UPDATE outbox SET next_at = ?, ended_at = NULL, status = NULL, attempts = 0, note = ''"
            " WHERE job_id = ? AND owner = ?"
        )
        return self._db.write(lambda tx: tx.run(sql, (tx.now(), job_id, owner)))

    def forget(self, older_than: float) -> int:
        """Delete messages that were delivered or given up more than ``older_than`` seconds ago. Returns how many."""
        return self._db.write(lambda tx: tx.run("DELETE FROM outbox WHERE ended_at <= ?", (tx.now() - older_than,)))

    def secret(self, owner: str) -> str:
        """Return the secret that signs a tenant's messages (Standard Webhooks), created at the first call."""
        rows = self._db.read("SELECT secret FROM webhook_secret WHERE owner = ?", (owner,))
        if rows:
            return str(rows[0]["secret"])
        fresh = "whsec_" + base64.b64encode(secrets.token_bytes(SECRET_BYTES)).decode()

        def body(tx: Tx) -> str:
            tx.run("INSERT INTO webhook_secret (owner, secret) VALUES (?, ?) ON CONFLICT DO NOTHING", (owner, fresh))
            row = tx.one("SELECT secret FROM webhook_secret WHERE owner = ?", (owner,))
            return fresh if row is None else str(row["secret"])

        return self._db.write(body)

    def _end(self, message_id: str, status: int | None, note: str) -> None:
        sql = (
            "UPDATE outbox SET next_at = NULL, ended_at = ?, attempts = attempts + 1, status = ?, note = ?"
            " WHERE id = ? AND ended_at IS NULL"
        )
        self._db.write(lambda tx: tx.run(sql, (tx.now(), status, note, message_id)))
