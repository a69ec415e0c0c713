"""What a trace's jobs mean for a model: the segments of each, their tokens, and the steps that are computed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

from zoetrope.benchmarks.simulate.trace import TraceError, TraceJob
from zoetrope.model.caching.levels import MIN_STEPS, level_of
from zoetrope.model.caching.mask import COMPUTED, high_noise_steps, step_mask
from zoetrope.model.caching.ratios import best_list, published_lists
from zoetrope.model.families import all_presets, family_of
from zoetrope.model.families.family import Preset
from zoetrope.model.network.costs import tokens_of
from zoetrope.model.request.segments import split

UNCHAINED = (("text_to_video",), ("first_last_frame",))  # tasks of models that cannot continue a clip
SHEET_AREA = 4  # of a grid's sheet in the areas of a frame


@dataclass(frozen=True, slots=True)
class SimSegment:
    """One denoising run: ``tokens`` of each sequence, ``steps`` that are computed, ``branches`` sequences in each."""

    tokens: int
    steps: int
    branches: int


@dataclass(frozen=True)
class Workload:
    """The jobs of a trace on a model. ``megapixels``: of all frames of each job's clip."""

    preset: Preset
    segments: tuple[tuple[SimSegment, ...], ...]
    megapixels: tuple[float, ...]


def preset_named(name: str) -> Preset:
    """Return a preset. Raises TraceError if there is none of that name."""
    presets = all_presets()
    if name not in presets:
        raise TraceError(f"model is {name!r}, must be one of {', '.join(presets)}")
    return presets[name]


def workload(preset: Preset, jobs: Sequence[TraceJob]) -> Workload:
    """Work out the segments of every job; a job with a quality that the model has no ratios for computes all steps."""
    segments = tuple(_segments(preset.name, _shape(job)) for job in jobs)
    return Workload(preset, segments, tuple(job.width * job.height * job.frames / 1e6 for job in jobs))


def _shape(job: TraceJob) -> TraceJob:
    """Forget what makes no difference to the work."""
    return job.model_copy(update={"arrival": 0.0, "tenant": "", "priority": 0, "deadline": None, "adapters": ()})


@cache
def _segments(name: str, job: TraceJob) -> tuple[SimSegment, ...]:
    preset = all_presets()[name]
    longest, overlap = _chain(name)
    frames = _whole(job.frames, preset.vae.temporal)
    spans = split(frames, longest, overlap, preset.vae.temporal) if longest else split(frames, frames, 1, 1)
    steps = _computed(preset, job)
    return tuple(SimSegment(_tokens(preset, job, span.frames), steps, job.branches) for span in spans)


@cache
def _chain(name: str) -> tuple[int, int]:
    """The longest segment and the overlap, in frames; 0: clips are not chained."""
    family, preset = family_of(name), all_presets()[name]
    if family.tasks(preset.config) in UNCHAINED:
        return 0, 0
    longest, overlap = preset.sampling.frames, family.overlap_frames
    if preset.card:
        longest = int(str(preset.card.get("segment_frames", longest)))
        overlap = int(str(preset.card.get("overlap_frames", overlap)))
    return _whole(longest, preset.vae.temporal), overlap


def _whole(frames: int, temporal: int) -> int:
    """The next number of frames that the autoencoder can make."""
    return 1 + temporal * math.ceil((frames - 1) / temporal)


def _tokens(preset: Preset, job: TraceJob, frames: int) -> int:
    """Of one sequence: the clip, and in front of it the sources of its task."""
    width, height = preset.denoised_size(job.width, job.height)

    def count(width: int, height: int, frames: int) -> int:
        return tokens_of(width, height, frames, preset.vae, preset.config.patch_size)

    clip, side = count(width, height, frames), min(width, height)
    sources = {
        "first_last_frame": count(width, height, 1),
        "grid_to_video": SHEET_AREA * count(width, height, 1),
        "reference_to_video": max(1, job.references) * count(side, side, 1),
        "edit_video": clip,
    }
    return clip + sources.get(job.task, 0)


def _computed(preset: Preset, job: TraceJob) -> int:
    level = level_of(job.quality, preset.transformers > 1)
    ratios = best_list(published_lists(preset.name), job.task, job.steps)
    if level is None or ratios is None or job.steps < MIN_STEPS:
        return job.steps
    split_at = None
    if preset.sampling.boundary is not None and preset.transformers > 1:
        split_at = high_noise_steps(job.steps, preset.sampling.shift, preset.sampling.boundary)
    return step_mask(ratios.values, job.steps, level, split_at).count(COMPUTED)
