"""Prompts and media to conditions."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import ray

from model.inputs import Clip, Inputs
from model.tasks import ModelCard, VideoSpec
from serving.artifacts import open_artifacts
from serving.media.sandbox import Sandbox
from serving.settings import Settings
from serving.stages.failures import apart
from serving.stages.stored import Stored, files, infos
from serving.task_media import load

if TYPE_CHECKING:
    from model.conditions import Conditions


class Conditioner:
    """A Serve deployment around the text encoder and the autoencoder. Imports them in its own process: who deploys it
    does without torch."""

    def __init__(self, card: ModelCard, settings: Settings) -> None:
        from model.checkpoints import configure_torch, load_autoencoder, load_text_encoder
        from model.conditioning.load import load_conditioner

        device = configure_torch(card)
        self._card = card
        self._text = load_text_encoder(card, device)
        self._conditioner = load_conditioner(card, load_autoencoder(card, device), device)
        self._artifacts = open_artifacts(settings.artifacts_url)
        self._scratch = settings.scratch
        self._scratch.mkdir(parents=True, exist_ok=True)
        self._sandbox = Sandbox(scratch=self._scratch, unsafe=settings.unsafe_media)
        self._lock = threading.Lock()
        self._last: tuple[object, Inputs] | None = None

    async def encode(
        self, spec: VideoSpec, media: dict[str, Stored], index: int, before: list[Any]
    ) -> list[ray.ObjectRef]:  # type: ignore[type-arg]
        """A reference to the `model.conditions.Conditions` of one span of a clip.

        References travel in lists so that nobody on the way opens them; the one in ``before`` is of the frames that
        the span takes over, or None.

        Raises:
            StageError: a medium cannot be used after all, for one.
        """
        return [ray.put(await apart(spec, self._condition, spec, media, index, before[0]))]

    async def warnings(self, spec: VideoSpec) -> tuple[str, ...]:
        """What the client should know of how its prompt was read. Raises StageError."""
        from model.pipeline import prompt_warnings

        return await apart(spec, prompt_warnings, self._text, self._conditioner, spec)

    async def alive(self) -> None:
        """Answer, as a process that is there does."""

    def _condition(self, spec: VideoSpec, media: dict[str, Stored], index: int, before: Any) -> Conditions:
        from model.pipeline import condition_span

        overlap: Clip | None = None if before is None else ray.get(before)
        return condition_span(self._text, self._conditioner, spec, self._inputs(spec, media), index, overlap)

    def _inputs(self, spec: VideoSpec, media: dict[str, Stored]) -> Inputs:
        """Decoded once for all spans of a clip."""
        named = {name: stored for name, stored in media.items() if stored.info is not None}
        if not named:
            return Inputs()
        of = (spec.task, spec.fps, spec.model_frames, tuple(stored.key for stored in named.values()))
        with self._lock:
            if self._last is None or self._last[0] != of:
                with files(named, self._artifacts, self._scratch) as paths:
                    found = load(spec, self._card, infos(spec, named), paths.__getitem__, self._sandbox.blocking)
                self._last = (of, found)
            return self._last[1]
