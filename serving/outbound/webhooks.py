"""Standard Webhooks: the signature, one delivery, and what to do after it.

Other modules hold the bodies and the outbox; nothing here keeps state.
"""

from __future__ import annotations

import random
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Literal, Protocol

from standardwebhooks import Webhook

from zoetrope.serving.outbound import FetchFailed, FetchRefused, Guard

TIMEOUT_SECONDS = 20.0
# Before the second try, the third, ...; including jitter they end within a day.
BACKOFF_SECONDS = (5, 30, 120, 600, 1_800, 3_600, 7_200, 14_400, 21_600, 28_800)
JITTER = 0.1  # of a delay, more or less
GIVE_UP_SECONDS = 24 * 3_600.0
MAX_RETRY_AFTER_SECONDS = 3_600.0
GONE = 410
ASKS_FOR_TIME = (429, 503)  # whose Retry-After counts


class Message(Protocol):
    """A message to deliver; `serving.jobs.outbox` has the rows."""

    @property
    def id(self) -> str: ...
    @property
    def url(self) -> str: ...
    @property
    def body(self) -> str | None: ...


@dataclass(frozen=True)
class DeliveryOutcome:
    """The outcome of one delivery."""

    kind: Literal["delivered", "retry", "stop"]  # stop: never try this message again
    status: int | None  # of the answer; None: there was none
    note: str  # one line, which the client may see
    retry_after_seconds: float | None = None  # as the receiver asks, at most MAX_RETRY_AFTER_SECONDS


def sign(secret: str, msg_id: str, timestamp: int, body: bytes) -> dict[str, str]:
    """Return the three headers of Standard Webhooks.

    Args:
        secret: "whsec_" and base64.
        timestamp: of this delivery, in seconds since the epoch.
        body: UTF-8.
    """
    signature = Webhook(secret).sign(msg_id, datetime.fromtimestamp(timestamp, UTC), body.decode())
    return {"webhook-id": msg_id, "webhook-timestamp": str(timestamp), "webhook-signature": signature}


def backoff_seconds(attempt: int, rng: random.Random) -> float | None:
    """Return how long to wait after ``attempt`` failed tries (1 or more); None: give up."""
    if attempt > len(BACKOFF_SECONDS):
        return None
    return BACKOFF_SECONDS[attempt - 1] * rng.uniform(1 - JITTER, 1 + JITTER)


def next_delay(outcome: DeliveryOutcome, attempt: int, age_seconds: float, rng: random.Random) -> float | None:
    """Return the seconds until the next try of a message; None: there is none.

    Args:
        attempt: tries so far, including the one with this outcome.
        age_seconds: since the message was created, or replayed.
    """
    if outcome.kind != "retry":
        return None
    delay = backoff_seconds(attempt, rng)
    if delay is None:
        return None
    delay = max(delay, outcome.retry_after_seconds or 0.0)
    return delay if age_seconds + delay <= GIVE_UP_SECONDS else None


def judge(status: int, headers: Mapping[str, str], note: str, now: float) -> DeliveryOutcome:
    """Interpret an answer: 2xx is delivered, 410 stops, everything else (including redirects) is retried.

    Args:
        headers: names in lower case.
        now: seconds since the epoch.
    """
    if 200 <= status < 300:
        return DeliveryOutcome("delivered", status, "")
    if status == GONE:
        return DeliveryOutcome("stop", status, "the receiver wants no more (410)")
    if 300 <= status < 400:
        note = "redirects are not followed"
    wish = _retry_after(headers.get("retry-after", ""), now) if status in ASKS_FOR_TIME else None
    return DeliveryOutcome("retry", status, f"answered {status}" + (f": {note}" if note else ""), wish)


async def deliver(
    guard: Guard, message: Message, secret: str, timeout_seconds: float = TIMEOUT_SECONDS, traceparent: str = ""
) -> DeliveryOutcome:
    """Send a message once, signed with the present time. Raises for nothing that the receiver can cause.

    Args:
        traceparent: sent along, so that the receiver can go on with the trace; "" for none.

    Raises:
        ValueError: the message has no body yet, or the secret is malformed.
    """
    if message.body is None:
        raise ValueError(f"message {message.id} has no body")
    body, now = message.body.encode(), time.time()
    headers = {"content-type": "application/json", **sign(secret, message.id, int(now), body)}
    if traceparent:
        headers["traceparent"] = traceparent
    try:
        answer = await guard.post(message.url, body, headers, timeout_seconds)
    except FetchRefused as error:
        return DeliveryOutcome("stop", None, str(error))
    except FetchFailed as error:
        return DeliveryOutcome("retry", None, str(error))
    return judge(answer.status, answer.headers, answer.note, now)


def _retry_after(value: str, now: float) -> float | None:
    """Parse a header that contains seconds or a date; return seconds from now."""
    value = value.strip()
    if value.isascii() and value.isdecimal():
        seconds = float(value[:10])
    else:
        try:
            date = parsedate_to_datetime(value)
        except ValueError:
            return None
        seconds = (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp() - now
    return min(max(seconds, 0.0), MAX_RETRY_AFTER_SECONDS)
