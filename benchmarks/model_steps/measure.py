"""Measure our pipeline on clips of several sizes, and have it compared with diffusers'."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch

from zoetrope.benchmarks.environment import device_name, header
from zoetrope.benchmarks.model_steps.checkpoints import MeasuredModel, checkpoint
from zoetrope.benchmarks.model_steps.clips import DENSE, SEED, MeasuredClip, tokens_of
from zoetrope.benchmarks.model_steps.parts import step_operations, step_parts
from zoetrope.benchmarks.model_steps.peer import compare
from zoetrope.benchmarks.model_steps.resources import timed, working_bytes
from zoetrope.cluster.planning.calibration import rates_of
from zoetrope.cluster.planning.hardware import hardware_of
from zoetrope.cluster.planning.step_time import step_time
from zoetrope.model.denoising.denoise import Denoiser, Segment
from zoetrope.model.denoising.guidance import branches
from zoetrope.model.network.protocol import module_of
from zoetrope.model.pipeline import LocalPipeline
from zoetrope.model.request.specs import VideoSpec


def measure(
    model: str, clips: Sequence[MeasuredClip], steps: int, repeats: int, ways: Sequence[str], jobs: int, run: str
) -> dict[str, Any]:
    """Measure and return the record.

    Args:
        model: as `checkpoint` takes it. clips: none: the model's default, or `DENSE`. ways: of the comparison with
            diffusers. jobs: mixed small clips in a batch. run: the command to record.

    Raises:
        BenchmarkError, ModelError, InvalidRequest: the model is unknown, or cannot make such clips of text.
    """
    with checkpoint(model) as found:
        card = found.card
        chosen = list(clips) or (list(DENSE) if found.dense else [MeasuredClip()])
        specs = [clip.spec(card, steps) for clip in chosen]  # wrong ones are refused before anything is loaded
        pipeline = LocalPipeline.load(card)
        network = pipeline.denoiser.transformer
        hardware = hardware_of("cpu" if network.device.type == "cpu" else device_name(network.device))
        weights = list(module_of(network).parameters())
        rows = [_clip(pipeline, found, clip, spec, steps, repeats) for clip, spec in zip(chosen, specs, strict=True)]
        return {
            "environment": header(network.device, run, SEED),
            "model": {
                "name": found.name,
                "stand_ins": found.stand_ins,
                "parameters": sum(weight.numel() for weight in weights),
                "weight_bytes": sum(weight.numel() * weight.element_size() for weight in weights),
                "dtype": str(network.dtype).removeprefix("torch."),
                "threads": torch.get_num_threads(),
                "clock": "processor" if network.device.type == "cpu" else "wall",
            },
            "steps": steps,
            "repeats": repeats,
            "hardware": {"name": hardware.name, "source": hardware.source, "rates": list(rates_of(hardware).notes)},
            "clips": rows,
            "diffusers": compare(pipeline, found, chosen, steps, repeats, ways, jobs),
        }


def _clip(
    pipeline: LocalPipeline, found: MeasuredModel, clip: MeasuredClip, spec: VideoSpec, steps: int, repeats: int
) -> dict[str, Any]:
    """Measure one size: medians of ``repeats`` clips after one that warms up; one is decoded."""
    denoiser, card = pipeline.denoiser, found.card
    device, config = denoiser.device, denoiser.transformer.config
    tokens = tokens_of(spec, config.patch_size)
    taken: dict[str, list[float]] = {"text": [], "first_step": [], "step": []}
    for number in range(repeats + 1):
        text, segment = timed(device, partial(pipeline.start, clip.spec(card, steps)))
        seconds = [timed(device, partial(denoiser.step, [segment]))[0] for _ in range(steps)]
        if number:
            for part, value in zip(taken, (text, seconds[0], statistics.median(seconds[1:])), strict=True):
                taken[part].append(value)
    decode, _ = timed(device, lambda: sum(len(frames) for frames in pipeline.decode(segment.result())))
    forwards = len(branches(segment.whole_mode))
    shares = [step_parts(denoiser.transformer, _later_step(pipeline, spec)) for _ in range(min(repeats, 3))]
    predicted = step_time(config, [tokens] * forwards, rates_of(_hardware(device)), text_tokens=card.max_text_tokens)
    return {
        "size": f"{spec.width}x{spec.height}",
        "frames": spec.frames,
        "tokens": tokens,
        "forwards": forwards,
        **{part: statistics.median(values) for part, values in taken.items()},
        "decode": decode,
        "working_bytes": working_bytes(device, _later_step(pipeline, spec)),
        "shares": {part: statistics.median(share[part] for share in shares) for part in shares[0]},
        "operations": step_operations(device, _later_step(pipeline, spec)),
        "roofline": {"seconds": predicted.total, "parts": {k: v for k, v in predicted.parts().items() if v}},
    }


def _later_step(pipeline: LocalPipeline, spec: VideoSpec) -> Any:
    """Return a function that takes the second step of a clip; its first, which reads the text, is taken."""
    segment: Segment = pipeline.start(spec)
    denoiser: Denoiser = pipeline.denoiser
    denoiser.step([segment])
    return lambda: denoiser.step([segment])


def _hardware(device: torch.device) -> Any:
    return hardware_of("cpu" if device.type == "cpu" else device_name(device))
