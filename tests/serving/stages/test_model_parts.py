"""A stage keeps the parts of a few models loaded, those used last."""

from __future__ import annotations

import threading
from dataclasses import replace

import pytest

from zoetrope.model.catalog.presets import find_model
from zoetrope.model.inspection.files import ModelError
from zoetrope.model.request.tasks import ModelCard
from zoetrope.serving.config.served_models import ServedModels
from zoetrope.serving.stages.model_parts import ModelParts

NANO = find_model("nano")
MODELS = ServedModels([replace(NANO, name=name) for name in "abc"])


class Shelf:
    """Loads names, and counts how often."""

    def __init__(self) -> None:
        self.loaded: list[str] = []
        self.broken: set[str] = set()

    def load(self, card: ModelCard) -> str:
        if card.name in self.broken:
            raise ModelError(f"{card.name} is broken")
        self.loaded.append(card.name)
        return f"parts of {card.name}"


def use(parts: ModelParts[str], name: str) -> str:
    with parts.of(name) as found:
        return found


def test_the_first_model_is_loaded_at_once_and_others_when_they_are_used() -> None:
    shelf = Shelf()
    parts = ModelParts(MODELS, shelf.load, 2)
    assert shelf.loaded == ["a"]
    assert [use(parts, name) for name in "bab"] == ["parts of b", "parts of a", "parts of b"]
    assert shelf.loaded == ["a", "b"]


def test_what_was_not_used_for_longest_gives_way() -> None:
    shelf = Shelf()
    parts = ModelParts(MODELS, shelf.load, 2)
    for name in "bac":
        use(parts, name)
    assert shelf.loaded == ["a", "b", "c"]
    use(parts, "a")
    assert shelf.loaded == ["a", "b", "c"], "b gave way, not a"
    use(parts, "b")
    assert shelf.loaded == ["a", "b", "c", "b"]


def test_what_is_in_use_stays_and_others_wait_for_it() -> None:
    shelf = Shelf()
    parts = ModelParts(MODELS, shelf.load, 1)
    begun, done = threading.Event(), threading.Event()

    def other() -> None:
        begun.set()
        use(parts, "b")
        done.set()

    with parts.of("a"):
        thread = threading.Thread(target=other)
        thread.start()
        assert begun.wait(30)
        assert use(parts, "a") == "parts of a" and shelf.loaded == ["a"]
        assert not done.is_set()
    assert done.wait(30)
    thread.join()
    assert shelf.loaded == ["a", "b"]


def test_a_load_that_fails_is_tried_again() -> None:
    shelf = Shelf()
    parts = ModelParts(MODELS, shelf.load, 2)
    shelf.broken = {"b"}
    with pytest.raises(ModelError, match="b is broken"):
        use(parts, "b")
    shelf.broken = set()
    assert use(parts, "b") == "parts of b"
