"""What snapshots cost: measured on nano, computed for a large model.

    python -m benchmarks.snapshot_cost --out benchmarks/results/snapshot-cost.json

Measured: whole runs of nano without snapshots, without them once more (how much the same thing varies here), at the
default setting and with one after every step, in turns, into a real directory. A step waits for the copy of its
tensors; encoding, checksum and writing happen beside it on another thread. The first is ``waited``; both together show
in the processor seconds of the process, to which the work of other processes on the machine does not add.

Computed, from bytes and rates alone: 1080p of 15 seconds on wan2.7-27b. No GPU took part. Each assumption stands beside
the figure, and each is chosen against us: the step at the datasheet's peak, which no step reaches, and the whole copy
counted as waiting, though it runs on a stream of its own.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from benchmarks.kernels.environment import header
from benchmarks.provenance import commit_of
from cluster.hardware import hardware
from cluster.messages import Owner
from cluster.settings import EngineSettings
from cluster.snapshots import SnapshotKeeper, SnapshotStore, SnapshotWriter, due
from model.conditions import Conditions
from model.costs import clip_cost
from model.denoise import Denoiser
from model.family import Preset
from model.pipeline import NOTHING, LocalPipeline, condition_span
from model.presets import all_presets, find_model
from model.resolve import resolve
from model.sampling import Sampler
from model.sizes import SIZES
from model.tasks import SegmentSpec, TextToVideo, VideoRequest, segment_of

SEED = 1
FLUSH_SECONDS = 60.0
GOAL = 0.01  # of the time of a step
DEFAULT = EngineSettings()
VARIANTS: dict[str, EngineSettings | None] = {
    "none": None,
    "none, again": None,
    "default": DEFAULT,
    "every step": EngineSettings(snapshot_steps=1),
}
UNIPC = {"_class_name": "UniPCMultistepScheduler", "prediction_type": "flow_prediction", "use_flow_sigmas": True}
# Bytes a second from the GPU to pinned memory of its host, one direction.
LINKS = {"PCIe 5.0 x16, assumed 50 GB/s": 50e9, "PCIe 4.0 x16, assumed 22 GB/s": 22e9, "assumed 10 GB/s": 10e9}
RANKS = (1, 2, 4, 8)


@dataclass(frozen=True)
class Run:
    """One run of all steps. ``cpu_seconds`` has the writing in it, also what was left to write at the end; ``waited``
    is what the steps waited for copies, ``longest`` the longest of those waits."""

    seconds: float
    cpu_seconds: float
    waited: float
    longest: float
    snapshots: int
    bytes: int


@dataclass(frozen=True)
class Measured:
    """Of one variant: medians of its runs. ``more_cpu`` and ``more_seconds``: over the run of the same round without
    snapshots, minus 1, with the least and the largest of them."""

    variant: str
    snapshots: float
    bytes: int
    step_seconds: float
    waited_share: float
    longest_wait: float
    more_cpu: tuple[float, float, float]
    more_seconds: tuple[float, float, float]


@dataclass(frozen=True)
class Computed:
    """Of a gang of so many GPUs and one link. ``share``: copies over steps and copies, as often as the default setting
    takes them; ``store_bandwidth``: bytes a second that the store must take for none to be skipped."""

    ranks: int
    link: str
    step_seconds: float
    copy_seconds: float
    steps_between: int
    share: float
    store_bandwidth: float


def run_once(
    denoiser: Denoiser, spec: SegmentSpec, conditions: Conditions, settings: EngineSettings | None, folder: Path
) -> Run:
    """As an engine goes about it."""
    segment = denoiser.start(spec, conditions)
    writer = keeper = None
    if settings is not None:
        writer = SnapshotWriter(SnapshotStore(str(folder)))
        keeper = SnapshotKeeper(writer, settings, "nano", denoiser.scheduler_config)
        keeper.admit(segment, Owner("benchmark", 0, 1))
    waits = []
    started, started_cpu, before = time.perf_counter(), time.process_time(), time.perf_counter()
    while not segment.sampler.done:
        denoiser.step([segment])
        now = time.perf_counter()
        if keeper is not None:
            waits.append(keeper.after_step([segment], now - before))
        before = time.perf_counter()
    seconds = time.perf_counter() - started
    if writer is not None and not writer.flush(FLUSH_SECONDS):
        raise RuntimeError(f"snapshots could not be written: {writer.failures}")
    cpu_seconds = time.process_time() - started_cpu
    sizes = [path.stat().st_size for path in folder.rglob("*") if path.is_file()]
    if writer is not None:
        writer.close()
    taken = [wait for wait in waits if wait]
    return Run(seconds, cpu_seconds, sum(taken), max(taken, default=0.0), len(taken), max(sizes, default=0))


def measure(steps: int, rounds: int, on_run: Callable[[str], None]) -> tuple[list[Measured], SegmentSpec]:
    """nano's default clip, all variants in each round, each round beginning with another one."""
    card = find_model("nano")
    local = LocalPipeline.load(card)
    request = VideoRequest(task=TextToVideo(prompt="a red circle moves right"), steps=steps, seed=SEED)
    clip = resolve(request, card, SEED)
    spec = segment_of(clip, "benchmark")
    conditions = condition_span(local.text, local.conditioner, clip, NOTHING, 0, None)
    runs: dict[str, list[Run]] = {name: [] for name in VARIANTS}
    run_once(local.denoiser, replace(spec, steps=2), conditions, None, Path())  # to warm up
    names = list(VARIANTS)
    for number in range(rounds):
        turn = number % len(names)
        for name in names[turn:] + names[:turn]:
            with tempfile.TemporaryDirectory() as folder:
                runs[name].append(run_once(local.denoiser, spec, conditions, VARIANTS[name], Path(folder)))
            on_run(f"round {number + 1}, {name}: {runs[name][-1]}")
    return [_measured(name, runs[name], runs["none"], steps) for name in names], spec


def _measured(name: str, runs: list[Run], without: list[Run], steps: int) -> Measured:
    def more(of: Callable[[Run], float]) -> tuple[float, float, float]:
        found = [of(run) / of(base) - 1 for run, base in zip(runs, without, strict=True)]
        return statistics.median(found), min(found), max(found)

    return Measured(
        variant=name,
        snapshots=statistics.median(run.snapshots for run in runs),
        bytes=max(run.bytes for run in runs),
        step_seconds=statistics.median(run.seconds for run in runs) / steps,
        waited_share=statistics.median(run.waited / run.seconds for run in runs),
        longest_wait=max(run.longest for run in runs),
        more_cpu=more(lambda run: run.cpu_seconds),
        more_seconds=more(lambda run: run.seconds),
    )


def latent_shape(preset: Preset, width: int, height: int, frames: int) -> tuple[int, int, int, int]:
    """C, T, H, W of a clip, sides rounded up as they are served."""
    side, patch = preset.vae.spatial, preset.config.patch_size
    h, w = (-(-pixels // (side * patch[i])) * patch[i] for pixels, i in ((height, 1), (width, 2)))
    return preset.vae.z_dim, 1 + (frames - 1) // preset.vae.temporal, h, w


def tensors_of_a_state() -> int:
    """How many tensors of the latents' size UniPC's snapshot has, counted on a small one."""
    sampler, latents = Sampler(UNIPC, 8), torch.zeros(1, 1, 1, 1)
    for _ in range(4):
        latents = sampler.advance(latents, latents)
    return 1 + len(sampler.state().tensors)


def compute(preset: Preset, size: str, duration: float) -> tuple[dict[str, Any], list[Computed]]:
    """From shapes, bytes and rates; nothing is run."""
    width, height = SIZES[size]["16:9"]
    peak, rows = hardware("h100").peak, []
    cost = clip_cost(preset, width, height, duration, 1)
    shape = latent_shape(preset, width, height, cost.frames)
    size_bytes = 4 * tensors_of_a_state()
    for side in shape:
        size_bytes *= side
    for ranks in RANKS:
        step_seconds = cost.step_flops / (ranks * peak)
        for link, bandwidth in LINKS.items():
            copy_seconds = size_bytes / bandwidth
            between = 1
            while not due(between, 10**9, between * step_seconds, step_seconds, copy_seconds, DEFAULT):
                between += 1
            period = between * step_seconds + copy_seconds
            rows.append(
                Computed(ranks, link, step_seconds, copy_seconds, between, copy_seconds / period, size_bytes / period)
            )
    described = {
        "model": preset.name,
        "size": size,
        "seconds": duration,
        "latent_shape": shape,
        "tokens": cost.tokens,
        "snapshot_bytes": size_bytes,
        "step_flops": cost.step_flops,
        "assumed": f"{peak / 1e12:.1f} TFLOP/s a GPU (datasheet, H100 SXM, bfloat16): less time than any step takes; "
        "one segment; UniPC of order 2, four float32 tensors of the latents' size; the step waits for the whole copy",
    }
    return described, rows


def markdown(record: dict[str, Any]) -> str:
    """The page beside the figures."""
    about, computed = record["measured_on"], record["computed_for"]
    lines = [
        "# Cost of snapshots",
        "",
        f"`{record['environment']['command']}`",
        "",
        f"{record['environment']['date']}, {commit_of(record['environment'])}, "
        f"torch {record['environment']['torch']}.",
        "",
        "## Measured: nano",
        "",
        f"{record['environment']['device']}, {about['threads']} thread(s), {about['rounds']} rounds in turns, "
        f"{about['steps']} steps of latents {about['latent_shape']} each; load average of the machine "
        f"{about['load_average']} on {about['cores']} cores. `waited`: what steps waited for copies, as a "
        "share of the run. `more`: over the run of the same round without snapshots; median (least to largest). The "
        "row `none, again` says how much that varies when nothing differs.",
        "",
        "| snapshots | of a run | bytes | step | waited | longest wait | more processor time | more wall time |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in record["measured"]:
        cpu, wall = (
            f"{100 * m:+.2f} % ({100 * a:+.2f} to {100 * b:+.2f})" for m, a, b in (row["more_cpu"], row["more_seconds"])
        )
        lines.append(
            f"| {row['variant']} | {row['snapshots']:g} | {row['bytes']:,} | {1e3 * row['step_seconds']:.1f} ms | "
            f"{100 * row['waited_share']:.4f} % | {1e3 * row['longest_wait']:.2f} ms | {cpu} | {wall} |"
        )
    verdict = "met" if record["goal_met_measured"] else "NOT met"
    lines += [
        "",
        f"Goal: at the default setting steps wait less than {100 * GOAL:g} % of their time: {verdict}.",
        "",
        f"## Computed, not measured: {computed['model']}, {computed['size']}, {computed['seconds']:g} s",
        "",
        f"Latents {computed['latent_shape']}, {computed['tokens']:,} tokens, a snapshot of "
        f"{computed['snapshot_bytes'] / 1e6:.0f} MB. Assumed: {computed['assumed']}.",
        "",
        "| GPUs | to the host | step, at least | copy | steps between | share, at most | the store must take |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in record["computed"]:
        lines.append(
            f"| {row['ranks']} | {row['link']} | {row['step_seconds']:.2f} s | {1e3 * row['copy_seconds']:.0f} ms | "
            f"{row['steps_between']} | {100 * row['share']:.2f} % | {row['store_bandwidth'] / 1e6:.0f} MB/s |"
        )
    verdict = "met" if record["goal_met_computed"] else "NOT met"
    lines += ["", f"Goal: a share under {100 * GOAL:g} % in every row: {verdict}.", ""]
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--steps", type=int, default=60, help="of each run of nano")
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--model", default="wan2.7-27b", choices=sorted(all_presets()), help="to compute for")
    parser.add_argument("--size", default="1080p", choices=sorted(SIZES))
    parser.add_argument("--duration", type=float, default=15.0, help="seconds")
    parser.add_argument("--out", type=Path, help="write the figures as JSON, and as Markdown beside it")
    args = parser.parse_args(arguments)
    if args.steps < 2 or args.rounds < 1:
        parser.error(f"--steps is {args.steps}, at least 2; --rounds is {args.rounds}, at least 1")
    measured, spec = measure(args.steps, args.rounds, lambda line: print(line, file=sys.stderr, flush=True))
    load = round(os.getloadavg()[1], 1)  # of the last five minutes
    described, computed = compute(all_presets()[args.model], args.size, args.duration)
    command = " ".join(["python -m benchmarks.snapshot_cost", *(sys.argv[1:] if arguments is None else arguments)])
    record = {
        "environment": header(torch.device("cpu"), command, SEED),
        "goal": GOAL,
        "goal_met_measured": next(row for row in measured if row.variant == "default").waited_share < GOAL,
        "goal_met_computed": all(row.share < GOAL for row in computed),
        "measured_on": {
            "model": "nano",
            "steps": args.steps,
            "rounds": args.rounds,
            "threads": torch.get_num_threads(),
            "load_average": load,
            "cores": os.cpu_count(),
            "latent_shape": spec.latent_shape,
            "settings": {
                "snapshot_share": DEFAULT.snapshot_share,
                "snapshot_seconds": DEFAULT.snapshot_seconds,
                "snapshot_steps": DEFAULT.snapshot_steps,
            },
        },
        "measured": [asdict(row) for row in measured],
        "computed_for": described,
        "computed": [asdict(row) for row in computed],
    }
    page = markdown(record)
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(json.dumps(record, indent=2) + "\n")
        args.out.with_suffix(".md").write_text(page)
    print(page)
    return 0


if __name__ == "__main__":
    sys.exit(main())
