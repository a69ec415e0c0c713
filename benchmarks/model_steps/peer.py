"""diffusers' WanPipeline on the same weights, in turns with ours."""

from __future__ import annotations

import statistics
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch.compiler import set_stance

from zoetrope.benchmarks.model_steps.checkpoints import MeasuredModel
from zoetrope.benchmarks.model_steps.clips import MeasuredClip, tokens_of
from zoetrope.benchmarks.model_steps.resources import timed
from zoetrope.benchmarks.packed_throughput.work import DENSE_FRAMES, DENSE_SIZES, STEPS
from zoetrope.cluster.parallel.compiled import COMPILED, longest_clip
from zoetrope.cluster.parallel.compiled import measure as compile_blocks
from zoetrope.model.denoising.denoise import Denoiser
from zoetrope.model.denoising.forward import ForwardRun, run_alone
from zoetrope.model.network.protocol import Network, module_of
from zoetrope.model.network.sequences import Sequence as Tokens
from zoetrope.model.pipeline import LocalPipeline
from zoetrope.model.request.specs import VideoSpec

PROBE = 64  # tokens of the step that the compiler is tried with


def compare(
    ours: LocalPipeline,
    found: MeasuredModel,
    clips: Sequence[MeasuredClip],
    steps: int,
    repeats: int,
    ways: Sequence[str],
    jobs: int,
) -> dict[str, Any]:
    """Compare clips of each size, and a batch of mixed small ones if the model is the small dense one; or tell why
    not. The first clip of each kind is not counted."""
    reason = "not asked for" if not ways else why_not(ours, found)
    if reason is not None:
        return {"not_run": reason, "rows": [], "batch": None}
    theirs = _pipeline(ours, found)
    rows: list[dict[str, Any]] = []
    batch: dict[str, Any] | None = None
    if "eager" in ways:
        rows += [_row(ours, theirs, found, clip, steps, repeats, "eager") for clip in clips]
        if jobs and found.dense:
            batch = _batch(ours, theirs, found, jobs, min(repeats, 3))
    compiling = None
    if "compiled" in ways:
        pipeline, compiling = _compiled(ours, found)
        if pipeline is None:
            return {"not_run": "", "rows": rows, "batch": batch, "not_compiled": "torch.compile does not work here"}
        theirs.transformer.compile_repeated_blocks(dynamic=True)
        rows += [_row(pipeline, theirs, found, clip, steps, repeats, "compiled") for clip in clips]
    return {"not_run": "", "rows": rows, "batch": batch, "compile_seconds": compiling}


def why_not(ours: LocalPipeline, found: MeasuredModel) -> str | None:
    """Return why diffusers' WanPipeline cannot run the model, or None."""
    config = ours.denoiser.transformer.config
    if config.moe is not None:
        return "diffusers has no token-routed experts"
    if config.vace_layers or config.image_dim is not None or config.in_channels != config.out_channels:
        return "its WanPipeline takes clips of text alone"
    if ours.denoiser.low_noise is not None:
        return "two transformers would not fit twice"
    if not (Path(found.card.directory) / "model_index.json").is_file():
        return "the checkpoint is not in diffusers' layout"
    return None


def _pipeline(ours: LocalPipeline, found: MeasuredModel) -> Any:
    """Load diffusers' pipeline with our network's own tensors."""
    from diffusers import WanPipeline, WanTransformer3DModel
    from diffusers.utils import logging

    logging.disable_progress_bar()
    network = module_of(ours.denoiser.transformer)
    config = WanTransformer3DModel.load_config(str(Path(found.card.directory) / "transformer"))
    with torch.device("meta"):
        transformer: Any = WanTransformer3DModel.from_config(config)
    transformer.load_state_dict(network.state_dict(), strict=True, assign=True)
    device = ours.denoiser.device
    _real_buffers(transformer, type(transformer), config, device)
    pipeline = WanPipeline.from_pretrained(found.card.directory, transformer=transformer.eval())
    pipeline.set_progress_bar_config(disable=True)
    return pipeline.to(device)


def _real_buffers(transformer: Any, kind: Any, config: Any, device: torch.device) -> None:
    """Make the position tables, which no state dict has."""
    shape = {**config, "num_layers": 1}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        transformer.rope = kind.from_config(shape).rope.to(device)


def _theirs(pipeline: Any, found: MeasuredModel, spec: VideoSpec) -> torch.Tensor:
    """Make the latents ``[C, T, H, W]`` of a clip."""
    made = pipeline(
        prompt=spec.task.prompt,
        negative_prompt=spec.negative_prompt,
        height=spec.native_height,
        width=spec.native_width,
        num_frames=spec.model_frames,
        num_inference_steps=spec.steps,
        guidance_scale=spec.guidance,
        generator=torch.Generator("cpu").manual_seed(spec.seed),
        output_type="latent",
        max_sequence_length=found.card.max_text_tokens,
    )
    latents: torch.Tensor = made.frames[0]
    return latents


@torch.inference_mode()
def _row(
    ours: LocalPipeline,
    theirs: Any,
    found: MeasuredModel,
    clip: MeasuredClip,
    steps: int,
    repeats: int,
    way: str,
) -> dict[str, Any]:
    device = ours.denoiser.device
    seconds: list[tuple[float, float]] = []
    difference = 0.0
    for number in range(repeats + 1):
        spec = clip.spec(found.card, steps)
        own, (mine,) = timed(device, partial(ours.run, spec))
        other, latents = timed(device, partial(_theirs, theirs, found, spec))
        expected = latents.float().cpu()
        difference = max(difference, float((mine - expected).norm() / expected.norm()))
        if number:
            seconds.append((own, other))
    own, other = (statistics.median(values) for values in zip(*seconds, strict=True))
    return {
        "way": way,
        "size": f"{spec.width}x{spec.height}",
        "frames": spec.frames,
        "tokens": tokens_of(spec, ours.denoiser.transformer.config.patch_size),
        "ours": own,
        "diffusers": other,
        "speed": statistics.median(b / a for a, b in seconds),
        "difference": difference,
    }


def _each(make: Callable[[VideoSpec], object], specs: Sequence[VideoSpec]) -> None:
    for spec in specs:
        make(spec)


@torch.inference_mode()
def _batch(ours: LocalPipeline, theirs: Any, found: MeasuredModel, jobs: int, repeats: int) -> dict[str, Any]:
    """Time mixed small clips: one after another by diffusers and by us, and in one batch."""
    device = ours.denoiser.device
    taken: dict[str, list[float]] = {"diffusers": [], "one_by_one": [], "together": []}
    for number in range(repeats + 1):
        specs = [clip.spec(found.card, 1) for clip in mixed(jobs)]
        alike = [clip.spec(found.card, 1) for clip in mixed(jobs)]
        ways: dict[str, Callable[[], object]] = {
            "diffusers": partial(_each, partial(_theirs, theirs, found), specs),
            "one_by_one": partial(_each, ours.run, specs),
            "together": partial(ours.run_batch, alike),
        }
        for way, run in ways.items():
            seconds, _ = timed(device, run)
            if number:
                taken[way].append(seconds)
    median = {way: statistics.median(values) for way, values in taken.items()}
    pairs = zip(taken["diffusers"], taken["together"], strict=True)
    return {"jobs": jobs, **median, "speed": statistics.median(a / b for a, b in pairs)}


def mixed(jobs: int) -> list[MeasuredClip]:
    """Return small clips of four sizes and three numbers of steps, as in `packed_throughput`."""
    made = []
    for number in range(jobs):
        width, height = DENSE_SIZES[number % len(DENSE_SIZES)]
        frames = DENSE_FRAMES[number // 12 % len(DENSE_FRAMES)]
        made.append(MeasuredClip(f"{width}x{height}", frames, STEPS[number % len(STEPS)], seed=number))
    return made


def _compiled(ours: LocalPipeline, found: MeasuredModel) -> tuple[LocalPipeline | None, float | None]:
    """Compile the network's blocks as an engine does; returns the pipeline that runs them so, and the seconds that it
    took. None if nothing can be compiled here."""
    denoiser, card = ours.denoiser, found.card
    gains = compile_blocks([denoiser.transformer], run_alone, longest_clip(card), card.max_text_tokens, ladder=(PROBE,))
    if not gains.rungs:
        return None, None

    def run(network: Network, sequences: list[Tokens]) -> ForwardRun:
        with set_stance(COMPILED):
            return run_alone(network, sequences)

    made = Denoiser(denoiser.transformer, denoiser.scheduler_config, runner=run)
    return LocalPipeline(ours.text, made, ours.autoencoder, ours.conditioner), gains.compiling
