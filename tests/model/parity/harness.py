"""diffusers' pipeline and ours side by side, from the same weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from zoetrope.model.codecs.autoencoder import WanAutoencoder
from zoetrope.model.codecs.text import TextEncoder
from zoetrope.model.conditioning import Conditioner
from zoetrope.model.denoising.conditions import Conditions
from zoetrope.model.denoising.denoise import Denoiser
from zoetrope.model.families.config import TransformerConfig
from zoetrope.model.media.inputs import Inputs
from zoetrope.model.media.resize import Frames
from zoetrope.model.network.transformer import WanTransformer
from zoetrope.model.request.specs import SegmentFrames, VideoSpec, segment_of
from zoetrope.model.request.tasks import Task

# Full-width letters, curly quotes and an escape twice over: words of the vocabulary only once they are cleaned.
PROMPT, NEGATIVE = "a \uff52\uff45\uff44 circle \u201cmoving\u201d  right", "bl&amp;#117;e"
WIDTH, HEIGHT, FRAMES, STEPS, SEED = 48, 32, 9, 4, 7


def same_as(theirs: Any) -> WanTransformer:
    """Our network with the very tensors of diffusers' one, of whatever dtypes they are."""
    with torch.device("meta"):
        network = WanTransformer(TransformerConfig.model_validate(dict(theirs.config)))
    network.load_state_dict(theirs.state_dict(), strict=True, assign=True)
    return network.eval().requires_grad_(False)


def denoiser_of(pipeline: Any, directory: Path) -> Denoiser:
    scheduler = json.loads((directory / "scheduler" / "scheduler_config.json").read_text())
    second = getattr(pipeline, "transformer_2", None)
    low = same_as(second) if second is not None else None
    return Denoiser(same_as(pipeline.transformer), scheduler, low, pipeline.config.get("boundary_ratio"))


def autoencoder_of(pipeline: Any) -> WanAutoencoder:
    return WanAutoencoder(pipeline.vae)


def spec_of(task: Task, guidance: float = 4.0, guidance_low: float | None = None, frames: int = FRAMES) -> VideoSpec:
    return VideoSpec(
        model="tiny",
        task=task,
        width=WIDTH,
        height=HEIGHT,
        native_width=WIDTH,
        native_height=HEIGHT,
        frames=frames,
        fps=16,
        model_frames=frames,
        latent_shape=(16, 1 + (frames - 1) // 4, HEIGHT // 8, WIDTH // 8),
        temporal=4,
        spans=(SegmentFrames(0, frames, 0),),
        steps=STEPS,
        guidance=guidance,
        guidance_low=guidance_low,
        seed=SEED,
        container="mp4",
        keep_latents=False,
    )


@torch.inference_mode()
def texts(pipeline: Any) -> tuple[torch.Tensor, torch.Tensor]:
    positive, negative = TextEncoder(pipeline.tokenizer, pipeline.text_encoder, 512).encode([PROMPT, NEGATIVE])
    return positive, negative


def ours(pipeline: Any, directory: Path, conditioner: Conditioner, spec: VideoSpec, inputs: Inputs) -> torch.Tensor:
    """Final latents ``[C, T, H, W]``."""
    return denoise(denoiser_of(pipeline, directory), spec, conditioner.condition(spec, inputs, *texts(pipeline)))


def denoise(denoiser: Denoiser, spec: VideoSpec, conditions: Conditions) -> torch.Tensor:
    segment = denoiser.start(segment_of(spec, "one"), conditions)
    while not segment.sampler.done:
        denoiser.step([segment])
    return segment.result()


def theirs(pipeline: Any, **arguments: Any) -> torch.Tensor:
    """Final latents ``[C, T, H, W]`` of diffusers' pipeline; the arguments are those that its family adds.

    Both prompts are given in words, as ours are: what the pipeline makes of them is a part of the comparison.
    """
    common = {
        "prompt": PROMPT,
        "negative_prompt": NEGATIVE,
        "height": HEIGHT,
        "width": WIDTH,
        "num_frames": FRAMES,
        "num_inference_steps": STEPS,
        "guidance_scale": 4.0,
        "generator": torch.Generator("cpu").manual_seed(SEED),
        "output_type": "latent",
        "max_sequence_length": 512,
    }
    latents: torch.Tensor = pipeline(**{**common, **arguments}).frames[0]
    return latents


def error(result: torch.Tensor, expected: torch.Tensor) -> float:
    """Relative, of the whole clip."""
    assert result.shape == expected.shape
    assert float(expected.norm()) > 1
    return float((result.double() - expected.double()).norm() / expected.double().norm())


def to_bfloat16(pipeline: Any) -> None:
    """Turn the transformers to bfloat16 as diffusers does when it loads them: some of their modules stay in float32."""
    for network in (pipeline.transformer, getattr(pipeline, "transformer_2", None)):
        if network is None:
            continue
        for name, parameter in network.named_parameters():
            if not any(kept in name.split(".") for kept in network._keep_in_fp32_modules):
                parameter.data = parameter.data.to(torch.bfloat16)


def picture(seed: int, width: int = 60, height: int = 44) -> Frames:
    """Noise over a gradient, uint8 ``[H, W, 3]``."""
    generator = np.random.default_rng(seed)
    ramp = np.linspace(0, 160, width)[None, :, None] * np.array([1, seed % 2, 0.5])
    pixels: Frames = (ramp + generator.integers(0, 90, (height, width, 3))).astype(np.uint8)
    return pixels


def pil(pixels: Frames) -> Image.Image:
    return Image.fromarray(pixels)
