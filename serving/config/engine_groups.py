"""The engines of a service: how many of which size, and which models each size can run."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from zoetrope.cluster.planning.expert_traffic import check_divides
from zoetrope.model.catalog.checkpoint_layout import read_transformers
from zoetrope.model.catalog.model_card import transformer_config
from zoetrope.model.catalog.parts import source_of
from zoetrope.model.inspection.files import ModelError
from zoetrope.model.request.tasks import ModelCard

if TYPE_CHECKING:
    from zoetrope.serving.config.settings import Settings


@dataclass(frozen=True)
class EngineGroup:
    """So many engines of so many ranks each."""

    count: int
    ranks: int


def engine_groups(settings: Settings) -> tuple[EngineGroup, ...]:
    """Return the engines of a service by their size, in the order in which the sizes are named first."""
    counts: dict[int, int] = {}
    for text in settings.engines:
        count, _, ranks = text.partition("x")
        size = int(ranks or settings.ranks)
        counts[size] = counts.get(size, 0) + int(count)
    return tuple(EngineGroup(count, ranks) for ranks, count in counts.items())


def bounds_of(settings: Settings, count: int) -> tuple[int, int]:
    """Return the least and the most engines of a size of which a service starts with so many."""
    most = count if settings.max_engines is None else settings.max_engines
    return min(count, most) if settings.min_engines is None else settings.min_engines, most


def models_of_gangs(
    cards: Iterable[ModelCard], groups: Sequence[EngineGroup], cfg_groups: int
) -> dict[int, tuple[ModelCard, ...]]:
    """Return which models a gang can run, by its ranks.

    Raises:
        ModelError: a gang cannot run any, or no gang can run one of them.
    """
    found: dict[int, tuple[ModelCard, ...]] = {group.ranks: () for group in groups}
    for card in cards:
        problems = {ranks: _problem(card, ranks, cfg_groups) for ranks in found}
        for ranks, problem in problems.items():
            found[ranks] += () if problem else (card,)
        if all(problems.values()):
            ranks, problem = next(iter(problems.items()))
            raise ModelError(f"ranks: {card.name} cannot run on {ranks}: {problem}")
    for ranks, able in found.items():
        if not able:
            raise ModelError(f"engines: none of the models can run on {ranks} ranks")
    return found


def _problem(card: ModelCard, ranks: int, cfg_groups: int) -> str:
    """Say why a model cannot run on so many ranks; "" if it can."""
    if ranks % cfg_groups:
        return f"cfg-groups is {cfg_groups}, which must divide them"
    try:
        for part in read_transformers(source_of(card)):
            check_divides(transformer_config(part), ranks // cfg_groups)
    except ValueError as error:
        return str(error)
    return ""
