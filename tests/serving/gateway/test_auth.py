"""Who is let in, and how often."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from zoetrope.serving.gateway.auth.authenticator import (
    CACHE_SECONDS,
    Authenticator,
    TokenBucket,
    TooManyRequests,
    Unauthenticated,
)
from zoetrope.serving.jobs.key_table import ApiKey, KeyLimits
from zoetrope.serving.jobs.open import Stores, open_stores


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def stores(tmp_path: Path) -> Iterator[Stores]:
    stores = open_stores(f"sqlite://{tmp_path}/jobs.db")
    yield stores
    stores.close()


def test_open_until_there_is_a_key(stores: Stores) -> None:
    clock = Clock()
    door = Authenticator(stores.keys, required=False, clock=clock)
    assert door.authenticate(None).owner == ""
    assert door.authenticate("any-token-that-an-sdk-sends").owner == ""
    _, secret = stores.keys.create("ci", "acme")
    clock.now += CACHE_SECONDS
    for wrong in (None, "any-token-that-an-sdk-sends", secret[:-1], secret + "x", "", "zk_"):
        with pytest.raises(Unauthenticated):
            door.authenticate(wrong)
    who = door.authenticate(secret)
    assert (who.owner, who.key_name) == ("acme", "ci")


def test_required_before_there_is_a_key(stores: Stores) -> None:
    door = Authenticator(stores.keys, required=True)
    with pytest.raises(Unauthenticated, match="an API key is needed"):
        door.authenticate(None)
    with pytest.raises(Unauthenticated, match="not known or was revoked"):
        door.authenticate("zk_nobody")


def test_a_revoked_key_ends_soon(stores: Stores) -> None:
    clock = Clock()
    door = Authenticator(stores.keys, required=True, clock=clock)
    key, secret = stores.keys.create("ci", "acme")
    door.authenticate(secret)
    assert stores.keys.revoke(key.id)
    clock.now += CACHE_SECONDS
    for attempt in (secret, None):
        for one in (door, Authenticator(stores.keys, required=False)):
            with pytest.raises(Unauthenticated):
                one.authenticate(attempt)


def test_a_slow_lookup_keeps_no_revoked_key_alive(stores: Stores, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the database said is believed from when it was asked."""
    clock = Clock()
    key, secret = stores.keys.create("ci", "acme")
    find = stores.keys.find

    def slow(secret: str) -> ApiKey | None:
        found = find(secret)
        clock.now += CACHE_SECONDS - 0.5
        return found

    monkeypatch.setattr(stores.keys, "find", slow)
    door = Authenticator(stores.keys, required=True, clock=clock)
    door.authenticate(secret)
    assert stores.keys.revoke(key.id)
    assert door.remembers(secret) and door.authenticate(secret).key_id == key.id
    clock.now += 0.5
    assert not door.remembers(secret)
    assert door.knew(secret) == key.id, "it is looked up as its own call"
    with pytest.raises(Unauthenticated):
        door.authenticate(secret)
    assert door.knew(secret) is None


def test_rates_are_each_key_s_own(stores: Stores) -> None:
    clock = Clock()
    door = Authenticator(stores.keys, required=True, clock=clock)
    _, slow = stores.keys.create("slow", "a", KeyLimits(requests_per_second=2.0, burst=3))
    _, free = stores.keys.create("free", "a")
    for _ in range(3):
        door.authenticate(slow)
    with pytest.raises(TooManyRequests) as caught:
        door.authenticate(slow)
    assert caught.value.retry_seconds == pytest.approx(0.5)
    for _ in range(100):
        door.authenticate(free)
    clock.now += 0.5
    door.authenticate(slow)
    with pytest.raises(TooManyRequests):
        door.authenticate(slow)
    assert door.identify(slow).owner == "a", "being looked up is no request"


def test_a_bucket_never_holds_more_than_its_size() -> None:
    bucket = TokenBucket(rate=1.0, size=2.0, at=0.0)
    assert [bucket.acquire(1_000.0) for _ in range(2)] == [0.0, 0.0]
    assert bucket.acquire(1_000.0) == pytest.approx(1.0)
