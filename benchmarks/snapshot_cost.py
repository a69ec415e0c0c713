"""Measure the cost of snapshots on nano, and compute it for a large model.

    python -m zoetrope.benchmarks.snapshot_cost --out benchmarks/results/snapshot-cost.json

Measured: whole runs of nano, in turn without snapshots, again without (to show the variation), with the default
setting, and with a snapshot after every step, written to a directory on disk. A step waits only for the copy of its
tensors (``waited``); encoding, checksum and writing happen on another thread. The processor time of the process
includes both, and other processes do not affect it.

Computed, from bytes and rates alone: 15 seconds of 1080p on wan2.7-27b, without a GPU. All assumptions are stated and
pessimistic: the step runs at the datasheet's peak, which no step reaches, and the whole copy counts as waiting, though
it has its own stream.
"""

from __future__ import annotations

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

from zoetrope.benchmarks import command
from zoetrope.benchmarks.environment import header
from zoetrope.benchmarks.provenance import commit_of
from zoetrope.cluster.planning.hardware import hardware
from zoetrope.cluster.protocol.messages import Owner
from zoetrope.cluster.protocol.settings import EngineSettings
from zoetrope.cluster.snapshots.keeper import SnapshotKeeper
from zoetrope.cluster.snapshots.policy import due
from zoetrope.cluster.snapshots.store import SnapshotStore
from zoetrope.cluster.snapshots.writer import SnapshotWriter
from zoetrope.model.catalog.presets import find_model
from zoetrope.model.denoising.conditions import Conditions
from zoetrope.model.denoising.denoise import Denoiser
from zoetrope.model.denoising.sampling import Sampler
from zoetrope.model.families import all_presets
from zoetrope.model.families.family import Preset
from zoetrope.model.network.costs import clip_cost
from zoetrope.model.pipeline import NOTHING, LocalPipeline, condition_span
from zoetrope.model.request.resolve import resolve
from zoetrope.model.request.sizes import SIZES
from zoetrope.model.request.specs import SegmentSpec, segment_of
from zoetrope.model.request.tasks import TextToVideo, VideoRequest

SEED = 1
FLUSH_SECONDS = 60.0
GOAL = 0.01  # maximum share of a step's time
DEFAULT = EngineSettings()
VARIANTS: dict[str, EngineSettings | None] = {
    "none": None,
    "none, again": None,
    "default": DEFAULT,
    "every step": EngineSettings(snapshot_steps=1),
}
UNIPC = {"_class_name": "UniPCMultistepScheduler", "prediction_type": "flow_prediction", "use_flow_sigmas": True}
# Bytes per second from the GPU to pinned host memory, one direction.
LINKS = {"PCIe 5.0 x16, assumed 50 GB/s": 50e9, "PCIe 4.0 x16, assumed 22 GB/s": 22e9, "assumed 10 GB/s": 10e9}
RANKS = (1, 2, 4, 8)


@dataclass(frozen=True)
class SnapshotRun:
    """One run of all steps. ``cpu_seconds`` includes all writing, also at the end; ``waited`` is the total time that
    steps waited for copies, ``longest`` the longest wait."""

    seconds: float
    cpu_seconds: float
    waited: float
    longest: float
    snapshots: int
    bytes: int


@dataclass(frozen=True)
class SnapshotTimes:
    """Medians of one variant's runs. ``more_cpu`` and ``more_seconds``: median, minimum and maximum of the increase
    over the run without snapshots in the same round."""

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
    """The cost for one gang size and link. ``share``: time of copies relative to steps and copies, at the default
    setting; ``store_bandwidth``: bytes per second that the store must accept for no snapshot to be skipped."""

    ranks: int
    link: str
    step_seconds: float
    copy_seconds: float
    steps_between: int
    share: float
    store_bandwidth: float


def run_once(
    denoiser: Denoiser, spec: SegmentSpec, conditions: Conditions, settings: EngineSettings | None, folder: Path
) -> SnapshotRun:
    """Run all steps as an engine does."""
    segment = denoiser.start(spec, conditions)
    writer = keeper = None
    if settings is not None:
        writer = SnapshotWriter(SnapshotStore(str(folder)))
        keeper = SnapshotKeeper(writer, settings, "nano", denoiser.scheduler_config)
        keeper.track(segment, Owner("benchmark", 0, 1))
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
    return SnapshotRun(seconds, cpu_seconds, sum(taken), max(taken, default=0.0), len(taken), max(sizes, default=0))


def measure(steps: int, rounds: int, on_run: Callable[[str], None]) -> tuple[list[SnapshotTimes], SegmentSpec]:
    """Run nano's default clip with all variants in each round, starting each round with a different one."""
    card = find_model("nano")
    local = LocalPipeline.load(card)
    request = VideoRequest(task=TextToVideo(prompt="a red circle moves right"), steps=steps, seed=SEED)
    clip = resolve(request, card, SEED)
    spec = segment_of(clip, "benchmark")
    conditions = condition_span(local.text, local.conditioner, clip, NOTHING, 0, None)
    runs: dict[str, list[SnapshotRun]] = {name: [] for name in VARIANTS}
    run_once(local.denoiser, replace(spec, steps=2), conditions, None, Path())  # to warm up
    names = list(VARIANTS)
    for number in range(rounds):
        turn = number % len(names)
        for name in names[turn:] + names[:turn]:
            with tempfile.TemporaryDirectory() as folder:
                runs[name].append(run_once(local.denoiser, spec, conditions, VARIANTS[name], Path(folder)))
            on_run(f"round {number + 1}, {name}: {runs[name][-1]}")
    return [_measured(name, runs[name], runs["none"], steps) for name in names], spec


def _measured(name: str, runs: list[SnapshotRun], without: list[SnapshotRun], steps: int) -> SnapshotTimes:
    def more(of: Callable[[SnapshotRun], float]) -> tuple[float, float, float]:
        found = [of(run) / of(base) - 1 for run, base in zip(runs, without, strict=True)]
        return statistics.median(found), min(found), max(found)

    return SnapshotTimes(
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
    """Return ``(C, T, H, W)`` of a clip, with sides rounded up as in the service."""
    side, patch = preset.vae.spatial, preset.config.patch_size
    h, w = (-(-pixels // (side * patch[i])) * patch[i] for pixels, i in ((height, 1), (width, 2)))
    return preset.vae.z_dim, 1 + (frames - 1) // preset.vae.temporal, h, w


def tensors_of_a_state() -> int:
    """Count the tensors of the latents' size in a UniPC snapshot, on a small example."""
    sampler, latents = Sampler(UNIPC, 8), torch.zeros(1, 1, 1, 1)
    for _ in range(4):
        latents = sampler.advance(latents, latents)
    return 1 + len(sampler.state().tensors)


def compute(preset: Preset, size: str, duration: float) -> tuple[dict[str, Any], list[Computed]]:
    """Compute the cost from shapes, bytes and rates, without running anything."""
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
        "latent_shape": list(shape),
        "tokens": cost.tokens,
        "snapshot_bytes": size_bytes,
        "step_flops": cost.step_flops,
        "assumed": f"{peak / 1e12:.1f} TFLOP/s per GPU (datasheet, H100 SXM, bfloat16), faster than any real step; "
        "one segment; UniPC of order 2, four float32 tensors of the latents' size; the step waits for the whole copy",
    }
    return described, rows


def markdown(record: dict[str, Any]) -> str:
    """Format the page."""
    about, computed = record["measured_on"], record["computed_for"]
    lines = [
        "# Cost of snapshots",
        "",
        f"`{record['environment']['command']}`",
        "",
        f"{record['environment']['date']}, {commit_of(record['environment'])}, torch {record['environment']['torch']}.",
        "",
        "## Measured: nano",
        "",
        f"{record['environment']['device']}, {about['threads']} thread(s), {about['rounds']} rounds, "
        f"{about['steps']} steps of latents {about['latent_shape']} each; load average of the machine "
        f"{about['load_average']} on {about['cores']} cores. `waited`: time that steps waited for copies, as a "
        "share of the run. `more`: increase over the run without snapshots in the same round; median (minimum to "
        "maximum). The row `none, again` shows the variation between identical runs.",
        "",
        "| snapshots | per run | bytes | step | waited | longest wait | more processor time | more wall time |",
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
        f"Goal: at the default setting, steps wait less than {100 * GOAL:g} % of their time: {verdict}.",
        "",
        f"## Computed, not measured: {computed['model']}, {computed['size']}, {computed['seconds']:g} s",
        "",
        f"Latents {computed['latent_shape']}, {computed['tokens']:,} tokens, a snapshot of "
        f"{computed['snapshot_bytes'] / 1e6:.0f} MB. Assumed: {computed['assumed']}.",
        "",
        "| GPUs | link to host | minimum step | copy | steps between | maximum share | required store bandwidth |",
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
    parser, presets = command.parser("snapshot_cost", __doc__), sorted(all_presets())
    parser.add_argument("--steps", type=command.at_least(2), default=60, help="steps of each nano run (default: 60)")
    parser.add_argument("--rounds", type=command.at_least(1), default=8, help="rounds to measure (default: 8)")
    parser.add_argument("--model", default="wan2.7-27b", choices=presets, help="model to compute for")
    parser.add_argument("--size", default="1080p", choices=sorted(SIZES), help="size to compute for (default: 1080p)")
    parser.add_argument("--duration", type=float, default=15.0, help="seconds of the clip to compute for (default: 15)")
    parser.add_argument("--out", type=Path, help=command.OUT_HELP)
    args = parser.parse_args(arguments)
    measured, spec = measure(args.steps, args.rounds, lambda line: print(line, file=sys.stderr, flush=True))
    load = round(os.getloadavg()[1], 1)  # over the last five minutes
    described, computed = compute(all_presets()[args.model], args.size, args.duration)
    record = {
        "environment": header(torch.device("cpu"), command.command_line("snapshot_cost", arguments), SEED),
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
            "latent_shape": list(spec.latent_shape),
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
    command.write_results(args.out, record, page)
    print(page)
    return 0


if __name__ == "__main__":
    sys.exit(main())
