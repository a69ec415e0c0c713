"""Who is let in, and how often."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from serving.gateway.doorkeeper import CACHE_SECONDS, Bucket, Doorkeeper, TooManyRequests, Unauthenticated
from serving.jobs.key_table import KeyLimits
from serving.jobs.open import Stores, open_stores


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
    door = Doorkeeper(stores.keys, required=False, clock=clock)
    assert door.admit(None).owner == ""
    assert door.admit("any-token-that-an-sdk-sends").owner == ""
    _, secret = stores.keys.create("ci", "acme")
    clock.now += CACHE_SECONDS
    for wrong in (None, "any-token-that-an-sdk-sends", secret[:-1], secret + "x", "", "zk_"):
        with pytest.raises(Unauthenticated):
            door.admit(wrong)
    who = door.admit(secret)
    assert (who.owner, who.key_name) == ("acme", "ci")


def test_required_before_there_is_a_key(stores: Stores) -> None:
    door = Doorkeeper(stores.keys, required=True)
    with pytest.raises(Unauthenticated, match="an API key is needed"):
        door.admit(None)
    with pytest.raises(Unauthenticated, match="not known or was revoked"):
        door.admit("zk_nobody")


def test_a_revoked_key_ends_soon(stores: Stores) -> None:
    clock = Clock()
    door = Doorkeeper(stores.keys, required=True, clock=clock)
    key, secret = stores.keys.create("ci", "acme")
    door.admit(secret)
    assert stores.keys.revoke(key.id)
    clock.now += CACHE_SECONDS
    for attempt in (secret, None):
        for one in (door, Doorkeeper(stores.keys, required=False)):
            with pytest.raises(Unauthenticated):
                one.admit(attempt)


def test_rates_are_each_key_s_own(stores: Stores) -> None:
    clock = Clock()
    door = Doorkeeper(stores.keys, required=True, clock=clock)
    _, slow = stores.keys.create("slow", "a", KeyLimits(requests_per_second=2.0, burst=3))
    _, free = stores.keys.create("free", "a")
    for _ in range(3):
        door.admit(slow)
    with pytest.raises(TooManyRequests) as caught:
        door.admit(slow)
    assert caught.value.retry_seconds == pytest.approx(0.5)
    for _ in range(100):
        door.admit(free)
    clock.now += 0.5
    door.admit(slow)
    with pytest.raises(TooManyRequests):
        door.admit(slow)
    assert door.identify(slow).owner == "a", "being looked up is no request"


def test_a_bucket_never_holds_more_than_its_size() -> None:
    bucket = Bucket(rate=1.0, size=2.0, at=0.0)
    assert [bucket.take(1_000.0) for _ in range(2)] == [0.0, 0.0]
    assert bucket.take(1_000.0) == pytest.approx(1.0)
