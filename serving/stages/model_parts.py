"""What a stage has loaded of each of several models: of a few at a time, those used last."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Generic, TypeVar

from zoetrope.model.request.tasks import ModelCard
from zoetrope.serving.config.served_models import ServedModels

P = TypeVar("P")


@dataclass
class _Loaded(Generic[P]):
    """``users``: threads that use the parts. ``parts``: None while they are being loaded."""

    parts: P | None = None
    users: int = 0


class ModelParts(Generic[P]):
    """Loads the parts of models when they are used, at most ``most`` at a time. Before another is loaded, the one
    that was not used for longest is unloaded. While all of them are in use, a caller waits."""

    def __init__(self, models: ServedModels, load: Callable[[ModelCard], P], most: int) -> None:
        """Load those of the first model. ``load`` runs in the thread of the caller."""
        self._cards = models.by_name()
        self._load = load
        self._most = most
        self._loaded: OrderedDict[str, _Loaded[P]] = OrderedDict()
        self._changed = threading.Condition()
        with self.of(models.default.name):
            pass

    @contextmanager
    def of(self, model: str) -> Iterator[P]:
        """Yield a model's parts, which stay loaded meanwhile.

        Raises:
            ModelError: they cannot be loaded.
        """
        parts = self._acquire(model)
        if len(self._cards) > 1:
            self._use_threads(model)
        try:
            yield parts
        finally:
            with self._changed:
                self._loaded[model].users -= 1
                self._changed.notify_all()

    def _acquire(self, model: str) -> P:
        with self._changed:
            while (entry := self._loaded.get(model)) is None and not self._make_room():
                self._changed.wait()
            if entry is not None:
                entry.users += 1
                self._loaded.move_to_end(model)
                while entry.parts is None:
                    if self._loaded.get(model) is not entry:  # it could not be loaded: try again
                        return self._acquire(model)
                    self._changed.wait()
                return entry.parts
            entry = self._loaded[model] = _Loaded(users=1)
        try:
            parts = self._load(self._cards[model])
        except BaseException:
            with self._changed:
                del self._loaded[model]
                self._changed.notify_all()
            raise
        with self._changed:
            entry.parts = parts
            self._changed.notify_all()
        return parts

    def _make_room(self) -> bool:
        """Unload what was not used for longest, if there is no room; False if all is in use."""
        if len(self._loaded) < self._most:
            return True
        idle = next((name for name, entry in self._loaded.items() if not entry.users), None)
        if idle is None:
            return False
        del self._loaded[idle]
        _free()
        return True

    def _use_threads(self, model: str) -> None:
        """Have this thread compute with as many others as the model is always computed with."""
        from zoetrope.model.checkpoints.load import configure_torch

        configure_torch(self._cards[model])


def _free() -> None:
    """Give the memory of what was unloaded back: Python's cycles, and the GPU's cache."""
    import gc

    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
