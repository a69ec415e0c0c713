"""Engines load the models that work waits for: at a bounded cost, and so that every model has its turn."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from hypothesis import given
from hypothesis import strategies as st

from zoetrope.serving.router.swapping import TURN, WORTH, Holder, ModelDemand, swaps

ALL = frozenset({"a", "b", "c"})
PRICES = {"a": 10.0, "b": 10.0, "c": 10.0}
TURN_SECONDS = TURN * 20


def engine(name: str = "1", model: str = "a", held: float = 0.0, since: float = 0.0, ranks: int = 1) -> Holder:
    return Holder(name, model, True, ranks, held, since, ALL)


def waiting(**seconds: float) -> dict[str, ModelDemand]:
    return {model: ModelDemand(value, 0.0) for model, value in seconds.items()}


def chosen(engines: list[Holder], demands: Mapping[str, ModelDemand], now: float = 1.0) -> dict[str, str]:
    return swaps(engines, demands, PRICES, now)


def test_an_engine_without_work_loads_what_waits() -> None:
    assert chosen([engine()], waiting(b=0.1)) == {"1": "b"}
    assert chosen([engine()], {}) == {}
    assert chosen([engine()], waiting(a=100.0)) == {}


def test_an_engine_with_work_keeps_its_model_for_a_turn() -> None:
    for busy, demands in ((engine(held=500.0), waiting(b=1.0)), (engine(), waiting(a=500.0, b=1.0))):
        assert chosen([busy], demands, TURN_SECONDS - 0.1) == {}
        assert chosen([busy], demands, TURN_SECONDS) == {"1": "b"}


def test_it_ends_what_takes_no_longer_than_the_swap_but_not_for_ever() -> None:
    nearly_done = engine(held=PRICES["b"])
    assert chosen([nearly_done], waiting(b=1.0), TURN_SECONDS) == {}
    assert chosen([nearly_done], waiting(b=1.0), 2 * TURN_SECONDS) == {"1": "b"}
    late = {"b": ModelDemand(1.0, 1_000.0)}
    assert chosen([nearly_done], late, 1_000.0 + TURN_SECONDS - 0.1) == {}
    assert chosen([nearly_done], late, 1_000.0 + TURN_SECONDS) == {"1": "b"}


def test_the_engine_with_the_least_work_is_taken() -> None:
    engines = [engine("1", held=30.0), engine("2", held=20.0), engine("3", held=50.0, ranks=4)]
    assert chosen(engines, waiting(b=1.0), 1e6) == {"3": "b"}  # four ranks need the least time for theirs
    assert chosen([*engines, engine("4")], waiting(b=1.0)) == {"4": "b"}


def test_two_models_that_wait_go_to_two_engines() -> None:
    assert chosen([engine("1"), engine("2", held=1.0)], waiting(b=1.0, c=1.0)) == {"1": "b"}
    assert chosen([engine("1"), engine("2")], waiting(b=1.0, c=1.0)) == {"1": "b", "2": "c"}
    longest = {"b": ModelDemand(1.0, 5.0), "c": ModelDemand(1.0, 3.0)}
    assert chosen([engine()], longest, 6.0) == {"1": "c"}


def test_another_engine_helps_if_that_is_worth_it() -> None:
    engines = [engine("1", "b", held=1.0), engine("2")]
    enough = 2 * WORTH * PRICES["b"]
    assert chosen(engines, waiting(b=enough)) == {}
    assert chosen(engines, waiting(b=enough + 1)) == {"2": "b"}
    assert chosen([engines[0], replace(engines[1], held=1.0)], waiting(b=10 * enough), 1e6) == {}


def test_a_model_that_is_being_loaded_is_not_loaded_twice() -> None:
    loading = replace(engine("1", "b"), ready=False)
    assert chosen([loading, engine("2")], waiting(b=1.0)) == {}
    assert chosen([replace(engine(), ready=False)], waiting(b=1.0)) == {}


def test_an_engine_loads_only_what_it_can() -> None:
    small = replace(engine("1"), can=frozenset({"a"}))
    assert chosen([small], waiting(b=1.0)) == {}
    assert chosen([small, engine("2", held=9.0)], waiting(b=1.0), 1e6) == {"2": "b"}


@dataclass
class World:
    """One engine and endless work of several models, in seconds of a clock of its own."""

    demands: dict[str, float]
    model: str = "a"
    since: float = 0.0
    now: float = 0.0
    worked: dict[str, float] = field(default_factory=dict)
    swapping: float = 0.0
    waits: dict[str, float] = field(default_factory=dict)

    def step(self, seconds: float) -> None:
        left = {m: work for m, work in self.demands.items() if work > 0}
        self.waits = {m: self.waits.get(m, self.now) for m in left}
        found = swaps(
            [engine(model=self.model, since=self.since)],
            {m: ModelDemand(work, self.waits[m]) for m, work in left.items()},
            PRICES,
            self.now,
        )
        if found:
            self.model = found["1"]
            self.now += PRICES[self.model]
            self.swapping += PRICES[self.model]
            self.since = self.now
        elif self.model in left:
            self.demands[self.model] -= seconds
            self.worked[self.model] = self.worked.get(self.model, 0.0) + seconds
        self.now += seconds


def test_swaps_take_a_bounded_share_and_no_model_starves() -> None:
    world = World({"a": 1e9, "b": 1e9, "c": 1e9})
    while world.now < 5_000:
        world.step(1.0)
    assert world.swapping / world.now <= 1 / (2 * TURN)
    assert min(world.worked.values()) > 0.8 * max(world.worked.values())


@given(st.lists(st.tuples(st.sampled_from("abc"), st.floats(0.1, 200.0)), min_size=1, max_size=12))
def test_all_work_is_done_whatever_comes(arrivals: list[tuple[str, float]]) -> None:
    world = World({"a": 0.0, "b": 0.0, "c": 0.0})
    for model, seconds in arrivals:
        world.demands[model] += seconds
        world.step(0.5)
    total = sum(world.demands.values())
    while any(work > 0 for work in world.demands.values()):
        world.step(0.5)
        assert world.now < 100 + 4 * total + 3 * len(arrivals) * TURN_SECONDS


def test_the_same_is_decided_whatever_the_order() -> None:
    engines = [engine("1", held=1.0), engine("2", "b"), engine("3", "c", held=4.0)]
    demands = {"a": ModelDemand(400.0, 2.0), "b": ModelDemand(500.0, 1.0)}
    expected = chosen(engines, demands, 1e6)
    assert chosen(engines[::-1], dict(reversed(demands.items())), 1e6) == expected
