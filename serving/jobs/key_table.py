"""API keys: who may call, and how much. A key's secret is stored only as a hash."""

from __future__ import annotations

import builtins
import hashlib
import json
import secrets
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from serving.jobs.database import Database, Row
from serving.jobs.job import PRIORITIES

PREFIX = "zk_"
SECRET_BYTES = 32
RESERVED = "#"  # of tenants under which the service keeps secrets of its own


@dataclass(frozen=True)
class KeyLimits:
    """What one key may do; None: no limit."""

    requests_per_second: float | None = None  # how fast the bucket fills
    burst: int = 20  # how much the bucket holds
    concurrent_jobs: int | None = None  # that have not ended
    queued_seconds: float | None = None  # of clips whose jobs have not ended
    models: tuple[str, ...] | None = None
    max_priority: int = PRIORITIES[-1]
    result_bytes: int | None = None  # that its tenant may keep before it makes no more; None: as the settings say

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
    owner: str  # the tenant whose jobs it makes and sees
    created_at: float
    revoked_at: float | None
    limits: KeyLimits


class KeyTable:
    """API keys. Every method may raise StoreError."""

    def __init__(self, database: Database) -> None:
        self._db = database

    def create(self, name: str, owner: str, limits: KeyLimits | None = None) -> tuple[ApiKey, str]:
        """Make a key; its secret is shown this once. It has 256 random bits, so that a plain hash of it is safe.

        Raises:
            ValueError: the tenant's name is one of the service's own (`RESERVED`).
        """
        if owner.startswith(RESERVED):
            raise ValueError(f"tenant {owner!r}: names that begin with {RESERVED!r} are the service's own")
        secret = PREFIX + secrets.token_urlsafe(SECRET_BYTES)
        key_id, text = f"key_{secrets.token_hex(8)}", json.dumps(asdict(limits or KeyLimits()))
        row = self._db.write(
            lambda tx: tx.all(
                "INSERT INTO api_key (id, name, owner, hash, limits, created_at) VALUES (?, ?, ?, ?, ?, ?) RETURNING *",
                (key_id, name, owner, _hash(secret), text, tx.now()),
            )[0]
        )
        return _key(row), secret

    def find(self, secret: str) -> ApiKey | None:
        """The key of a secret; None for one that is unknown or revoked."""
        rows = self._db.read("SELECT * FROM api_key WHERE hash = ? AND revoked_at IS NULL", (_hash(secret),))
        return _key(rows[0]) if rows else None

    def list(self) -> builtins.list[ApiKey]:
        """All keys, revoked ones as well, oldest first."""
        return [_key(row) for row in self._db.read("SELECT * FROM api_key ORDER BY created_at, id")]

    def revoke(self, key_id: str) -> bool:
        """End a key for good. False where there is no such key, or it was revoked before."""
        sql = "UPDATE api_key SET revoked_at = ? WHERE id = ? AND revoked_at IS NULL"
        return self._db.write(lambda tx: tx.run(sql, (tx.now(), key_id))) == 1

    def revoked(self, key_ids: Sequence[str]) -> builtins.list[str]:
        """Which of some keys are no longer good."""
        if not key_ids:
            return []
        marks = ", ".join("?" * len(key_ids))
        sql = f"SELECT id FROM api_key WHERE id IN ({marks}) AND revoked_at IS NOT NULL"
        return [row["id"] for row in self._db.read(sql, tuple(key_ids))]

    def ever(self) -> bool:
        """Whether there was ever a key: what asked for keys once does not fall open when the last one is revoked."""
        return bool(self._db.read("SELECT id FROM api_key LIMIT 1"))

    def any(self) -> bool:
        """Whether there is a key that is not revoked."""
        return bool(self._db.read("SELECT id FROM api_key WHERE revoked_at IS NULL LIMIT 1"))


def _hash(secret: str) -> str:
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()


def _key(row: Row) -> ApiKey:
    limits = json.loads(row["limits"])
    models = None if limits["models"] is None else tuple(limits["models"])
    return ApiKey(
        id=row["id"],
        name=row["name"],
        owner=row["owner"],
        created_at=row["created_at"],
        revoked_at=row["revoked_at"],
        limits=KeyLimits(**{**limits, "models": models}),
    )
