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

    def figures(self) -> dict[str, Any]:
        """Return what is known: calls that run and wait, latents on their way, and what the caches of the conditioners
        have saved in this router's time."""
        totals: dict[str, CacheFigures] = {}
        for caches in self._caches.values():
            for kind, figures in caches.items():
                totals[kind] = totals.get(kind, CacheFigures()) + figures
        stages = {stage.name: {"running": stage.running, "waiting": stage.waiting} for stage in self._both()}
        latents = {"held": self.latents.held, "spilled": self.latents.spilled, "full": self.latents.full}
        return {"stages": stages, "latents": latents, "caches": {kind: asdict(f) for kind, f in totals.items()}}

    def _both(self) -> tuple[IsolatedStage, IsolatedStage]:
        return self.conditioner, self.decoder
