"""Webhooks: the signature that receivers check, the plan of retries, and deliveries to a real server."""

from __future__ import annotations

import base64
import random
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import format_datetime

import pytest
import standardwebhooks
from hypothesis import given
from hypothesis import strategies as st
from replicate.webhook import InvalidSignatureError, Webhooks, WebhookSigningSecret

from tests.serving.outbound.receiver import Answer, receiving
from zoetrope.serving.outbound import Guard
from zoetrope.serving.outbound.webhooks import (
    BACKOFF_SECONDS,
    DeliveryOutcome,
    backoff_seconds,
    deliver,
    judge,
    next_delay,
    sign,
)

SECRET = "whsec_" + "c2l4dGVlbiBieXRlcyBrZXkgb2Ygb3Vycyw="
BODY = '{"id": "abc", "prompt": "ein Kätzchen 🐈"}'


@dataclass(frozen=True)
class Message:
    url: str
    id: str = "msg_1"
    body: str | None = BODY


@dataclass
class Receiver:
    """Answers with the statuses in turn, and keeps what came."""

    statuses: list[int] = field(default_factory=lambda: [200])
    headers: dict[str, str] = field(default_factory=dict)
    received: list[tuple[dict[str, str], str]] = field(default_factory=list)
    url: str = ""


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    receiver = Receiver()

    def answer(headers: dict[str, str], body: bytes) -> Answer:
        receiver.received.append((headers, body.decode()))
        return Answer(receiver.statuses.pop(0), b"said the receiver", receiver.headers)

    with receiving(answer) as receiver.url:
        yield receiver


OPEN = Guard(allow=("127.0.0.0/8",))


async def test_receivers_accept_what_is_delivered(receiver: Receiver) -> None:
    outcome = await deliver(OPEN, Message(receiver.url), SECRET)
    assert outcome == DeliveryOutcome("delivered", 200, "")
    [(headers, body)] = receiver.received
    assert body == BODY and headers["content-type"] == "application/json" and headers["webhook-id"] == "msg_1"
    Webhooks.validate(headers=headers, body=body, secret=WebhookSigningSecret(key=SECRET), tolerance=60)
    standardwebhooks.Webhook(SECRET).verify(body, headers)
    with pytest.raises(InvalidSignatureError):
        Webhooks.validate(headers=headers, body=body + " ", secret=WebhookSigningSecret(key=SECRET))
    with pytest.raises(InvalidSignatureError):
        Webhooks.validate(headers=headers | {"webhook-id": "msg_2"}, body=body, secret=WebhookSigningSecret(key=SECRET))


def test_the_signature_is_the_one_of_the_specification() -> None:
    """The example of the specification's own tests."""
    secret, msg_id = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "msg_p5jXN8AQM9LWM0D4loKWxJek"
    assert sign(secret, msg_id, 1614265330, b'{"test": 2432232314}') == {
        "webhook-id": msg_id,
        "webhook-timestamp": "1614265330",
        "webhook-signature": "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
    }


@given(body=st.text(), key=st.binary(min_size=24, max_size=32))
def test_any_text_can_be_signed(body: str, key: bytes) -> None:
    secret = "whsec_" + base64.b64encode(key).decode()
    headers = sign(secret, "msg_1", int(time.time()), body.encode())
    if body:
        Webhooks.validate(headers=headers, body=body, secret=WebhookSigningSecret(key=secret))
    standardwebhooks.Webhook(secret).verify(body, headers, json_parse=False)


@pytest.mark.parametrize(
    "status, kind", [(200, "delivered"), (204, "delivered"), (299, "delivered"), (410, "stop"), (301, "retry"),
                     (400, "retry"), (404, "retry"), (429, "retry"), (500, "retry"), (503, "retry")]
)  # fmt: skip
def test_what_a_status_means(status: int, kind: str) -> None:
    assert judge(status, {}, "text", 0.0).kind == kind


async def test_answers_that_are_no_success(receiver: Receiver) -> None:
    receiver.statuses = [410, 500, 307]
    receiver.headers = {"location": "/elsewhere"}
    outcomes = [await deliver(OPEN, Message(receiver.url), SECRET) for _ in range(3)]
    assert [outcome.kind for outcome in outcomes] == ["stop", "retry", "retry"]
    assert outcomes[1].note == "answered 500: said the receiver"
    assert outcomes[2].note == "answered 307: redirects are not followed"
    assert len(receiver.received) == 3


async def test_addresses_inside_are_never_asked_and_absent_ones_again(receiver: Receiver) -> None:
    refused = await deliver(Guard(), Message(receiver.url), SECRET)
    assert (refused.kind, refused.status) == ("stop", None) and "not public" in refused.note
    away = await deliver(OPEN, Message("http://127.0.0.1:9999/"), SECRET)
    assert (away.kind, away.status) == ("retry", None)
    assert receiver.received == []
    with pytest.raises(ValueError, match="msg_1 has no body"):
        await deliver(OPEN, Message(receiver.url, body=None), SECRET)


@pytest.mark.parametrize(
    "status, value, seconds",
    [
        (503, "120", 120.0),
        (429, "0", 0.0),
        (503, "86400", 3_600.0),
        (503, "9" * 400, 3_600.0),
        (429, format_datetime(datetime.fromtimestamp(1_000_090, UTC), usegmt=True), 90.0),
        (429, format_datetime(datetime.fromtimestamp(999_000, UTC), usegmt=True), 0.0),
        (503, "soon", None),
        (503, "-5", None),
        (503, "", None),
        (500, "120", None),
    ],
)
def test_a_wish_for_time_counts_up_to_an_hour(status: int, value: str, seconds: float | None) -> None:
    assert judge(status, {"retry-after": value}, "", 1_000_000.0).retry_after_seconds == seconds


@given(seed=st.integers(0, 2**32))
def test_the_plan_of_retries_grows_and_ends_within_a_day(seed: int) -> None:
    rng = random.Random(seed)
    age, delays = 0.0, []
    for attempt in range(1, 100):
        delay = next_delay(DeliveryOutcome("retry", 500, ""), attempt, age, rng)
        if delay is None:
            break
        delays.append(delay)
        age += delay + 20.0  # an attempt takes up to its timeout
    assert len(delays) == len(BACKOFF_SECONDS) and sorted(delays) == delays
    assert delays[0] < 6 and 12 * 3_600 < sum(delays) <= 24 * 3_600


def test_a_plan_counts_wishes_and_ends() -> None:
    rng = random.Random(0)
    wish = DeliveryOutcome("retry", 503, "", retry_after_seconds=3_000.0)
    assert next_delay(wish, 1, 0.0, rng) == 3_000.0
    assert (next_delay(wish, 10, 0.0, rng) or 0) > 20_000  # never earlier than planned
    assert next_delay(wish, 1, 24 * 3_600.0, rng) is None
    assert next_delay(DeliveryOutcome("stop", 410, ""), 1, 0.0, rng) is None
    assert next_delay(DeliveryOutcome("delivered", 200, ""), 1, 0.0, rng) is None
    assert backoff_seconds(len(BACKOFF_SECONDS) + 1, rng) is None
