"""Draw a trace: a mix of jobs, arrivals of several kinds, and tenants of unequal size."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Literal, TypeVar, get_args

from zoetrope.benchmarks.simulate.mixes import TASKS, Ingredient, mix_of
from zoetrope.benchmarks.simulate.trace import Kind, TraceError, TraceJob
from zoetrope.model.network.costs import frames_of

Key = TypeVar("Key")
Arrivals = Literal["poisson", "bursty", "ramp", "at-once"]
ARRIVALS: tuple[str, ...] = get_args(Arrivals)
RATIOS = {"16:9": 0.7, "9:16": 0.3}
REFERENCES = (1, 2, 3)
DEFAULT_BURST = 20.0
BURST_GAP_SECONDS = 1.0  # mean, between two jobs of a burst
RAMP = (0.2, 1.8)  # a ramp's rate at its start and its end, in parts of the mean rate


@dataclass(frozen=True)
class TraceRecipe:
    """How to draw a trace.

    Attributes:
        mix: as `mix_of` takes it. rate: jobs a second, on average; on a ramp it grows evenly, see `RAMP`.
        seconds: length of the trace. fps: of the clips.
        burst: mean jobs of a burst, all of one tenant and one kind; only for bursty arrivals.
        burst_gap: mean seconds between two jobs of a burst.
        tenants: the n-th sends a share of jobs (or bursts) in proportion to 1 / n.
        jobs: exactly so many, all at once; only for arrivals at once.
    """

    mix: str = "mixed"
    arrivals: Arrivals = "poisson"
    rate: float = 1.0
    seconds: float = 3_600.0
    tenants: int = 8
    burst: float = DEFAULT_BURST
    burst_gap: float = BURST_GAP_SECONDS
    fps: int = 24
    temporal: int = 4
    jobs: int = 0
    seed: int = 1
    tasks: Mapping[Kind, float] = field(default_factory=lambda: dict(TASKS))
    ingredients: tuple[Ingredient, ...] = field(init=False)

    def __post_init__(self) -> None:
        for name in ("rate", "seconds", "burst_gap"):
            if not (math.isfinite(getattr(self, name)) and getattr(self, name) > 0):
                raise TraceError(f"{name} is {getattr(self, name)}, must be above 0")
        for name, least in (("tenants", 1), ("burst", 1)):
            if getattr(self, name) < least:
                raise TraceError(f"{name} is {getattr(self, name)}, must be at least {least}")
        if self.arrivals not in ARRIVALS:
            raise TraceError(f"arrivals is {self.arrivals!r}, must be one of {', '.join(ARRIVALS)}")
        object.__setattr__(self, "ingredients", mix_of(self.mix))
        if (self.arrivals == "at-once") != bool(self.jobs):
            raise TraceError(f"jobs is {self.jobs}: arrivals at once need a number of jobs, others have none")


def generate(recipe: TraceRecipe) -> list[TraceJob]:
    """Draw a trace, the same for the same recipe, in the order of the arrivals."""
    chance = random.Random(recipe.seed)
    if recipe.arrivals == "at-once":
        return [_job(recipe, chance, 0.0, _tenant(recipe, chance), _drawn(recipe, chance)) for _ in range(recipe.jobs)]
    found = _bursts(recipe, chance) if recipe.arrivals == "bursty" else _one_by_one(recipe, chance)
    return sorted(found, key=lambda job: job.arrival)


def sample(recipe: TraceRecipe, count: int) -> list[TraceJob]:
    """Draw jobs of the recipe's mix without regard to arrivals, for an estimate of what a job costs."""
    chance = random.Random(recipe.seed)
    return [_job(recipe, chance, 0.0, "", _drawn(recipe, chance)) for _ in range(count)]


def tenants_of(recipe: TraceRecipe) -> set[str]:
    """Return the names of all tenants that may send jobs of the recipe."""
    named = {kind.tenant for kind in recipe.ingredients if kind.tenant is not None}
    if all(kind.tenant is not None for kind in recipe.ingredients):
        return named
    return named | {f"tenant-{number + 1}" for number in range(recipe.tenants)}


def _one_by_one(recipe: TraceRecipe, chance: random.Random) -> Iterator[TraceJob]:
    times = _ramp if recipe.arrivals == "ramp" else _poisson
    for at in times(chance, recipe.rate, recipe.seconds):
        yield _job(recipe, chance, at, _tenant(recipe, chance), _drawn(recipe, chance))


def _bursts(recipe: TraceRecipe, chance: random.Random) -> Iterator[TraceJob]:
    for start in _poisson(chance, recipe.rate / recipe.burst, recipe.seconds):
        tenant, ingredient = _tenant(recipe, chance), _drawn(recipe, chance)
        size = 1
        while chance.random() > 1 / recipe.burst:
            size += 1
        for at in islice(_poisson(chance, 1 / recipe.burst_gap, float("inf")), size):
            yield _job(recipe, chance, start + at, tenant, ingredient)


def _poisson(chance: random.Random, rate: float, seconds: float) -> Iterator[float]:
    at = chance.expovariate(rate)
    while at < seconds:
        yield at
        at += chance.expovariate(rate)


def _ramp(chance: random.Random, rate: float, seconds: float) -> Iterator[float]:
    """Thin arrivals at the highest rate: each is kept with the share that the rate then has of it."""
    low, high = RAMP
    for at in _poisson(chance, high * rate, seconds):
        if chance.random() < (low + (high - low) * at / seconds) / high:
            yield at


def _job(recipe: TraceRecipe, chance: random.Random, at: float, tenant: str, kind: Ingredient) -> TraceJob:
    width, height = kind.pixels("16:9" if kind.exact_size else _weighted(chance, RATIOS))
    task = _weighted(chance, recipe.tasks) if kind.task is None else kind.task
    references = 0
    if task == "reference_to_video":
        references = chance.choice(REFERENCES) if kind.references is None else kind.references
    arrival = round(at, 3)
    return TraceJob(
        arrival=arrival,
        tenant=tenant if kind.tenant is None else kind.tenant,
        task=task,
        width=width,
        height=height,
        frames=kind.frames or frames_of(kind.seconds, recipe.fps, recipe.temporal),
        steps=kind.steps,
        branches=kind.branches,
        quality=kind.quality,
        references=references,
        adapters=kind.adapters,
        priority=kind.priority,
        deadline=None if kind.deadline is None else arrival + kind.deadline,
    )


def _drawn(recipe: TraceRecipe, chance: random.Random) -> Ingredient:
    kinds: Sequence[Ingredient] = recipe.ingredients
    return chance.choices(kinds, [kind.share for kind in kinds])[0]


def _tenant(recipe: TraceRecipe, chance: random.Random) -> str:
    number = chance.choices(range(recipe.tenants), [1 / (n + 1) for n in range(recipe.tenants)])[0]
    return f"tenant-{number + 1}"


def _weighted(chance: random.Random, shares: Mapping[Key, float]) -> Key:
    return chance.choices(list(shares), list(shares.values()))[0]
