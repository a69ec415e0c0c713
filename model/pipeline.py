"""The whole model in one process: what `zoetrope generate --local` and the evaluation run."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import numpy.typing as npt
import torch

from model.autoencoder import Autoencoder
from model.checkpoints import (
    configure_torch,
    load_autoencoder,
    load_scheduler_config,
    load_text_encoder,
    load_transformer,
)
from model.denoise import Conditions, Denoiser
from model.tasks import ModelCard, VideoSpec, needs_negative, segment_of
from model.text import TextEncoder


class LocalPipeline:
    """Conditioner, engine and decoder side by side, without Ray."""

    def __init__(self, text: TextEncoder, denoiser: Denoiser, autoencoder: Autoencoder) -> None:
        self.text = text
        self.denoiser = denoiser
        self.autoencoder = autoencoder

    @classmethod
    def load(cls, card: ModelCard) -> LocalPipeline:
        """Raises ModelError, see `model.checkpoints`."""
        device = configure_torch()
        denoiser = Denoiser(load_transformer(card, device), load_scheduler_config(card))
        return cls(load_text_encoder(card, device), denoiser, load_autoencoder(card, device))

    def run(self, spec: VideoSpec, on_step: Callable[[int, int], None] = lambda step, steps: None) -> torch.Tensor:
        """Latents ``[C, T, H, W]`` float32 on the CPU; ``on_step(step, steps)`` after every step."""
        return self.run_batch([spec], on_step)[0]

    def run_batch(
        self, specs: list[VideoSpec], on_step: Callable[[int, int], None] = lambda step, steps: None
    ) -> list[torch.Tensor]:
        """Several clips in one batch, of any shapes and step counts; the steps reported are those of the longest."""
        segments = [
            self.denoiser.start(segment_of(spec, str(i)), encode_conditions(self.text, spec))
            for i, spec in enumerate(specs)
        ]
        steps = max(spec.steps for spec in specs)
        for step in range(steps):
            self.denoiser.step([s for s in segments if not s.sampler.done])
            on_step(step + 1, steps)
        return [segment.latents.cpu() for segment in segments]

    def decode(self, latents: torch.Tensor) -> Iterator[npt.NDArray[np.uint8]]:
        """Frames ``[n, H, W, 3]`` uint8 in order, as they are ready."""
        return decode_frames(self.autoencoder, latents)


@torch.inference_mode()
def encode_conditions(text: TextEncoder, spec: VideoSpec) -> Conditions:
    """Encode the prompts of a clip, the negative one only where guidance uses it."""
    if not needs_negative(spec.guidance):
        return Conditions(text.encode([spec.prompt])[0], None)
    positive, negative = text.encode([spec.prompt, spec.negative_prompt])
    return Conditions(positive, negative)


def decode_frames(autoencoder: Autoencoder, latents: torch.Tensor) -> Iterator[npt.NDArray[np.uint8]]:
    """Latents ``[C, T, H, W]`` to frames ``[n, H, W, 3]`` uint8."""
    with torch.inference_mode():
        for chunk in autoencoder.decode_stream(latents):
            pixels = ((chunk.float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
            yield pixels.permute(1, 2, 3, 0).contiguous().cpu().numpy()
