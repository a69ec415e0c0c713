"""Small work goes to small gangs and large work to large ones, as far as that serves everybody sooner."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest

from tests.serving.router.costs import nano_costs
from zoetrope.cluster.planning.hardware import hardware_of
from zoetrope.cluster.planning.rates import roofline
from zoetrope.cluster.planning.step_costs import Load, StepCosts
from zoetrope.cluster.protocol.messages import HeldSegment, Report, StepPlan
from zoetrope.model.families import PRESETS
from zoetrope.model.request.specs import SegmentSpec
from zoetrope.serving.router.active import Active
from zoetrope.serving.router.placement import GangSize, SizedEngine, home_of, leaves, sizes_of, takes
from zoetrope.serving.router.policies.work import Work
from zoetrope.serving.router.state import RouterState

SIZES = (1, 4, 8)
SMALL, LARGE = 1_000, 75_000


def costs(ranks: int) -> StepCosts:
    """Those of a 14B on H100s."""
    return StepCosts.prior(PRESETS["wan2.1-t2v-14b"].config, roofline(hardware_of("h100")), ranks=ranks)


def gangs(*ranks: int, **changes: object) -> dict[int, GangSize]:
    return {n: replace(GangSize(costs(n), n), **changes) for n in ranks}  # type: ignore[arg-type]


def work(tokens: int, name: str = "w", steps: int = 40) -> Work:
    return Work(name, "t", "m", 0, 0.0, None, 0.0, Load(tokens), tokens, steps)


def test_large_work_belongs_to_large_gangs_and_small_work_to_small_ones() -> None:
    sizes = gangs(*SIZES)
    homes = [home_of(Load(tokens), sizes) for tokens in (100, SMALL, 4_000, 20_000, LARGE)]
    assert homes == sorted(homes, key=lambda home: home or 0), "more tokens never go to a smaller gang"
    assert homes[0] == 1 and homes[-1] == 8


def test_what_does_not_fit_goes_to_a_larger_gang() -> None:
    sizes = gangs(1, 4)
    sizes[1] = replace(sizes[1], most_tokens=SMALL - 1)
    assert home_of(Load(SMALL), sizes) == 4
    assert not takes(1, work(SMALL), sizes)
    assert home_of(Load(SMALL), {1: sizes[1]}) is None
    assert not takes(1, work(SMALL), {1: sizes[1]})


def test_an_engine_without_work_of_its_own_takes_other_work_if_that_is_done_sooner() -> None:
    sizes = gangs(1, 8)
    assert takes(8, work(LARGE), sizes) and takes(1, work(100), sizes)
    assert not takes(1, work(LARGE), sizes), "the large gang has time"
    seconds = 40 * costs(1).seconds([Load(LARGE)])
    behind = sizes | {8: replace(sizes[8], work=8 * seconds)}
    assert takes(1, work(LARGE), behind), "behind so much work it would be done later"
    assert not takes(1, work(LARGE), behind | {1: replace(sizes[1], work=1.0)}), "that has work of its own"
    assert takes(8, work(100), sizes | {1: replace(sizes[1], work=100.0)})


def test_work_is_handed_over_to_an_idle_gang_where_it_belongs() -> None:
    sizes = gangs(1, 8)
    assert not leaves(1, work(LARGE), sizes)
    idle = sizes | {8: replace(sizes[8], idle=1)}
    assert leaves(1, work(LARGE), idle)
    assert not leaves(8, work(LARGE), idle) and not leaves(1, work(100), idle)
    assert not leaves(1, work(LARGE, steps=0), idle), "its last step is taken"


@dataclass
class Gang:
    ranks: int
    idle: bool = False
    most_tokens: int = 0

    @property
    def costs(self) -> StepCosts:
        return costs(self.ranks)


def test_sizes_count_engines_and_the_work_that_belongs_to_each() -> None:
    engines: list[SizedEngine] = [Gang(1), Gang(1, idle=True), Gang(8)]  # type: ignore[list-item]
    sizes = sizes_of(engines, [replace(work(100), remaining=5.0), replace(work(LARGE), remaining=7.0), work(LARGE)])
    assert {ranks: (size.ranks, size.idle) for ranks, size in sizes.items()} == {1: (2, 1), 8: (8, 0)}
    assert sizes[1].work == 5.0 and 7.0 < sizes[8].work < 7.1
    assert sizes_of(engines[:2], [work(LARGE)])[1].work == 0.0


def report(name: str, ranks: int, *held: str, **fields: object) -> Report:
    return Report(name, 1, "nano", ranks=ranks, held=tuple(HeldSegment(i, 1) for i in held), **fields)  # type: ignore[arg-type]


def exchange(board: RouterState, told: Report) -> StepPlan:
    board.apply(told, 0.0)
    return board.plan(told, 0.0)


def test_the_router_places_segments_and_moves_them() -> None:
    board = RouterState(1_000_000, 10.0, lambda told: costs(told.ranks))
    segments = {"large": (21, 160, 90), "small": (2, 8, 14)}
    for name, (t, h, w) in segments.items():
        spec = SegmentSpec(name, (16, t, h, w), 30, 1.0, 0)
        board.add(Active(spec, t * h * w // 4, None, model="nano"))
    exchange(board, report("one", 1, state="rebuilding"))
    exchange(board, report("eight", 8, state="rebuilding"))
    assert exchange(board, report("one", 1)).advance == ("small",)
    assert exchange(board, report("eight", 8)).advance == ("large",)
    board.apply(report("eight", 8, state="draining"), 1.0)
    board.remove("small")
    assert exchange(board, report("one", 1)).advance == ("large",), "there is no other engine"
    assert exchange(board, report("eight", 8)).nothing
    assert exchange(board, report("one", 1, "large")).release == ("large",)
    board.apply(report("one", 1), 2.0)
    assert exchange(board, report("one", 1)).nothing
    assert exchange(board, report("eight", 8)).advance == ("large",)


@pytest.mark.parametrize(("small", "big", "following"), [(1, 2, 0), (2, 4, 6), (4, 8, 0), (1, 8, 6)])
def test_a_segment_that_was_handed_over_is_not_taken_back(small: int, big: int, following: int) -> None:
    """The gang that hands it over asks again before the idle one does."""
    board = RouterState(1_000_000, 10.0, lambda told: costs(told.ranks))
    for name, at in (("first", 0.0), ("second", 1.0)):
        spec = SegmentSpec(name, (16, 21, 90, 160), 40, 1.0, 0)
        board.add(Active(spec, 21 * 90 * 160 // 4, None, model="nano", created_at=at, following=following))
    exchange(board, report("small", small, state="rebuilding"))
    exchange(board, report("big", big, state="rebuilding"))
    assert exchange(board, report("big", big)).advance == ("first",)
    assert exchange(board, report("small", small)).advance == ("second",)
    board.remove("first")
    assert exchange(board, report("big", big)).nothing
    assert exchange(board, report("small", small, "second")).release == ("second",)
    assert exchange(board, report("small", small)).nothing
    assert exchange(board, report("big", big)).advance == ("second",)


@pytest.mark.parametrize("ranks", SIZES)
def test_one_size_takes_everything(ranks: int) -> None:
    board = RouterState(1_000, 10.0, lambda told: nano_costs(told.ranks))
    board.add(Active(SegmentSpec("a", (48, 5, 8, 14), 3, 3.0, 0), 280, None, model="nano"))
    assert exchange(board, report("e", ranks)).advance == ("a",)
