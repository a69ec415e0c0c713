"""API keys on each database."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.serving.jobs.harness import Clock
from zoetrope.serving.jobs.key_table import KeyLimits
from zoetrope.serving.jobs.open import Stores, open_stores

LIMITS = KeyLimits(2.5, 10, 4, 60.0, ("nano",), 5)


def test_a_key_is_found_by_its_secret_alone(stores: Stores, clock: Clock) -> None:
    assert not stores.keys.any()
    key, secret = stores.keys.create("ci", "tenant", LIMITS)
    assert (key.name, key.owner, key.created_at, key.revoked_at) == ("ci", "tenant", clock.now, None)
    assert key.limits == LIMITS and key.id.startswith("key_")
    assert secret.startswith("zk_") and len(secret) > 40
    assert stores.keys.find(secret) == key
    assert stores.keys.any()
    for wrong in (secret[:-1], secret.upper(), key.id, "", "zk_", "\0", "\ud800"):
        assert stores.keys.find(wrong) is None


def test_only_a_hash_of_the_secret_is_stored(stores: Stores) -> None:
    _, secret = stores.keys.create("ci", "tenant")
    (row,) = stores.database.read("SELECT * FROM api_key")
    columns = ("id", "name", "owner", "hash", "limits", "created_at", "revoked_at")
    assert not any(secret.removeprefix("zk_") in str(row[column]) for column in columns)


def test_a_revoked_key_is_found_no_more(stores: Stores, clock: Clock) -> None:
    first, secret = stores.keys.create("a", "tenant")
    clock.now += 1
    second, other = stores.keys.create("b", "tenant", LIMITS)
    assert [key.limits for key in stores.keys.list()] == [KeyLimits(), LIMITS]
    assert stores.keys.revoke(first.id)
    assert not stores.keys.revoke(first.id)
    assert not stores.keys.revoke("key_none")
    assert stores.keys.find(secret) is None
    assert stores.keys.find(other) == second and stores.keys.any()
    assert [(key.id, key.revoked_at) for key in stores.keys.list()] == [(first.id, clock.now), (second.id, None)]
    stores.keys.revoke(second.id)
    assert not stores.keys.any()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"requests_per_second": 0}, "requests_per_second is 0, must be above 0"),
        ({"burst": 0}, "burst is 0, must be at least 1"),
        ({"concurrent_jobs": -1}, "concurrent_jobs is -1, must be above 0"),
        ({"queued_seconds": float("nan")}, "queued_seconds is nan, must be above 0"),
        ({"max_priority": 10}, "max_priority is 10, must be from 0 to 9"),
    ],
)
def test_limits_out_of_range_are_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        KeyLimits(**values)


def test_tenants_of_the_service_itself_get_no_key(stores: Stores) -> None:
    with pytest.raises(ValueError, match="names that begin with '#' are the service's own"):
        stores.keys.create("mallory", "#signed-addresses")
    assert stores.keys.list() == []


def test_of_those_who_make_the_first_key_one_does(database: str, stores: Stores) -> None:
    others = [stores, *(open_stores(database) for _ in range(3))]
    secrets = [f"zk_{number}" + "x" * 40 for number in range(len(others))]
    with ThreadPoolExecutor(len(others)) as pool:
        made = list(
            pool.map(lambda pair: pair[0].keys.create_first("first", "us", pair[1]), zip(others, secrets, strict=True))
        )
    assert [key.name for key in made if key is not None] == ["first"]
    assert [key.id for key in stores.keys.list()] == [key.id for key in made if key is not None]
    for opened in others[1:]:
        opened.close()


@pytest.mark.parametrize("secret", ["", "zk_" + "x" * 31, "zk_" + "x" * 201, "xx_" + "x" * 40, "zk_" + "x y" * 20])
def test_a_secret_that_was_chosen_elsewhere_has_a_form(stores: Stores, secret: str) -> None:
    with pytest.raises(ValueError, match="must be zk_ and 32 to 200 letters") as caught:
        stores.keys.create_first("first", "us", secret)
    assert not secret or secret not in str(caught.value)
    assert not stores.keys.ever()
