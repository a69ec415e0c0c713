"""What the router knows of loading models: how long it takes, who waits for one, and which cannot be loaded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from zoetrope.cluster.protocol.messages import Failed, LoadFailed
from zoetrope.serving.config.engine_groups import engine_groups, models_of_gangs
from zoetrope.serving.config.served_models import ServedModels
from zoetrope.serving.config.settings import Settings
from zoetrope.serving.router.swapping import TURN, Holder, ModelDemand, swaps

UNKNOWN_SECONDS = 30.0  # that a load is thought to take before any has been seen
KEPT = 0.7  # of what was expected, when another load has been seen
MAX_FAILURES = 3  # of loads in a row, after which the jobs of a model fail
PAUSE_SECONDS = 10.0  # before an engine that could not load a model tries again, doubled each time


class LoadedEngine(Protocol):
    """An engine as the router sees it, see `serving.router.swapping.Holder`."""

    model: str
    ready: bool
    ranks: int
    since: float


@dataclass
class _Failures:
    """Loads that failed in a row: when the last did, and why."""

    count: int
    at: float
    reason: str


@dataclass
class Loading:
    """Decides which engines load other models. Times are seconds of one clock, passed in.

    Attributes:
        models: those served. fits: by the number of ranks, which models a gang can run; gangs that are missing run all.
    """

    models: tuple[str, ...]
    fits: Mapping[int, frozenset[str]] = field(default_factory=dict)
    _seconds: dict[str, float] = field(default_factory=dict)
    _waiting: dict[str, float] = field(default_factory=dict)  # model -> since when work of it waits
    _failures: dict[str, _Failures] = field(default_factory=dict)
    _begun: dict[str, float] = field(default_factory=dict)  # engine that loads -> since when

    def saw(self, model: str, seconds: float) -> None:
        """Record how long a load took; it did not fail."""
        old = self._seconds.get(model)
        self._seconds[model] = seconds if old is None else KEPT * old + (1 - KEPT) * seconds
        self._failures.pop(model, None)

    def failed(self, failure: LoadFailed, waiting: Sequence[str], now: float) -> list[Failed]:
        """Record a load that failed.

        Args:
            waiting: ids of the model's segments that no engine holds.

        Returns:
            Those segments, if the model could not be loaded several times in a row. The next that needs it has one more
            try.
        """
        before = self._failures.get(failure.model)
        count = 1 if before is None else before.count + 1
        self._failures[failure.model] = _Failures(min(count, MAX_FAILURES - 1), now, failure.reason)
        if count < MAX_FAILURES:
            return []
        reason = f"its model {failure.model} could not be loaded, {count} times in a row: {failure.reason}"
        return [Failed(segment_id, reason, code="UNAVAILABLE") for segment_id in waiting]

    def price(self, model: str) -> float:
        """Return the seconds that a load is expected to take: as seen, else as the other models' mean."""
        if model in self._seconds:
            return self._seconds[model]
        return sum(self._seconds.values()) / len(self._seconds) if self._seconds else UNKNOWN_SECONDS

    def can(self, ranks: int, now: float) -> frozenset[str]:
        """Return the models that a gang of so many ranks can load now."""
        return frozenset(
            model
            for model in self.models
            if model in self.fits.get(ranks, self.models) and now >= self._again_at(model)
        )

    def model_for(
        self,
        engine: str,
        engines: Mapping[str, LoadedEngine],
        waiting: Mapping[str, float],
        held: Mapping[str, float],
        now: float,
    ) -> str:
        """Return the model that an engine should load in place of its own, "" for none.

        Args:
            waiting: GPU-seconds of work that no engine holds, by model. held: of what engines hold, by engine.
        """
        self._waiting = {model: self._waiting.get(model, now) for model in waiting}
        demands = {model: ModelDemand(seconds, self._waiting[model]) for model, seconds in waiting.items()}
        holders = [
            Holder(i, e.model, e.ready, e.ranks, held.get(i, 0.0), e.since, self.can(e.ranks, now))
            for i, e in engines.items()
        ]
        prices = {model: self.price(model) for model in (*self.models, *(e.model for e in engines.values()))}
        return swaps(holders, demands, prices, now).get(engine, "")

    def begun(self, engine: str, now: float) -> None:
        """Note that an engine loads a model, if that is news."""
        self._begun.setdefault(engine, now)

    def over(self, engine: str) -> None:
        """Note that an engine loads none."""
        self._begun.pop(engine, None)

    def seconds_left(self, engine: str, model: str, now: float) -> float | None:
        """Return when an engine is expected to have loaded a model; None if it loads none."""
        begun = self._begun.get(engine)
        return None if begun is None else max(0.0, begun + self.price(model) - now)

    def expected(
        self, model: str, engines: Mapping[str, LoadedEngine], held: Mapping[str, float], now: float
    ) -> float | None:
        """Return the seconds until an engine is expected to have a model; None if none can load it."""
        found = [self._seconds_to(model, i, engine, held.get(i, 0.0), now) for i, engine in engines.items()]
        return min((seconds for seconds in found if seconds is not None), default=None)

    def _seconds_to(self, model: str, name: str, engine: LoadedEngine, held: float, now: float) -> float | None:
        if engine.model == model:
            return 0.0 if engine.ready else self.seconds_left(name, model, now)
        if not engine.ready or model not in self.can(engine.ranks, now):
            return None
        over = engine.since + TURN * (self.price(model) + self.price(engine.model)) if held else now
        return max(0.0, over - now) + self.price(model)

    def notice(self, model: str, engines: Mapping[str, LoadedEngine], now: float) -> str:
        """Say why work of a model waits; "" where an engine has the model."""
        having = {i: engine for i, engine in engines.items() if engine.model == model}
        if any(engine.ready for engine in having.values()):
            return ""
        if having:
            left = [s for i in having if (s := self.seconds_left(i, model, now)) is not None]
            return f"its model is being loaded{f', about {min(left):.0f} s more' if left else ''}"
        failures = self._failures.get(model)
        if failures is not None:
            return f"its model could not be loaded, it is tried again: {failures.reason}"
        return "its model is not loaded yet: the engines work with others"

    def _again_at(self, model: str) -> float:
        failures = self._failures.get(model)
        return 0.0 if failures is None else failures.at + PAUSE_SECONDS * 2 ** (failures.count - 1)


def loading_of(settings: Settings, models: ServedModels) -> Loading | None:
    """Return what decides about a service's models; None where there is one."""
    if len(models) < 2:
        return None
    able = models_of_gangs(models, engine_groups(settings), settings.cfg_groups)
    names = tuple(card.name for card in models)
    return Loading(names, {ranks: frozenset(card.name for card in cards) for ranks, cards in able.items()})
