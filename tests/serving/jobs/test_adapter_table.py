"""Registered adapters on each database."""

from __future__ import annotations

import pytest

from tests.serving.jobs.harness import Clock
from zoetrope.serving.jobs.adapter_table import AdapterExists, file_key, id_of, new_adapter_id
from zoetrope.serving.jobs.open import Stores


def add(stores: Stores, name: str, tenants: tuple[str, ...] | None, model: str = "nano") -> str:
    found = stores.adapters.add(
        name, model, tenants, adapter_id=new_adapter_id(), sha256="ab" * 32, size_bytes=1 << 33, rank=32
    )
    return found.id


def test_tenants_see_what_was_granted_to_them(stores: Stores, clock: Clock) -> None:
    ink = add(stores, "ink", ("studio", "lab", "studio"))
    add(stores, "common", None)
    add(stores, "nobody", ())
    add(stores, "ink", None, model="other")
    assert [a.name for a in stores.adapters.granted("nano", "studio")] == ["common", "ink"]
    assert [a.name for a in stores.adapters.granted("nano", "guest")] == ["common"]
    assert [a.name for a in stores.adapters.granted("nano", "")] == ["common"]
    assert len(stores.adapters.list()) == 4
    found = stores.adapters.granted("nano", "lab")[1]
    assert (found.id, found.tenants, found.sha256, found.rank) == (ink, ("studio", "lab"), "ab" * 32, 32)
    assert (found.size_bytes, found.created_at, found.key) == (1 << 33, clock.now, file_key(ink))
    assert id_of(found.key) == ink


def test_a_name_is_taken_once_in_a_model_until_it_is_removed(stores: Stores) -> None:
    first = add(stores, "ink", ("studio",))
    with pytest.raises(AdapterExists, match="'ink' is registered for nano; remove that one first"):
        add(stores, "ink", None)
    assert [a.id for a in stores.adapters.list("nano")] == [first]
    assert stores.adapters.there([first, "lora_unknown"]) == {first}
    removed = stores.adapters.remove("ink", "nano")
    assert removed is not None and removed.id == first
    assert stores.adapters.remove("ink", "nano") is None
    assert stores.adapters.there([first]) == set() and stores.adapters.there([]) == set()
    assert add(stores, "ink", None) != first
