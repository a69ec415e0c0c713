"""The models of a service: their cards, and the names by which requests call each."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from zoetrope.model.catalog.presets import open_model
from zoetrope.model.inspection.files import ModelError
from zoetrope.model.request.load_options import OPTIONS, LoadOptions
from zoetrope.model.request.tasks import ModelCard

if TYPE_CHECKING:
    from zoetrope.serving.config.settings import Settings

ALIAS_SIGN = "="  # between another name and the model's own


class ServedModels:
    """Models by name, the first one being what a request gets that names none."""

    def __init__(self, cards: Sequence[ModelCard], aliases: Sequence[str] = ()) -> None:
        """
        Args:
            cards: at least one. aliases: other names, ``ALIAS`` of the first model or ``ALIAS=MODEL``.

        Raises:
            ModelError: two models have one name, or an alias names none.
        """
        self.cards = tuple(cards)
        self._by_name: dict[str, ModelCard] = {}
        for card in cards:
            if card.name in self._by_name:
                raise ModelError(f"model: two of them are called {card.name}: give one a model card with another name")
            self._by_name[card.name] = card
        own = tuple(self._by_name)
        for text in aliases:
            alias, sign, name = text.partition(ALIAS_SIGN)
            card = self._by_name[own[0]] if not sign else self._by_name.get(name, cards[0])
            if sign and name not in own:
                raise ModelError(f"served_model_name: {text!r} names {name!r}; models: {', '.join(own)}")
            if self._by_name.setdefault(alias, card) is not card:
                other = self._by_name[alias].name
                raise ModelError(f"served_model_name: {alias!r} is a name of {other}, it cannot be one of {card.name}")

    def __iter__(self) -> Iterator[ModelCard]:
        return iter(self.cards)

    def __len__(self) -> int:
        return len(self.cards)

    @property
    def default(self) -> ModelCard:
        """The first model."""
        return self.cards[0]

    @property
    def names(self) -> tuple[str, ...]:
        """All names by which requests may call a model, each model's own first."""
        return tuple(name for card in self.cards for name in self.names_of(card))

    @property
    def tasks(self) -> tuple[str, ...]:
        """The kinds of tasks that any model has, each once."""
        return tuple(dict.fromkeys(kind for card in self.cards for kind in card.tasks))

    def names_of(self, card: ModelCard) -> tuple[str, ...]:
        """Return the names of one model, its own first."""
        return (card.name, *(name for name, named in self._by_name.items() if named is card and name != card.name))

    def find(self, name: str) -> ModelCard | None:
        """Find a model by one of its names."""
        return self._by_name.get(name)

    def of_task(self, kinds: Collection[str]) -> ModelCard | None:
        """Return the first model that has one of these tasks."""
        return next((card for card in self.cards if set(kinds) & set(card.tasks)), None)

    def allowed(self, names: Collection[str] | None) -> ServedModels | None:
        """Return the models that one of these names means, all for None; None if there is none."""
        if names is None:
            return self
        cards = [card for card in self.cards if set(names) & set(self.names_of(card))]
        aliases = [f"{alias}={card.name}" for card in cards for alias in self.names_of(card)[1:]]
        return ServedModels(cards, aliases) if cards else None

    def by_name(self) -> Mapping[str, ModelCard]:
        """Return the models by their own names."""
        return {card.name: card for card in self.cards}


def open_models(settings: Settings, find: Callable[[str, LoadOptions], ModelCard] = open_model) -> ServedModels:
    """Find the models of a service.

    Args:
        find: `model.catalog.presets.open_model`, or `find_model` for what does not read weights.

    Raises:
        ModelError: one cannot be served, or the settings say how to load one of several without saying which.
    """
    check_load(settings)
    return ServedModels([find(name, settings.load) for name in settings.model], settings.served_model_name)


def check_load(settings: Settings) -> None:
    """Check that options that say how a model is loaded are meant for one.

    Raises:
        ModelError.
    """
    load = settings.load
    given = [name for name, default in OPTIONS.items() if getattr(load, name) != default or name in load.given]
    if given and len(settings.model) > 1:
        raise ModelError(
            f"{given[0].replace('_', '-')}: says how one model is loaded, but {len(settings.model)} are served: give "
            "each a model card (zoetrope models add), which says it"
        )
