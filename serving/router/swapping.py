"""Which engine loads another model, and when: a pure function of the engines, the work that waits and the costs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

TURN = 3.0  # times what a swap and the swap back take: how long an engine with work keeps its model while another waits
WORTH = 2.0  # times what it costs, that one more engine for a model must save of its waiting


@dataclass(frozen=True)
class Holder:
    """An engine, as far as models are concerned.

    Attributes:
        model: that it has loaded, or is loading. ready: it has, and can take a plan now or after its step.
        held: GPU-seconds that the segments which it holds still cost.
        since: when its model was loaded.
        can: the models that it can load.
    """

    id: str
    model: str
    ready: bool
    ranks: int
    held: float
    since: float
    can: frozenset[str]


@dataclass(frozen=True)
class ModelDemand:
    """The work of a model that no engine holds: in GPU-seconds, and since when there has been some."""

    seconds: float
    since: float


def swaps(
    engines: Sequence[Holder], demands: Mapping[str, ModelDemand], prices: Mapping[str, float], now: float
) -> dict[str, str]:
    """Return the engines that should load another model, and which.

    A model with work that no engine has gets one: an engine without work at once, else the one with the least of it,
    once that has had its turn. A turn is `TURN` times what the swap and the swap back take, so that swaps take a
    bounded share of the time however models alternate. If what an engine has left takes no longer than the swap, it
    does that first, for one turn more at most.

    A model that engines have already gets one more from those without work alone, and only if that saves `WORTH` times
    what the swap takes. The model that has waited for longest is served first.

    Args:
        demands: of models with waiting work. prices: seconds that a load takes, of all models.
    """
    found: dict[str, str] = {}
    for model, demand in sorted(demands.items(), key=lambda item: (item[1].since, item[0])):
        having = [engine for engine in engines if found.get(engine.id, engine.model) == model]
        able = [e for e in engines if e.ready and e.id not in found and e.model != model and model in e.can]
        work = {engine.id: _work(engine, engines, demands, found) for engine in able}
        if having:
            ranks = sum(engine.ranks for engine in having)
            able = [
                engine
                for engine in able
                if not work[engine.id]
                and demand.seconds / ranks - demand.seconds / (ranks + engine.ranks) > WORTH * prices[model]
            ]
        else:
            able = [engine for engine in able if _free(engine, work[engine.id], demand, model, prices, now)]
        if able:
            chosen = min(able, key=lambda engine: (work[engine.id] / engine.ranks, engine.since, engine.id))
            found[chosen.id] = model
    return found


def _work(
    engine: Holder, engines: Sequence[Holder], demands: Mapping[str, ModelDemand], found: Mapping[str, str]
) -> float:
    """Return the GPU-seconds of work that an engine has: what it holds, and its share of what waits for its model."""
    demand = demands.get(engine.model)
    if demand is None:
        return engine.held
    ranks = sum(e.ranks for e in engines if e.model == engine.model and e.id not in found)
    return engine.held + demand.seconds * engine.ranks / ranks


def _free(
    engine: Holder, work: float, demand: ModelDemand, model: str, prices: Mapping[str, float], now: float
) -> bool:
    """Whether an engine may give up its model for one that waits and that no engine has."""
    if not work:
        return True
    turn = TURN * (prices[model] + prices[engine.model])
    if now < engine.since + turn:
        return False
    return work / engine.ranks > prices[model] or now >= max(demand.since, engine.since + turn) + turn
