"""The conditioner: encodes prompts and media as conditions."""

from __future__ import annotations

import threading
import time
import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import ray

from zoetrope.cluster.telemetry.metrics import STAGE_SECONDS
from zoetrope.cluster.telemetry.process import begin
from zoetrope.cluster.telemetry.traces import SEGMENT, flush_traces
from zoetrope.model.catalog.weights_identity import weights_of
from zoetrope.model.media.inputs import Clip, Inputs
from zoetrope.model.request.specs import VideoSpec
from zoetrope.model.request.tasks import ModelCard
from zoetrope.serving.config.served_models import ServedModels
from zoetrope.serving.config.settings import Settings
from zoetrope.serving.media.sandbox.sandbox import Sandbox
from zoetrope.serving.media.task_inputs import load
from zoetrope.serving.stages.encoded import Encoded
from zoetrope.serving.stages.failures import in_thread, staged
from zoetrope.serving.stages.media_files import StoredMedia, files, infos
from zoetrope.serving.stages.model_parts import ModelParts
from zoetrope.serving.storage.store import open_artifacts

if TYPE_CHECKING:
    from zoetrope.model.codecs.text import TextEncoder
    from zoetrope.model.conditioning import Conditioner
    from zoetrope.model.denoising.conditions import Conditions


@dataclass(frozen=True)
class _Parts:
    """What conditions of one model are made with, and its name in caches."""

    card: ModelCard
    text: TextEncoder
    conditioner: Conditioner
    identity: str  # of all of them


class ConditionerReplica:
    """Serve deployment of text encoders and autoencoders. Loads them in its own process, so that the process that
    deploys it needs no torch."""

    def __init__(self, models: ServedModels, settings: Settings) -> None:
        from zoetrope.serving.stages.conditioning_cache import ConditioningCache

        begin("conditioner")
        self._settings = settings
        self._alone = len(models) == 1
        self._cache = ConditioningCache(settings.condition_cache_bytes)
        self._process = uuid.uuid4().hex
        self._parts = ModelParts(models, self._load, settings.resident_models)
        self._artifacts = open_artifacts(settings.artifacts_url)
        self._scratch = settings.scratch
        self._scratch.mkdir(parents=True, exist_ok=True)
        self._sandbox = Sandbox(scratch=self._scratch, unsafe=settings.unsafe_media)
        self._lock = threading.Lock()
        self._last: tuple[object, Inputs] | None = None

    def __del__(self) -> None:
        """Serve calls this before it stops the replica."""
        flush_traces()

    async def encode(
        self, spec: VideoSpec, media: dict[str, StoredMedia], index: int, before: list[Any], trace: str = ""
    ) -> Encoded:
        """Encode one span of a clip.

        Args:
            before: one reference to the frames that the span overlaps, or None. References travel in lists so that Ray
                does not resolve them on the way.
            trace: the traceparent of the job's work.

        Raises:
            StageError: for example, a medium turns out to be unusable.
        """
        with staged("conditioning", spec, trace, {SEGMENT: index}):
            conditions, seconds = await in_thread(spec, self._condition, spec, media, index, before[0])
        STAGE_SECONDS.labels(spec.model, "conditioning").observe(seconds)
        return Encoded([ray.put(conditions)], seconds, self._process, self._cache.figures)

    async def warnings(self, spec: VideoSpec) -> tuple[str, ...]:
        """Return warnings for the client about its prompt. Raises StageError."""
        from zoetrope.model.pipeline import prompt_warnings

        def found() -> tuple[str, ...]:
            with self._parts.of(spec.model) as parts:
                return prompt_warnings(parts.text, parts.conditioner, spec)

        return await in_thread(spec, found)

    async def alive(self) -> None:
        """Answer, to show that the process runs."""

    def _load(self, card: ModelCard) -> _Parts:
        from zoetrope.model.checkpoints.load import configure_torch, load_autoencoder, load_text_encoder
        from zoetrope.model.conditioning.load import load_conditioner
        from zoetrope.serving.stages.device import encoders_stay

        device = configure_torch(card)
        stays = self._alone and encoders_stay(card, self._settings, device)
        text = load_text_encoder(card, device, stays=stays)
        identity = f"{card.name} {card.directory} {weights_of(card)}"
        text.share(self._cache.prompts, identity)
        conditioner = load_conditioner(card, load_autoencoder(card, device, stays=stays), device)
        return _Parts(card, text, conditioner, identity)

    def _condition(
        self, spec: VideoSpec, media: dict[str, StoredMedia], index: int, before: Any
    ) -> tuple[Conditions, float]:
        """Return the conditions, on the CPU, and the seconds that they took."""
        import torch

        from zoetrope.model.pipeline import condition_media, with_texts

        cpu, started = torch.device("cpu"), time.monotonic()
        overlap: Clip | None = None if before is None else ray.get(before)

        with self._parts.of(spec.model) as parts:

            def encode_media() -> Conditions:
                inputs = self._inputs(spec, parts.card, media)
                return condition_media(parts.conditioner, spec, inputs, index, overlap).to(cpu)

            if overlap is None:
                conditions = self._cache.conditions(parts.identity, spec, media, index, encode_media)
            else:
                conditions = encode_media()
            conditions = with_texts(parts.text, parts.conditioner, spec, index, conditions).to(cpu)
        return conditions, time.monotonic() - started

    def _inputs(self, spec: VideoSpec, card: ModelCard, media: dict[str, StoredMedia]) -> Inputs:
        """Decode the media, once for all spans of a clip."""
        named = {name: stored for name, stored in media.items() if stored.info is not None}
        if not named:
            return Inputs()
        key = (card.name, spec.task, spec.fps, spec.model_frames, tuple(stored.key for stored in named.values()))
        with self._lock:
            if self._last is None or self._last[0] != key:
                with files(named, self._artifacts, self._scratch) as paths:
                    found = load(spec, card, infos(spec, named), paths.__getitem__, self._sandbox)
                self._last = (key, found)
            return self._last[1]
