"""Time the bare model: a process that loads the denoiser as a rank of the service does and runs steps one by one.

    python -m zoetrope.benchmarks.served_step.bare WORK

Prints a line when loaded, waits for one on stdin, and prints its result as JSON.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from dataclasses import asdict, dataclass, replace

import torch

from zoetrope.benchmarks.served_step.work import ServedWork, spec_of
from zoetrope.model.catalog.presets import find_model
from zoetrope.model.checkpoints.load import configure_torch, load_denoiser
from zoetrope.model.denoising.conditions import Conditions, blank_conditions
from zoetrope.model.denoising.denoise import Denoiser
from zoetrope.model.denoising.guidance import bernini_mode
from zoetrope.model.request.specs import SegmentSpec, segment_of
from zoetrope.model.request.tasks import ModelCard

GIB = 2**30
WARM_STEPS = 3


@dataclass(frozen=True)
class BareTiming:
    """``runs``: seconds per step of each. ``median_step``: over all counted steps. ``tokens``: per step."""

    runs: list[float]
    median_step: float
    tokens: int
    threads: int
    load_seconds: float
    peak_gib: float | None


def load(work: ServedWork) -> tuple[Denoiser, ModelCard, float]:
    """Load the denoiser as a rank does; also returns the seconds it took. Raises ModelError."""
    card = find_model(work.model)
    device = configure_torch(card)
    started = time.perf_counter()
    denoiser = load_denoiser(card, device)
    if device.type == "cuda":
        torch.cuda.synchronize()
    return denoiser, card, time.perf_counter() - started


def measure(work: ServedWork, denoiser: Denoiser, card: ModelCard, load_seconds: float) -> BareTiming:
    """Run and time the steps. Raises BenchmarkError as `spec_of`."""
    network, spec = denoiser.transformer, segment_of(spec_of(card, work), "bare")
    text = torch.zeros(card.max_text_tokens, network.config.text_dim, dtype=network.dtype, device=network.device)
    conditions = replace(blank_conditions(network.config, spec.latent_shape, text), negative=text)
    if card.conditioner == "bernini":
        conditions = replace(conditions, guidance=bernini_mode(spec.kind, 0))
    _run(denoiser, replace(spec, steps=WARM_STEPS), conditions)
    runs, tokens = [], 0
    for _ in range(work.repeats):
        seconds, tokens = _run(denoiser, spec, conditions)
        runs.append(seconds[1:-1])
    return BareTiming(
        runs=[sum(run) / len(run) for run in runs],
        median_step=statistics.median(seconds for run in runs for seconds in run),
        tokens=tokens,
        threads=torch.get_num_threads(),
        load_seconds=load_seconds,
        peak_gib=torch.cuda.max_memory_allocated() / GIB if denoiser.device.type == "cuda" else None,
    )


def _run(denoiser: Denoiser, spec: SegmentSpec, conditions: Conditions) -> tuple[list[float], int]:
    """Return the seconds of every step, synchronising after each as a rank does, and the tokens per step."""
    segment, seconds, tokens = denoiser.start(spec, conditions), [], 0
    if denoiser.device.type == "cuda":
        torch.cuda.synchronize()
    before = time.perf_counter()
    while not segment.sampler.done:
        tokens = denoiser.step([segment])
        if denoiser.device.type == "cuda":
            torch.cuda.synchronize()
        now = time.perf_counter()
        seconds.append(now - before)
        before = now
    return seconds, tokens


def main(arguments: list[str]) -> int:
    work = ServedWork(**json.loads(arguments[0]))
    loaded = load(work)
    print("ready", flush=True)
    sys.stdin.readline()
    print(json.dumps(asdict(measure(work, *loaded))), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
