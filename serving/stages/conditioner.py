"""Prompts to conditions."""

from __future__ import annotations

import asyncio
from typing import Any

import ray

from model.checkpoints import configure_torch, load_autoencoder, load_conditioner, load_text_encoder
from model.conditions import Conditions
from model.inputs import Clip
from model.pipeline import NOTHING, condition_span, prompt_warnings
from model.tasks import ModelCard, VideoSpec


class Conditioner:
    """A Serve deployment around the text encoder."""

    def __init__(self, card: ModelCard) -> None:
        device = configure_torch()
        self._text = load_text_encoder(card, device)
        self._conditioner = load_conditioner(card, load_autoencoder(card, device), device)

    async def encode(self, spec: VideoSpec, index: int, before: list[Any]) -> list[ray.ObjectRef]:  # type: ignore[type-arg]
        """A reference to the `model.conditions.Conditions` of one span of a clip.

        References travel in lists so that nobody on the way opens them; the one in ``before`` is of the frames that
        the span takes over, or None.
        """
        return [ray.put(await asyncio.to_thread(self._condition, spec, index, before[0]))]

    async def warnings(self, spec: VideoSpec) -> tuple[str, ...]:
        """What the client should know of how its prompt was read."""
        return await asyncio.to_thread(prompt_warnings, self._text, self._conditioner, spec)

    def _condition(self, spec: VideoSpec, index: int, before: Any) -> Conditions:
        overlap: Clip | None = None if before is None else ray.get(before)
        return condition_span(self._text, self._conditioner, spec, NOTHING, index, overlap)
