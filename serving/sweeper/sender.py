"""Send the messages in the outbox."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from opentelemetry.trace import SpanKind

from zoetrope.cluster.telemetry.metrics import WEBHOOK_DELAY_SECONDS, WEBHOOKS
from zoetrope.cluster.telemetry.traces import JOB, failed, span, traceparent
from zoetrope.serving.gateway.http.common.signing import open_signer
from zoetrope.serving.jobs.db.errors import StoreError
from zoetrope.serving.jobs.open import Stores
from zoetrope.serving.jobs.outbox import Delivery, Lane, OutboxTraffic
from zoetrope.serving.outbound import Guard
from zoetrope.serving.outbound.webhooks import TIMEOUT_SECONDS, DeliveryOutcome, deliver, next_delay
from zoetrope.serving.sweeper.webhook_bodies import body_of

AT_ONCE = 64  # deliveries at a time
TENANT_AT_ONCE = 8  # of one tenant's
HOST_AT_ONCE = 16  # to one host
LANE_AT_ONCE = 4  # of one tenant's to one host
# How long a lane rests after one, two, ... deliveries in a row without an answer; then one is tried.
RESTS = (5.0, 15.0, 60.0, 300.0)
FORGET_SECONDS = 3_600.0  # after a rest, until the lane counts as new
LEASE_SECONDS = TIMEOUT_SECONDS + 30.0  # after which another sender may claim a message
log = logging.getLogger("zoetrope.sweeper")


@dataclass
class Silence:
    """A lane on which nobody answers."""

    times: int
    until: float


class Sender:
    """One of possibly several senders. No tenant and no host takes all of its time, not even one that never answers. A
    message may arrive twice if a sender dies after sending it; receivers can tell by its id."""

    def __init__(
        self, stores: Stores, guard: Guard, base_url: str, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._stores = stores
        self._guard = guard
        self._base_url = base_url
        self._random = random.Random()
        self._clock = clock
        self._under_way: set[asyncio.Task[None]] = set()
        self._lanes = Counter[Lane]()
        self._silent: dict[Lane, Silence] = {}

    async def send_due(self) -> int:
        """Start sending what is due, as far as there is room; return how many messages."""
        room = AT_ONCE - len(self._under_way)
        if room <= 0:
            return 0
        due = await asyncio.to_thread(self._stores.outbox.due, room, LEASE_SECONDS, self._traffic())
        for delivery in due:
            self._lanes[delivery.owner, delivery.host] += 1
            task = asyncio.create_task(self._send(delivery))
            self._under_way.add(task)
            task.add_done_callback(self._under_way.discard)
        return len(due)

    async def drain(self) -> None:
        """Wait for the deliveries in flight."""
        await asyncio.gather(*self._under_way, return_exceptions=True)

    def _traffic(self) -> OutboxTraffic:
        now = self._clock()
        for lane in [lane for lane, silence in self._silent.items() if silence.until + FORGET_SECONDS < now]:
            del self._silent[lane]
        lanes = {lane: 0 if silence.until > now else 1 for lane, silence in self._silent.items()}
        return OutboxTraffic(dict(self._lanes), LANE_AT_ONCE, TENANT_AT_ONCE, HOST_AT_ONCE, lanes)

    def _heard(self, lane: Lane, answered: bool) -> None:
        """Record whether there was an answer; deliveries sent before a rest count once."""
        if answered:
            self._silent.pop(lane, None)
            return
        now, known = self._clock(), self._silent.get(lane)
        if known is None or known.until <= now:
            times = 1 if known is None else known.times + 1
            self._silent[lane] = Silence(times, now + RESTS[min(times, len(RESTS)) - 1])

    async def _send(self, delivery: Delivery) -> None:
        lane = delivery.owner, delivery.host
        try:
            await self._try(delivery)
        except StoreError as error:
            log.warning("message %s: %s; it is sent again when its lease runs out", delivery.id, error)
        except Exception:
            log.exception("message %s could not be sent", delivery.id)
        finally:
            self._lanes[lane] -= 1
            if not self._lanes[lane]:
                del self._lanes[lane]

    async def _try(self, delivery: Delivery) -> None:
        outbox = self._stores.outbox
        job = (await asyncio.to_thread(self._stores.jobs.get_many, [delivery.job_id])).get(delivery.job_id)
        if delivery.body is None:
            signer = await asyncio.to_thread(open_signer, outbox)
            text = body_of(delivery, job, self._base_url, signer)
            text = await asyncio.to_thread(outbox.set_body, delivery.id, text)
            delivery = Delivery(**{**delivery.__dict__, "body": text})
        secret = await asyncio.to_thread(outbox.secret, delivery.owner)
        outcome = await self._deliver(delivery, secret, "" if job is None else job.traceparent or "")
        self._heard((delivery.owner, delivery.host), outcome.status is not None or outcome.kind != "retry")
        if outcome.kind == "delivered":
            WEBHOOKS.labels("delivered").inc()
            WEBHOOK_DELAY_SECONDS.observe(max(0.0, time.time() - delivery.created_at))
            await asyncio.to_thread(outbox.delivered, delivery.id, outcome.status or 200)
            return
        now = time.time()
        delay = next_delay(outcome, delivery.attempts + 1, now - delivery.created_at, self._random)
        WEBHOOKS.labels("given_up" if delay is None else "retried").inc()
        if delay is None:
            log.warning("message %s is given up: %s", delivery.id, outcome.note)
            await asyncio.to_thread(outbox.give_up, delivery.id, outcome.note)
        else:
            await asyncio.to_thread(outbox.retry, delivery.id, now + delay, outcome.note)

    async def _deliver(self, delivery: Delivery, secret: str, parent: str) -> DeliveryOutcome:
        """Send it once, as a span of its job's trace."""
        if not parent:
            return await deliver(self._guard, delivery, secret)
        about: dict[str, str | int] = {
            JOB: delivery.job_id,
            "zoetrope.event": delivery.event,
            "zoetrope.attempt": delivery.attempts + 1,
        }
        with span("webhook", parent, SpanKind.CLIENT, about) as made:
            outcome = await deliver(self._guard, delivery, secret, traceparent=traceparent(made))
            if outcome.status is not None:
                made.set_attribute("http.response.status_code", outcome.status)
            if outcome.kind != "delivered":
                failed(made, str(outcome.status or "no answer"))
            return outcome
