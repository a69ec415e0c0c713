"""Registered adapters: what they are called, where their files are, and which tenants may use them."""

from __future__ import annotations

import builtins
import secrets
from collections.abc import Sequence
from dataclasses import dataclass

from zoetrope.model.request.loras import ADAPTERS
from zoetrope.model.runtime.errors import Picklable
from zoetrope.serving.jobs.db.database import Database, Tx
from zoetrope.serving.jobs.db.records import columns, from_row, insert, to_values


@dataclass(frozen=True)
class Adapter:
    """One row. Times are seconds since the epoch (UTC).

    Attributes:
        id: of this registration; another one of the same name gets another.
        model: whose requests may name it. tenants: that may use it; None: all.
        sha256, size_bytes: of the stored file. rank: of a slot that it needs.
    """

    id: str
    name: str
    model: str
    tenants: tuple[str, ...] | None
    sha256: str
    size_bytes: int
    rank: int
    created_at: float

    @property
    def key(self) -> str:
        """The key of its file in the service's storage."""
        return file_key(self.id)

    def granted_to(self, owner: str) -> bool:
        """Tell whether a tenant may use it."""
        return self.tenants is None or owner in self.tenants


class AdapterExists(Picklable):
    """The model has an adapter of this name."""

    def __init__(self, name: str, model: str) -> None:
        super().__init__(f"{name!r} is registered for {model}; remove that one first, or choose another name")


class AdapterTable:
    """Registered adapters. Every method may raise StoreError."""

    def __init__(self, database: Database) -> None:
        self._db = database

    def add(
        self,
        name: str,
        model: str,
        tenants: Sequence[str] | None,
        *,
        adapter_id: str,
        sha256: str,
        size_bytes: int,
        rank: int,
    ) -> Adapter:
        """Register an adapter whose file is stored under `file_key`.

        Raises:
            AdapterExists.
        """
        granted = None if tenants is None else tuple(dict.fromkeys(tenants))

        def body(tx: Tx) -> Adapter:
            made = Adapter(adapter_id, name, model, granted, sha256, size_bytes, rank, tx.now())
            if tx.run(_INSERT, tuple(to_values(made).values())) == 0:
                raise AdapterExists(name, model)
            return made

        return self._db.write(body)

    def list(self, model: str | None = None) -> builtins.list[Adapter]:
        """Return all adapters, or those of a model, by name."""
        where, values = ("", ()) if model is None else (" WHERE model = ?", (model,))
        return [from_row(Adapter, row) for row in self._db.read(f"SELECT * FROM adapter{where} ORDER BY name", values)]

    def granted(self, model: str, owner: str) -> builtins.list[Adapter]:
        """Return the adapters of a model that a tenant may use, by name."""
        return [adapter for adapter in self.list(model) if adapter.granted_to(owner)]

    def there(self, ids: Sequence[str]) -> set[str]:
        """Return which of these are still registered."""
        among, value = self._db.among("id", ids)
        return {row["id"] for row in self._db.read(f"SELECT id FROM adapter WHERE {among}", (value,))} if ids else set()

    def remove(self, name: str, model: str) -> Adapter | None:
        """Remove an adapter; its file is the caller's to delete. Returns it as it was; None if there is none."""

        def body(tx: Tx) -> Adapter | None:
            row = tx.one("SELECT * FROM adapter WHERE name = ? AND model = ?", (name, model))
            if row is not None:
                tx.run("DELETE FROM adapter WHERE id = ?", (row["id"],))
            return None if row is None else from_row(Adapter, row)

        return self._db.write(body)


def new_adapter_id() -> str:
    """Return an id that no other registration has."""
    return f"lora_{secrets.token_hex(8)}"


def file_key(adapter_id: str) -> str:
    """Return the key of an adapter's file in the service's storage."""
    return f"{ADAPTERS}/{adapter_id}.safetensors"


def id_of(key: str) -> str:
    """Invert `file_key`."""
    return key.removeprefix(f"{ADAPTERS}/").removesuffix(".safetensors")


_INSERT = insert("adapter", columns(Adapter)) + " ON CONFLICT (model, name) DO NOTHING"
