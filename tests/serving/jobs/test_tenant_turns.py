"""Turns between tenants, as a process keeps them."""

from __future__ import annotations

from zoetrope.serving.jobs.tenant_turns import TenantTurns


def serve(shares: TenantTurns[str], used: float = 1.0) -> str:
    """Take a thing and be done with it."""
    found = shares.get()
    assert found is not None
    shares.done(found[0], used)
    return found[1]


def filled(*things: str) -> TenantTurns[str]:
    """Each thing belongs to the tenant of its first letter."""
    shares = TenantTurns[str]()
    for thing in things:
        shares.put(thing[0], thing)
    return shares


def test_tenants_take_turns() -> None:
    shares = filled("a1", "a2", "a3", "b1", "c1", "c2")
    assert [serve(shares) for _ in range(6)] == ["a1", "b1", "c1", "a2", "c2", "a3"]
    assert shares.get() is None and list(shares) == []


def test_what_one_has_used_counts() -> None:
    shares = filled("a1", "a2", "a3", "b1", "b2", "b3")
    assert serve(shares, 2.5) == "a1"
    assert [serve(shares) for _ in range(5)] == ["b1", "b2", "b3", "a2", "a3"]


def test_who_has_less_under_way_comes_first() -> None:
    shares = filled("a1", "a2", "a3", "b1", "b2")
    assert [shares.get() for _ in range(3)] == [("a", "a1"), ("b", "b1"), ("a", "a2")]
    shares.done("b", 100.0)
    assert shares.get() == ("b", "b2"), "b has nothing under way"
    assert (shares.of("a"), shares.of("b"), shares.of("c")) == (3, 1, 0)


def test_who_comes_late_starts_level() -> None:
    shares = filled(*(f"a{number}" for number in range(9)))
    assert [serve(shares) for _ in range(5)] == [f"a{number}" for number in range(5)]
    for number in range(4):
        shares.put("b", f"b{number}")
    assert [serve(shares) for _ in range(6)] == ["a5", "b0", "a6", "b1", "a7", "b2"]


def test_who_leaves_and_comes_back_still_has_used_it() -> None:
    shares = filled("a1", "b1", "b2", "b3")
    assert serve(shares, 10.0) == "a1"
    shares.put("a", "a2")
    assert [serve(shares) for _ in range(4)] == ["b1", "b2", "b3", "a2"]


def test_nothing_is_kept_of_those_who_are_gone() -> None:
    shares = filled("a1", "b1")
    assert [serve(shares), serve(shares)] == ["a1", "b1"]
    assert not (shares._used or shares._under_way or shares._waiting)


def test_what_does_not_fit_waits() -> None:
    shares = filled("a1", "a2", "b1")
    assert shares.get(lambda thing: thing == "a2") == ("a", "a2")
    assert shares.get(lambda thing: thing == "a3") is None
    shares.drop("b", "b1")
    shares.drop("b", "b1")
    assert list(shares) == ["a1"]
