"""Prompts to conditions."""

from __future__ import annotations

import asyncio

import ray

from model.checkpoints import configure_torch, load_text_encoder
from model.pipeline import encode_conditions
from model.tasks import ModelCard, VideoSpec


class Conditioner:
    """A Serve deployment around the text encoder."""

    def __init__(self, card: ModelCard) -> None:
        self._text = load_text_encoder(card, configure_torch())

    async def encode(self, spec: VideoSpec) -> list[ray.ObjectRef]:  # type: ignore[type-arg]
        """A reference to the `model.denoise.Conditions` of a clip, in a list so that nobody on the way opens it."""
        conditions = await asyncio.to_thread(encode_conditions, self._text, spec)
        return [ray.put(conditions)]
