"""The outbox on each database: which changes leave messages, and what becomes of those."""

from __future__ import annotations

import base64
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.serving.jobs.harness import LIMITS, RESULT, Clock, claim, claim_oldest, new_job
from tests.serving.jobs.plans import check, plan, statements
from zoetrope.serving.jobs.db.database import Tx
from zoetrope.serving.jobs.job import Job, JobWebhook, QueueLimits, State, WebhookEvent
from zoetrope.serving.jobs.open import Stores, open_stores
from zoetrope.serving.jobs.outbox import SECRET_BYTES, Delivery, OutboxTraffic

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
    create("a", webhook=JobWebhook(URL, events))
    create("silent")
    assert told(stores) == []
    for job in claim(stores.jobs, 2):
        stores.jobs.finish(job.id, 1, State.SUCCEEDED, result=RESULT)
    assert [event for _, event in told(stores)] == expected
    assert {job_id for job_id, _ in told(stores)} <= {"a"}


def test_every_end_is_told_once(stores: Stores, create: Create, clock: Clock) -> None:
    hook = JobWebhook(URL, ("completed",))
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
    create("a", webhook=JobWebhook(URL))
    claim(stores.jobs)
    clock.now += 10
    assert claim(stores.jobs)[0].attempt == 2
    assert told(stores) == [("a", "start")]


def test_a_change_that_is_refused_tells_nothing(stores: Stores, create: Create) -> None:
    create("a", webhook=JobWebhook(URL, ("completed",)))
    claim(stores.jobs)
    assert not stores.jobs.finish("a", 2, State.SUCCEEDED, result=RESULT)
    assert told(stores) == []


def one(stores: Stores, create: Create) -> Delivery:
    create("a", webhook=JobWebhook(URL))
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
    stores.jobs.create_batch([new_job(f"j{n}", webhook=JobWebhook(URL, ("start",))) for n in range(120)], LIMITS)
    assert len(claim_oldest(stores.jobs, "r", 200, 60, 5, ["nano"])) == 120
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


def notify(stores: Stores, owner: str, urls: list[str]) -> None:
    """Have a message for each."""
    hooks = [JobWebhook(url, ("start",)) for url in urls]
    jobs = [new_job(f"{owner}{number}", owner=owner, webhook=hook) for number, hook in enumerate(hooks)]
    for start in range(0, len(jobs), 250):
        stores.jobs.create_batch(jobs[start : start + 250], QueueLimits(1_000_000))
    assert len(claim_oldest(stores.jobs, "r", len(urls), 60, 5, ["nano"])) == len(urls)


def taken(deliveries: list[Delivery]) -> Counter[tuple[str, str]]:
    return Counter((delivery.owner, delivery.host) for delivery in deliveries)


def test_tenants_messages_go_out_in_turn(stores: Stores, clock: Clock) -> None:
    notify(stores, "a", [URL] * 20)
    clock.now += 1
    notify(stores, "b", [URL] * 2)
    notify(stores, "c", [URL] * 9)
    assert Counter(delivery.owner for delivery in stores.outbox.due(8, 30)) == {"a": 3, "b": 2, "c": 3}
    busy = OutboxTraffic({("a", "elsewhere"): 4})
    assert Counter(delivery.owner for delivery in stores.outbox.due(4, 30, busy)) == {"c": 4}


def test_lanes_tenants_and_hosts_have_limits(stores: Stores) -> None:
    notify(stores, "a", ["https://x.example/1", "http://X.example.:8080/2", "https://y.example/"] * 3)
    notify(stores, "b", ["https://x.example/3"] * 3)
    limits = OutboxTraffic({("a", "x.example"): 1}, per_lane=2)
    lanes = {("a", "x.example"): 1, ("a", "y.example"): 2, ("b", "x.example"): 2}
    assert taken(stores.outbox.due(99, 0, limits)) == lanes
    limits = OutboxTraffic({("a", "z.example"): 1}, per_tenant=3)
    assert Counter(delivery.owner for delivery in stores.outbox.due(99, 0, limits)) == {"a": 2, "b": 3}
    limits = OutboxTraffic({("c", "x.example"): 1}, per_host=4)
    assert Counter(delivery.host for delivery in stores.outbox.due(99, 0, limits)) == {"x.example": 3, "y.example": 3}
    limits = OutboxTraffic(per_lane=9, lanes={("a", "x.example"): 0, ("b", "x.example"): 1})
    assert taken(stores.outbox.due(99, 0, limits)) == {("a", "y.example"): 3, ("b", "x.example"): 1}
    assert len(stores.outbox.due(99, 0)) == 12


def test_addresses_that_are_none_have_a_lane_too(stores: Stores) -> None:
    notify(stores, "a", ["http://[::1/", "https:///x"])
    assert taken(stores.outbox.due(9, 30)) == {("a", ""): 2}


def test_what_is_due_is_found_at_once_in_a_long_outbox(stores: Stores, monkeypatch: pytest.MonkeyPatch) -> None:
    postgres = bool(stores.database.dialect.skip_locked)
    rows = [(f"m{number}", "j", "ab"[number == 7], "start", URL, 1.0, 1.0 + number % 3) for number in range(20_000)]
    sql = "INSERT INTO outbox (id, job_id, owner, event, url, created_at, next_at) VALUES (?, ?, ?, ?, ?, ?, ?)"

    def fill(tx: Tx) -> None:
        for row in rows:
            tx.later(sql, row)

    stores.database.write(fill)
    if postgres:
        stores.database.write(lambda tx: tx.run("ANALYZE outbox"))
    with statements(stores, monkeypatch) as asked:
        assert Counter(delivery.owner for delivery in stores.outbox.due(4, 30)) == {"a": 3, "b": 1}
    asked = [(sql, values) for sql, values in asked if "FROM outbox" in sql]
    assert len(asked) == 6, "who has messages, four of them, and that b has no more"
    for sql, values in asked:
        check(plan(stores, sql, values), "outbox")
