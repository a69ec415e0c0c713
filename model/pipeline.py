"""Run the whole model in one process, for `zoetrope generate --local` and the evaluation."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch

from zoetrope.model.checkpoints.load import (
    configure_torch,
    load_autoencoder,
    load_denoiser,
    load_text_encoder,
)
from zoetrope.model.checkpoints.weights import OnProgress, ignore_progress
from zoetrope.model.codecs.ahead import read_ahead
from zoetrope.model.codecs.autoencoder import Autoencoder
from zoetrope.model.codecs.text import TextEncoder
from zoetrope.model.codecs.tiling import Tiling
from zoetrope.model.denoising.chaining import overlap_of, span_inputs, span_spec
from zoetrope.model.denoising.forward import InParts, run_alone
from zoetrope.model.denoising.guidance import uses_negative
from zoetrope.model.media.inputs import Clip, Inputs
from zoetrope.model.request.specs import VideoSpec, segment_of
from zoetrope.model.request.tasks import ModelCard
from zoetrope.model.streaming.device_plan import ALL_STAYS, DevicePlan

if TYPE_CHECKING:
    from zoetrope.model.conditioning import Conditioner
    from zoetrope.model.denoising.conditions import Conditions
    from zoetrope.model.denoising.denoise import Denoiser, Segment

OnStep = Callable[[int, int], None]
NOTHING = Inputs()
NO_TEXT = torch.empty(0, 0)


def quiet(_step: int, _steps: int) -> None:
    """Report no progress."""


class LocalPipeline:
    """Conditioner, denoiser and decoder in one process, without Ray."""

    def __init__(
        self, text: TextEncoder, denoiser: Denoiser, autoencoder: Autoencoder, conditioner: Conditioner
    ) -> None:
        self.text = text
        self.denoiser = denoiser
        self.autoencoder = autoencoder
        self.conditioner = conditioner

    @classmethod
    def load(
        cls, card: ModelCard, on_progress: OnProgress = ignore_progress, plan: DevicePlan = ALL_STAYS
    ) -> LocalPipeline:
        """Load a model.

        Args:
            on_progress: called with (parameters read, parameters in total) of the transformer.
            plan: what of it stays on the device.

        Raises:
            ModelError: see `model.checkpoints.load`."""
        from zoetrope.model.conditioning.load import load_conditioner

        device = configure_torch(card)
        text = load_text_encoder(card, device, stays=plan.encoders_stay)
        autoencoder = load_autoencoder(card, device, stays=plan.encoders_stay)
        runner = run_alone if plan.most_tokens is None else InParts(run_alone, plan.most_tokens)
        denoiser = load_denoiser(card, device, on_progress, runner=runner, room=plan.room)
        return cls(text, denoiser, autoencoder, load_conditioner(card, autoencoder, device))

    def warnings(self, spec: VideoSpec) -> tuple[str, ...]:
        """Return warnings; see `prompt_warnings`."""
        return prompt_warnings(self.text, self.conditioner, spec)

    def run(self, spec: VideoSpec, inputs: Inputs = NOTHING, on_step: OnStep = quiet) -> list[torch.Tensor]:
        """Return latents ``[C, T, H, W]`` float32 on the CPU for each of the clip's spans; ``on_step(step, steps)`` is
        called after every step, counted over all spans."""
        steps, before = spec.steps * len(spec.spans), None
        done: list[torch.Tensor] = []
        for index in range(len(spec.spans)):
            segment = self.start(spec, inputs, index, before)
            while not segment.sampler.done:
                self.denoiser.step([segment])
                on_step(index * spec.steps + segment.sampler.step, steps)
            done.append(segment.result().cpu())
            overlap = overlap_of(spec, index)
            before = tail(self.autoencoder, spec, done[-1], overlap) if overlap else None
        return done

    def run_batch(
        self, specs: list[VideoSpec], on_step: OnStep = quiet, inputs: list[Inputs] | None = None
    ) -> list[torch.Tensor]:
        """Run several clips of one span each in one batch, of any tasks, shapes and step counts; reported steps are
        those of the longest.

        Raises:
            ValueError: a clip has several spans, which depend on each other.
        """
        if any(len(spec.spans) != 1 for spec in specs):
            raise ValueError("a clip of several segments cannot be batched with others")
        given = inputs if inputs is not None else [NOTHING] * len(specs)
        segments = [self.start(spec, media) for spec, media in zip(specs, given, strict=True)]
        longest = max(segments, key=lambda segment: segment.spec.steps)
        while pending := [segment for segment in segments if not segment.sampler.done]:
            self.denoiser.step(pending)
            on_step(longest.sampler.step, longest.spec.steps)
        return [segment.result().cpu() for segment in segments]

    def start(self, spec: VideoSpec, inputs: Inputs = NOTHING, index: int = 0, before: Clip | None = None) -> Segment:
        """Return the segment of a span before its first step; ``before`` as in
        `model.denoising.chaining.span_inputs`."""
        conditions = condition_span(self.text, self.conditioner, spec, inputs, index, before)
        return self.denoiser.start(segment_of(spec, str(index), index), conditions)

    def decode_spans(self, spec: VideoSpec, latents: Sequence[torch.Tensor]) -> Iterator[npt.NDArray[np.uint8]]:
        """Yield the frames of a whole clip from the result of `run`."""
        return decode_spans(self.autoencoder, spec, latents)

    def decode(self, latents: torch.Tensor) -> Iterator[npt.NDArray[np.uint8]]:
        """Yield frames ``[n, H, W, 3]`` uint8 in order, as they are ready."""
        return decode_frames(self.autoencoder, latents)


@torch.inference_mode()
def condition_span(
    text: TextEncoder, conditioner: Conditioner, spec: VideoSpec, inputs: Inputs, index: int, before: Clip | None
) -> Conditions:
    """Return the conditions of one span of a clip; ``before`` as in `model.denoising.chaining.span_inputs`."""
    return with_texts(text, conditioner, spec, index, condition_media(conditioner, spec, inputs, index, before))


@torch.inference_mode()
def condition_media(
    conditioner: Conditioner, spec: VideoSpec, inputs: Inputs, index: int, before: Clip | None
) -> Conditions:
    """Return the conditions of one span that come from its media; those from its texts are missing."""
    return conditioner.condition(span_spec(spec, index), span_inputs(spec, inputs, index, before), NO_TEXT, None)


@torch.inference_mode()
def with_texts(
    text: TextEncoder, conditioner: Conditioner, spec: VideoSpec, index: int, conditions: Conditions
) -> Conditions:
    """Add the conditions that come from a span's texts to those from its media."""
    positive = text.encode([conditioner.prompt(span_spec(spec, index))])[0]
    negative = None
    if uses_negative(conditions.guidance, spec.guidance):
        negative = text.encode([spec.negative_prompt])[0]
    return replace(conditions, positive=positive, negative=negative)


def prompt_warnings(text: TextEncoder, conditioner: Conditioner, spec: VideoSpec) -> tuple[str, ...]:
    """Return a sentence for each text that is longer than the text encoder reads."""
    texts = {"prompt": conditioner.prompt(spec), "negative_prompt": spec.negative_prompt}
    cut = text.truncated(list(texts.values()))
    return tuple(
        f"{field}: only its first {text.max_tokens} tokens were read"
        for field, shortened in zip(texts, cut, strict=True)
        if shortened
    )


def tail(autoencoder: Autoencoder, spec: VideoSpec, latents: torch.Tensor, frames: int) -> Clip:
    """Decode the last frames of a segment, which the next one continues."""
    kept: npt.NDArray[np.uint8] | None = None
    for chunk in decode_frames(autoencoder, latents, tiling_of(spec)):
        kept = (chunk if kept is None else np.concatenate([kept, chunk]))[-frames:]
    if kept is None or len(kept) < frames:
        raise ValueError(
            f"a segment of {latents.shape[1]} latent frames has fewer than {frames} frames to continue from"
        )
    return Clip(np.ascontiguousarray(kept), spec.fps)


def decode_spans(
    autoencoder: Autoencoder, spec: VideoSpec, latents: Sequence[torch.Tensor]
) -> Iterator[npt.NDArray[np.uint8]]:
    """Yield the frames of a clip in order; frames that two spans share come from the earlier one. An autoencoder that
    decodes several streams side by side decodes as many spans at a time."""
    parts = [decode_frames(autoencoder, part, tiling_of(spec)) for part in latents]
    for span, part in zip(spec.spans, read_ahead(parts, autoencoder.streams), strict=True):
        skip = span.known
        for chunk in part:
            fresh = chunk[skip:]
            skip -= len(chunk) - len(fresh)
            if len(fresh):
                yield fresh


def tiling_of(spec: VideoSpec) -> Tiling | None:
    return None if spec.tiling is None else Tiling(*spec.tiling)


def decode_frames(
    autoencoder: Autoencoder, latents: torch.Tensor, tiling: Tiling | None = None
) -> Iterator[npt.NDArray[np.uint8]]:
    """Decode latents ``[C, T, H, W]``; yield frames ``[n, H, W, 3]`` uint8 as they are ready.

    Raises:
        ValueError: the autoencoder returned values that are not finite.
    """
    with torch.inference_mode():
        for chunk in autoencoder.decode_stream(latents, tiling):
            if not chunk.isfinite().all():
                raise ValueError("the autoencoder gave values that are not finite")
            pixels = ((chunk.float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
            yield pixels.permute(1, 2, 3, 0).contiguous().cpu().numpy()
