"""Looks up the adapters that a request names."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from zoetrope.model.request.loras import AdapterUse
from zoetrope.model.request.schema_errors import short
from zoetrope.model.request.tasks import InvalidRequest, RequestLora, Violation
from zoetrope.model.runtime.errors import Picklable
from zoetrope.serving.config.settings import Settings
from zoetrope.serving.jobs.adapter_table import Adapter, AdapterTable

MAX_NAMED = 10  # names in a message


class UnknownAdapter(Picklable):
    """The request names an adapter that is not registered for the model, or not granted to the caller's tenant."""

    def __init__(self, number: int, name: str, granted: Sequence[str]) -> None:
        more = f" and {len(granted) - MAX_NAMED} more" if len(granted) > MAX_NAMED else ""
        there = f"registered: {', '.join(granted[:MAX_NAMED])}{more}" if granted else "none is registered"
        self.violation = Violation(f"loras.{number}.name", f"{short(name)} is not a known adapter; {there}")
        super().__init__(f"{self.violation.field}: {self.violation.description}")


async def find_adapters(
    table: AdapterTable, settings: Settings, model: str, loras: Sequence[RequestLora], owner: str
) -> tuple[AdapterUse, ...]:
    """Return what a tenant's adapters are, in the order in which the request names them.

    Raises:
        UnknownAdapter.
        InvalidRequest: one is named twice, they do not fit into a slot together, or there are no slots.
        StoreError: the database does not answer.
    """
    if not loras:
        return ()
    granted = {adapter.name: adapter for adapter in await asyncio.to_thread(table.granted, model, owner)}
    found: list[Adapter] = []
    for number, lora in enumerate(loras):
        if lora.name not in granted:
            raise UnknownAdapter(number, lora.name, sorted(granted))
        found.append(granted[lora.name])
        if found.index(granted[lora.name]) != number:
            raise InvalidRequest(Violation(f"loras.{number}.name", f"{short(lora.name)} is named twice"))
    if (problem := slot_problem([adapter.rank for adapter in found], settings)) is not None:
        raise InvalidRequest(Violation("loras", problem))
    return tuple(
        AdapterUse(adapter.name, adapter.key, adapter.sha256, adapter.rank, lora.strength, lora.strength_low)
        for adapter, lora in zip(found, loras, strict=True)
    )


def slot_problem(ranks: Sequence[int], settings: Settings) -> str | None:
    """Return why adapters of these ranks cannot be applied to a request together; None if they can."""
    if not settings.adapter_slots:
        return "cannot be applied: this service has no adapter slots (ZOETROPE_ADAPTER_SLOTS is 0)"
    most = int(settings.adapter_rank)
    if sum(ranks) > most:
        together = " + ".join(map(str, ranks))
        return f"have rank {together}, at most {most} together is allowed here (ZOETROPE_ADAPTER_RANK)"
    return None
