"""Which size of gang a segment belongs to, where a model's engines have several: a pure function of costs and work."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from zoetrope.cluster.planning.step_costs import Load, StepCosts
from zoetrope.serving.router.policies.work import Work

EFFICIENT = 0.7  # of a step on the smallest gang, in GPU-seconds, over one on a larger gang that is worth it
LEAST_SECONDS = 1e-3  # of a segment's cost, where it is not known
WORTH_MOVING = 2.0  # seconds that a segment must save by another gang, beside what it has waited for


@dataclass(frozen=True)
class GangSize:
    """The engines of one size that have a model.

    Attributes:
        costs: of their steps. ranks: of them all together.
        work: GPU-seconds that segments which belong there still cost, held or waiting.
        idle: how many of the engines have nothing to do. most_tokens: of a sequence that fits; 0: not known.
    """

    costs: StepCosts
    ranks: int
    work: float = 0.0
    idle: int = 0
    most_tokens: int = 0

    def fits(self, load: Load) -> bool:
        """Whether a segment's sequences fit into such an engine, as far as that is known."""
        return not self.most_tokens or load.tokens <= self.most_tokens


class SizedEngine(Protocol):
    """An engine as the router sees it."""

    costs: StepCosts
    ranks: int
    most_tokens: int

    @property
    def idle(self) -> bool: ...


def sizes_of(engines: Sequence[SizedEngine], works: Iterable[Work]) -> dict[int, GangSize]:
    """Return the sizes of the engines that have a model, by their ranks, with the work that belongs to each.

    Args:
        works: the unfinished segments of the model; they are not looked at if there is one size.
    """
    sizes = {engine.ranks: GangSize(engine.costs, 0, most_tokens=engine.most_tokens) for engine in engines}
    for engine in engines:
        size = sizes[engine.ranks]
        sizes[engine.ranks] = replace(size, ranks=size.ranks + engine.ranks, idle=size.idle + engine.idle)
    for work in works if len(sizes) > 1 else ():
        home = home_of(work.load, sizes)
        if home is not None:
            sizes[home] = replace(sizes[home], work=sizes[home].work + max(LEAST_SECONDS, work.remaining))
    return sizes


def home_of(load: Load, sizes: Mapping[int, GangSize]) -> int | None:
    """Return the ranks of the gangs that a segment belongs to; None if it fits none.

    A large step is divided over many ranks at little loss, a small one at much. So it is the largest gang whose step
    takes hardly more GPU-seconds than that of the smallest: small segments go to small gangs, large ones to large ones.

    Args:
        sizes: by the ranks of a gang.
    """
    fitting = sorted(ranks for ranks, size in sizes.items() if size.fits(load))
    if not fitting:
        return None
    least = fitting[0] * sizes[fitting[0]].costs.seconds([load])
    return max(ranks for ranks in fitting if least >= EFFICIENT * ranks * sizes[ranks].costs.seconds([load]))


def takes(ranks: int, work: Work, sizes: Mapping[int, GangSize]) -> bool:
    """Tell whether an engine of so many ranks should take a segment that waits: it belongs there; or the engine's own
    kind of work is done, and the segment would be done sooner here than by the gangs where it belongs, behind the other
    work there. What it would hand over at once it does not take.

    Args:
        sizes: with the segment among the work that belongs to its home.
    """
    home = home_of(work.load, sizes)
    if home is None or home == ranks:
        return home is not None
    here, there = sizes[ranks], sizes[home]
    if here.work or not here.fits(work.load) or leaves(ranks, work, sizes):
        return False
    others = max(0.0, there.work - max(LEAST_SECONDS, work.remaining))
    return _seconds(work, here) < others / there.ranks + _seconds(work, there)


def leaves(ranks: int, work: Work, sizes: Mapping[int, GangSize]) -> bool:
    """Tell whether an engine should hand over a segment that it holds to gangs where it belongs, which are idle."""
    home = home_of(work.load, sizes)
    if home is None or home == ranks or not sizes[home].idle:
        return False
    return _seconds(work, sizes[ranks]) - _seconds(work, sizes[home]) > WORTH_MOVING


def _seconds(work: Work, size: GangSize) -> float:
    """Return what the segment's own steps still take on such an engine."""
    return work.steps_left * size.costs.seconds([work.load])
