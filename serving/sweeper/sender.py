"""Sends what waits in the outbox."""

from __future__ import annotations

import asyncio
import logging
import random
import time

from serving.jobs.errors import StoreError
from serving.jobs.open import Stores
from serving.jobs.outbox import Delivery
from serving.net import Guard
from serving.sweeper.bodies import body_of
from serving.webhooks import TIMEOUT_SECONDS, deliver, next_delay

AT_ONCE = 32  # deliveries at a time
LEASE_SECONDS = TIMEOUT_SECONDS + 30.0  # after which another sender takes a message up
log = logging.getLogger("zoetrope.sweeper")


class Sender:
    """One of maybe several. A message may arrive twice, when a sender died after it sent one; its id tells."""

    def __init__(self, stores: Stores, guard: Guard, base_url: str) -> None:
        self._stores = stores
        self._guard = guard
        self._base_url = base_url
        self._random = random.Random()
        self._under_way: set[asyncio.Task[None]] = set()

    async def send_due(self) -> int:
        """Start sending what is due, as far as there is room; returns how many messages."""
        room = AT_ONCE - len(self._under_way)
        if room <= 0:
            return 0
        due = await asyncio.to_thread(self._stores.outbox.due, room, LEASE_SECONDS)
        for delivery in due:
            task = asyncio.create_task(self._send(delivery))
            self._under_way.add(task)
            task.add_done_callback(self._under_way.discard)
        return len(due)

    async def drain(self) -> None:
        """Wait for what is under way."""
        await asyncio.gather(*self._under_way, return_exceptions=True)

    async def _send(self, delivery: Delivery) -> None:
        try:
            await self._try(delivery)
        except StoreError as error:
            log.warning("message %s: %s; it is sent again when its lease is over", delivery.id, error)
        except Exception:
            log.exception("message %s could not be sent", delivery.id)

    async def _try(self, delivery: Delivery) -> None:
        outbox = self._stores.outbox
        if delivery.body is None:
            job = (await asyncio.to_thread(self._stores.jobs.get_many, [delivery.job_id])).get(delivery.job_id)
            text = body_of(delivery, job, self._base_url)
            text = await asyncio.to_thread(outbox.set_body, delivery.id, text)
            delivery = Delivery(**{**delivery.__dict__, "body": text})
        secret = await asyncio.to_thread(outbox.secret, delivery.owner)
        outcome = await deliver(self._guard, delivery, secret)
        if outcome.kind == "delivered":
            await asyncio.to_thread(outbox.delivered, delivery.id, outcome.status or 200)
            return
        now = time.time()
        delay = next_delay(outcome, delivery.attempts + 1, now - delivery.created_at, self._random)
        if delay is None:
            log.warning("message %s is given up: %s", delivery.id, outcome.note)
            await asyncio.to_thread(outbox.give_up, delivery.id, outcome.note)
        else:
            await asyncio.to_thread(outbox.retry, delivery.id, now + delay, outcome.note)
