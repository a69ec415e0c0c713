"""The conditioner: encodes prompts and media as conditions."""

from __future__ import annotations

import threading
import time
import uuid
from typing import TYPE_CHECKING, Any

import ray

from zoetrope.model.catalog.identity import weights_of
from zoetrope.model.media.inputs import Clip, Inputs
from zoetrope.model.request.specs import VideoSpec
from zoetrope.model.request.tasks import ModelCard
from zoetrope.serving.config.settings import Settings
from zoetrope.serving.media.sandbox.sandbox import Sandbox
from zoetrope.serving.media.task_inputs import load
from zoetrope.serving.stages.encoded import Encoded
from zoetrope.serving.stages.failures import in_thread
from zoetrope.serving.stages.media_files import StoredMedia, files, infos
from zoetrope.serving.storage.store import open_artifacts

if TYPE_CHECKING:
    from zoetrope.model.denoising.conditions import Conditions


class ConditionerReplica:
    """Serve deployment of the text encoder and the autoencoder. Loads them in its own process, so that the process that
    deploys it needs no torch."""

    def __init__(self, card: ModelCard, settings: Settings) -> None:
        from zoetrope.model.checkpoints.load import configure_torch, load_autoencoder, load_text_encoder
        from zoetrope.model.conditioning.load import load_conditioner
        from zoetrope.serving.stages.conditioning_cache import ConditioningCache
        from zoetrope.serving.stages.device import encoders_stay

        device = configure_torch(card)
        stays = encoders_stay(card, settings, device)
        self._card = card
        self._text = load_text_encoder(card, device, stays=stays)
        self._conditioner = load_conditioner(card, load_autoencoder(card, device, stays=stays), device)
        self._artifacts = open_artifacts(settings.artifacts_url)
        self._scratch = settings.scratch
        self._scratch.mkdir(parents=True, exist_ok=True)
        self._sandbox = Sandbox(scratch=self._scratch, unsafe=settings.unsafe_media)
        self._lock = threading.Lock()
        self._last: tuple[object, Inputs] | None = None
        self._cache = ConditioningCache(settings.condition_cache_bytes)
        self._model = f"{card.name} {card.directory} {weights_of(card)}"
        self._text.share(self._cache.prompts, self._model)
        self._process = uuid.uuid4().hex

    async def encode(self, spec: VideoSpec, media: dict[str, StoredMedia], index: int, before: list[Any]) -> Encoded:
        """Encode one span of a clip.

        Args:
            before: one reference to the frames that the span overlaps, or None. References travel in lists so that Ray
                does not resolve them on the way.

        Raises:
            StageError: for example, a medium turns out to be unusable.
        """
        conditions, seconds = await in_thread(spec, self._condition, spec, media, index, before[0])
        return Encoded([ray.put(conditions)], seconds, self._process, self._cache.figures)

    async def warnings(self, spec: VideoSpec) -> tuple[str, ...]:
        """Return warnings for the client about its prompt. Raises StageError."""
        from zoetrope.model.pipeline import prompt_warnings

        return await in_thread(spec, prompt_warnings, self._text, self._conditioner, spec)

    async def alive(self) -> None:
        """Answer, to show that the process runs."""

    def _condition(
        self, spec: VideoSpec, media: dict[str, StoredMedia], index: int, before: Any
    ) -> tuple[Conditions, float]:
        """Return the conditions, on the CPU, and the seconds that they took."""
        import torch

        from zoetrope.model.pipeline import condition_media, with_texts

        cpu, started = torch.device("cpu"), time.monotonic()
        overlap: Clip | None = None if before is None else ray.get(before)

        def encode_media() -> Conditions:
            found = condition_media(self._conditioner, spec, self._inputs(spec, media), index, overlap)
            return found.to(cpu)

        if overlap is None:
            conditions = self._cache.conditions(self._model, spec, media, index, encode_media)
        else:
            conditions = encode_media()
        conditions = with_texts(self._text, self._conditioner, spec, index, conditions).to(cpu)
        return conditions, time.monotonic() - started

    def _inputs(self, spec: VideoSpec, media: dict[str, StoredMedia]) -> Inputs:
        """Decode the media, once for all spans of a clip."""
        named = {name: stored for name, stored in media.items() if stored.info is not None}
        if not named:
            return Inputs()
        key = (spec.task, spec.fps, spec.model_frames, tuple(stored.key for stored in named.values()))
        with self._lock:
            if self._last is None or self._last[0] != key:
                with files(named, self._artifacts, self._scratch) as paths:
                    found = load(spec, self._card, infos(spec, named), paths.__getitem__, self._sandbox)
                self._last = (key, found)
            return self._last[1]
