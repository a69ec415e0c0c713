"""What stands around the engines, as the router has it: conditioners, decoders, and the latents in between."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

from zoetrope.model.runtime.byte_cache import CacheFigures
from zoetrope.serving.config.settings import Settings
from zoetrope.serving.router.latents import LatentShelf
from zoetrope.serving.stages.isolation import IsolatedStage
from zoetrope.serving.storage.store import ArtifactStore

WIDTH = 2  # calls in a process of a stage at a time: one computes while the other reads or writes files


class Surroundings:
    """The stages before and after the engines, of several processes each, and what is known of them."""

    def __init__(
        self,
        settings: Settings,
        conditioners: Sequence[Any],
        decoders: Sequence[Any],
        artifacts: ArtifactStore,
        urgency: Callable[[str], float],
    ) -> None:
        """
        Args:
            conditioners, decoders: handles of deployments of one process each.
            urgency: of a job by its id; of those that wait for a process the one with the smallest is next.
        """
        self.conditioner = IsolatedStage("conditioner", *conditioners, width=WIDTH, urgency=urgency)
        self.decoder = IsolatedStage("decoder", *decoders, width=WIDTH, urgency=urgency)
        self.latents = LatentShelf(artifacts, settings.held_latents_bytes, settings.spilled_latents_bytes)
        self._caches: dict[str, dict[str, CacheFigures]] = {}  # of each conditioner, as it last said

    def note_caches(self, process: str, caches: dict[str, CacheFigures]) -> None:
        """Take note of what a conditioner says of its caches."""
        self._caches[process] = caches

    def figures(self) -> dict[str, float]:
        """Return what is known, by names of several words with points between: calls that run and wait in each stage,
        bytes of latents on their way, and what the caches of the conditioners have saved in this router's time."""
        found: dict[str, float] = {}
        for stage in (self.conditioner, self.decoder):
            found |= {f"calls.{stage.name}.running": stage.running, f"calls.{stage.name}.waiting": stage.waiting}
        found |= {"latents.held": self.latents.held, "latents.spilled": self.latents.spilled}
        for caches in self._caches.values():
            for kind, figures in caches.items():
                for name, value in asdict(figures).items():
                    key = f"cache.{kind}.{name}"
                    found[key] = found.get(key, 0) + value
        return found
