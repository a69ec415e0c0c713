"""API keys and their limits. Only a hash of a key's secret is stored."""

from __future__ import annotations

import builtins
import hashlib
import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, replace

from zoetrope.serving.jobs.db.database import Database, Tx
from zoetrope.serving.jobs.db.records import columns, from_row, insert, to_values
from zoetrope.serving.jobs.job import PRIORITIES

PREFIX = "zk_"
SECRET_BYTES = 32
SECRET = re.compile(rf"{PREFIX}[A-Za-z0-9_-]{{32,200}}")
RESERVED = "#"  # prefix of tenants under which the service keeps its own secrets


@dataclass(frozen=True)
class KeyLimits:
    """The limits of a key; None: no limit."""

    requests_per_second: float | None = None  # rate at which the bucket fills
    burst: int = 20  # capacity of the bucket
    concurrent_jobs: int | None = None  # unfinished
    queued_seconds: float | None = None  # of clips in unfinished jobs
    models: tuple[str, ...] | None = None
    max_priority: int = PRIORITIES[-1]
    result_bytes: int | None = None  # of results that its tenant may keep; None: as the settings say

    def __post_init__(self) -> None:
        for name in ("requests_per_second", "concurrent_jobs", "queued_seconds", "result_bytes"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ValueError(f"{name} is {value}, must be above 0")
        if self.burst < 1:
            raise ValueError(f"burst is {self.burst}, must be at least 1")
        if self.max_priority not in PRIORITIES:
            raise ValueError(f"max_priority is {self.max_priority}, must be from 0 to {PRIORITIES[-1]}")


@dataclass(frozen=True)
class ApiKey:
    """One row. Times are seconds since the epoch (UTC)."""

    id: str
    name: str
    owner: str  # the tenant whose jobs it creates and sees
    created_at: float
    revoked_at: float | None
    limits: KeyLimits


class KeyTable:
    """API keys. Every method may raise StoreError."""

    def __init__(self, database: Database) -> None:
        self._db = database

    def create(self, name: str, owner: str, limits: KeyLimits | None = None) -> tuple[ApiKey, str]:
        """Create a key. Its secret is shown only once; it has 256 random bits, so that a plain hash of it is safe.

        Raises:
            ValueError: the tenant's name is reserved for the service (`RESERVED`).
        """
        if owner.startswith(RESERVED):
            raise ValueError(f"tenant {owner!r}: names that begin with {RESERVED!r} are the service's own")
        secret = PREFIX + secrets.token_urlsafe(SECRET_BYTES)
        key = _new_key(name, owner, limits or KeyLimits())
        return self._db.write(lambda tx: _store(tx, key, secret)), secret

    def create_first(self, name: str, owner: str, secret: str) -> ApiKey | None:
        """Create a key with a secret that was chosen elsewhere, if there has never been a key; else return None. So a
        key that was revoked, or replaced by others, does not come back.

        Raises:
            ValueError: the secret does not have the form of `SECRET`; the message does not contain it.
        """
        if not SECRET.fullmatch(secret):
            raise ValueError(f"the secret must be {PREFIX} and 32 to 200 letters, digits, - and _")
        key = _new_key(name, owner, KeyLimits())

        def body(tx: Tx) -> ApiKey | None:
            return None if tx.one("SELECT id FROM api_key LIMIT 1") else _store(tx, key, secret)

        return self._db.write(body, lock="first key")

    def find(self, secret: str) -> ApiKey | None:
        """Return the key of a secret; None if it is unknown or revoked."""
        rows = self._db.read("SELECT * FROM api_key WHERE hash = ? AND revoked_at IS NULL", (_hash(secret),))
        return from_row(ApiKey, rows[0]) if rows else None

    def list(self) -> builtins.list[ApiKey]:
        """Return all keys, including revoked ones, oldest first."""
        return [from_row(ApiKey, row) for row in self._db.read("SELECT * FROM api_key ORDER BY created_at, id")]

    def revoke(self, key_id: str) -> bool:
        """Revoke a key for good. Returns False if there is no such key, or it was revoked before."""
        sql = "UPDATE api_key SET revoked_at = ? WHERE id = ? AND revoked_at IS NULL"
        return self._db.write(lambda tx: tx.run(sql, (tx.now(), key_id))) == 1

    def revoked(self, key_ids: Sequence[str]) -> builtins.list[str]:
        """Return which of these keys are revoked."""
        if not key_ids:
            return []
        marks = ", ".join("?" * len(key_ids))
        sql = f"SELECT id FROM api_key WHERE id IN ({marks}) AND revoked_at IS NOT NULL"
        return [row["id"] for row in self._db.read(sql, tuple(key_ids))]

    def ever(self) -> bool:
        """Return whether there has ever been a key: a service that required keys does not open up when the last one is
        revoked."""
        return bool(self._db.read("SELECT id FROM api_key LIMIT 1"))

    def any(self) -> bool:
        """Return whether there is a key that is not revoked."""
        return bool(self._db.read("SELECT id FROM api_key WHERE revoked_at IS NULL LIMIT 1"))


def _new_key(name: str, owner: str, limits: KeyLimits) -> ApiKey:
    return ApiKey(f"key_{secrets.token_hex(8)}", name, owner, 0.0, None, limits)


def _store(tx: Tx, key: ApiKey, secret: str) -> ApiKey:
    made = replace(key, created_at=tx.now())
    tx.run(insert("api_key", (*columns(ApiKey), "hash")), (*to_values(made).values(), _hash(secret)))
    return made


def _hash(secret: str) -> str:
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()
