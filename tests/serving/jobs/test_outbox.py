"""The outbox on each database: which changes leave messages, and what becomes of those."""

from __future__ import annotations

import base64
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from serving.jobs.job import Job, State, Webhook, WebhookEvent
from serving.jobs.open import Stores, open_stores
from serving.jobs.outbox import SECRET_BYTES, Delivery
from tests.serving.jobs.harness import LIMITS, RESULT, Clock, claim, new_job

Create = Callable[..., Job]
URL = "https://example.com/hook"


def told(stores: Stores) -> list[tuple[str, str]]:
    return sorted((message.job_id, message.event) for message in stores.outbox.due(99, 0))


@pytest.mark.parametrize(
    ("events", "expected"),
    [
        ((), ["completed", "start"]),
        (("start", "output", "logs", "completed"), ["completed", "output", "start"]),
        (("output",), ["output"]),
        (("logs",), []),
    ],
)
def test_a_success_tells_what_was_asked_for(
    stores: Stores, create: Create, events: tuple[WebhookEvent, ...], expected: list[str]
) -> None:
    create("a", webhook=Webhook(URL, events))
    create("silent")
    assert told(stores) == []
    for job in claim(stores.jobs, 2):
        stores.jobs.finish(job.id, 1, State.SUCCEEDED, result=RESULT)
    assert [event for _, event in told(stores)] == expected
    assert {job_id for job_id, _ in told(stores)} <= {"a"}


def test_every_end_is_told_once(stores: Stores, create: Create, clock: Clock) -> None:
    hook = Webhook(URL, ("completed",))
    for job_id in ("cancelled", "overdue", "failed", "given up", "stopped", "late"):
        deadline = {"overdue": 1_050.0, "late": 1_050.0}.get(job_id)
        create(job_id, webhook=hook, deadline_at=deadline, priority=0 if job_id == "overdue" else 4)
    stores.jobs.request_cancel("cancelled", "")
    claim(stores.jobs, 4, max_attempts=1)  # all but the one of low priority
    stores.jobs.finish("failed", 1, State.FAILED, error_code="INTERNAL")
    stores.jobs.request_cancel("stopped", "")
    assert told(stores) == [("cancelled", "completed"), ("failed", "completed")]
    clock.now = 1_060.0
    assert claim(stores.jobs, 9, max_attempts=1) == []
    assert stores.jobs.fail_overdue() == 1
    expected = ["cancelled", "failed", "given up", "late", "overdue", "stopped"]
    assert told(stores) == [(job_id, "completed") for job_id in expected]
    assert claim(stores.jobs, 9) == [] and stores.jobs.fail_overdue() == 0
    assert len(told(stores)) == 6


def test_another_attempt_does_not_start_again(stores: Stores, create: Create, clock: Clock) -> None:
    create("a", webhook=Webhook(URL))
    claim(stores.jobs)
    clock.now += 10
    assert claim(stores.jobs)[0].attempt == 2
    assert told(stores) == [("a", "start")]


def test_a_change_that_is_refused_tells_nothing(stores: Stores, create: Create) -> None:
    create("a", webhook=Webhook(URL, ("completed",)))
    claim(stores.jobs)
    assert not stores.jobs.finish("a", 2, State.SUCCEEDED, result=RESULT)
    assert told(stores) == []


def one(stores: Stores, create: Create) -> Delivery:
    create("a", webhook=Webhook(URL))
    claim(stores.jobs)
    (message,) = stores.outbox.due(9, 30)
    return message


def test_a_message_is_one_senders_until_its_lease_runs_out(stores: Stores, create: Create, clock: Clock) -> None:
    assert stores.outbox.next_at() is None
    message = one(stores, create)
    assert (message.job_id, message.owner, message.event, message.url) == ("a", "", "start", URL)
    assert (message.body, message.attempts, message.created_at) == (None, 0, clock.now)
    assert message.id.startswith("msg_") and len(message.id) == 36
    assert stores.outbox.due(9, 30) == []
    assert stores.outbox.next_at() == clock.now + 30
    clock.now += 30
    assert stores.outbox.due(0, 30) == []
    assert stores.outbox.due(9, 30) == [message]


def test_what_it_says_is_fixed_once(stores: Stores, create: Create, clock: Clock) -> None:
    message = one(stores, create)
    assert stores.outbox.set_body(message.id, '{"first": true}') == '{"first": true}'
    assert stores.outbox.set_body(message.id, '{"second": true}') == '{"first": true}'
    clock.now += 30
    assert stores.outbox.due(9, 30)[0].body == '{"first": true}'


def test_a_message_is_tried_again_until_it_ends(stores: Stores, create: Create, clock: Clock) -> None:
    message = one(stores, create)
    stores.outbox.retry(message.id, clock.now + 5, "answered 503")
    assert stores.outbox.next_at() == clock.now + 5
    assert stores.outbox.due(9, 30) == []
    clock.now += 5
    (again,) = stores.outbox.due(9, 30)
    assert (again.id, again.attempts) == (message.id, 1)
    stores.outbox.delivered(message.id, 204)
    stores.outbox.give_up(message.id, "too late: it has arrived")
    clock.now += 1_000
    assert stores.outbox.due(9, 30) == [] and stores.outbox.next_at() is None
    (row,) = stores.database.read("SELECT status, note, attempts FROM outbox")
    assert (row["status"], row["note"], row["attempts"]) == (204, "", 2)


def test_a_replay_sends_the_same_messages_again(stores: Stores, create: Create, clock: Clock) -> None:
    message = one(stores, create)
    stores.outbox.set_body(message.id, "{}")
    stores.jobs.finish("a", 1, State.SUCCEEDED, result=RESULT)
    (end,) = stores.outbox.due(9, 30)
    stores.outbox.delivered(message.id, 200)
    stores.outbox.give_up(end.id, "answered 410")
    assert stores.outbox.due(9, 30) == []
    assert stores.outbox.replay("a", "other") == stores.outbox.replay("b", "") == 0
    assert stores.outbox.replay("a", "") == 2
    again = {delivery.id: delivery for delivery in stores.outbox.due(9, 30)}
    assert set(again) == {message.id, end.id}
    assert again[message.id].body == "{}" and again[message.id].attempts == 0


def test_messages_that_ended_are_forgotten(stores: Stores, create: Create, clock: Clock) -> None:
    message = one(stores, create)
    stores.jobs.finish("a", 1, State.SUCCEEDED, result=RESULT)
    stores.outbox.delivered(message.id, 200)
    clock.now += 100
    assert stores.outbox.forget(older_than=101) == 0
    assert stores.outbox.forget(older_than=100) == 1
    assert [left.event for left in stores.outbox.due(9, 30)] == ["completed"]  # it still waits


def test_senders_at_once_never_share_a_message(database: str, stores: Stores) -> None:
    stores.jobs.create_batch([new_job(f"j{n}", webhook=Webhook(URL, ("start",))) for n in range(120)], LIMITS)
    assert len(stores.jobs.claim("r", 200, 60, 5, ["nano"])) == 120
    others = [stores, *(open_stores(database, lambda: 1_000_000.0) for _ in range(2))]

    def send(number: int) -> list[str]:
        taken: list[str] = []
        while messages := others[number % 3].outbox.due(7, 1e9):
            taken += [message.id for message in messages]
        return taken

    with ThreadPoolExecutor(6) as pool:
        taken = [message for some in pool.map(send, range(6)) for message in some]
    assert len(taken) == len(set(taken)) == 120
    for other in others[1:]:
        other.close()


def test_a_tenant_has_one_secret(database: str, stores: Stores) -> None:
    other = open_stores(database)
    with ThreadPoolExecutor(6) as pool:
        secrets = set(pool.map(lambda n: (stores, other)[n % 2].outbox.secret("tenant"), range(12)))
    assert len(secrets) == 1
    (secret,) = secrets
    assert len(base64.b64decode(secret.removeprefix("whsec_"))) == SECRET_BYTES == 24
    assert other.outbox.secret("another") != secret
    other.close()
