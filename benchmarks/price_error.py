"""Compare the price of jobs before they run with what they used, on nano's real network in this process.

    python -m zoetrope.benchmarks.price_error [--jobs 30] [--out benchmarks/results/price-error.json]

Jobs of three tasks, several sizes, lengths, step counts and qualities come one after another and share steps. Each is
priced when it comes, by what the cost model has learned until then; the model, the meter and the price are the
router's own. One thread computes, and seconds are those of its processor time, so that neighbours on the same cores do
not count.
"""

from __future__ import annotations

import os
import random
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch

from zoetrope.benchmarks import command
from zoetrope.benchmarks.environment import header
from zoetrope.benchmarks.provenance import busy, commit_of, machine
from zoetrope.cluster.engine.warm_up import share_of, warm_up
from zoetrope.cluster.parallel.mesh import Mesh
from zoetrope.cluster.planning.hardware import HARDWARE
from zoetrope.cluster.protocol.messages import Report
from zoetrope.model.catalog.presets import find_model
from zoetrope.model.denoising.denoise import Segment
from zoetrope.model.media.inputs import Clip, Inputs, Picture
from zoetrope.model.pipeline import LocalPipeline
from zoetrope.model.request.resolve import resolve
from zoetrope.model.request.specs import VideoSpec
from zoetrope.model.request.tasks import MediaInfo, ModelCard, VideoRequest
from zoetrope.serving.router.metering import Meter
from zoetrope.serving.router.pricing import price_of

SEED = 1
TOGETHER = 4  # jobs at a time, at most
GOAL = 0.10  # of what was used
SIZES = ("40x24", "32x32", "24x40")
PICTURE = np.full((24, 40, 3), 128, np.uint8)
R = TypeVar("R")


@dataclass(frozen=True)
class PricedJob:
    """A job with its price and what it used, in seconds of the processor."""

    task: str
    size: str
    frames: int
    steps: int
    quality: str
    guidance: float
    price: float
    used: float

    @property
    def error(self) -> float:
        return abs(self.price - self.used) / self.used


@dataclass
class _Job:
    """A job while it runs."""

    id: str
    spec: VideoSpec
    segment: Segment
    price: float


def draw(rng: random.Random, card: ModelCard) -> tuple[VideoSpec, Inputs]:
    """Draw a request and its media."""
    kind = rng.choice(["text_to_video", "image_to_video", "edit_video"])
    frames = rng.choice([5, 9, 17])
    task: dict[str, Any] = {"kind": kind, "prompt": "a red circle"}
    inputs, media = Inputs(), {}
    if kind == "image_to_video":
        task["image"], inputs = "picture", Inputs(first=Picture(PICTURE))
        media["image"] = MediaInfo("image", 40, 24)
    elif kind == "edit_video":
        task["video"], inputs = "clip", Inputs(video=Clip(np.repeat(PICTURE[None], 17, axis=0), 8))
        media["video"] = MediaInfo("clip", 40, 24, frames=17, fps=8.0)
    fields = {
        "task": task,
        "size": rng.choice(SIZES),
        "frames": frames,
        "steps": rng.choice([10, 20, 30]),
        "guidance": rng.choice([1.0, 3.0]),
        "quality": rng.choice(["exact", "exact", "balanced"]),
    }
    if fields["steps"] == 10:
        fields["quality"] = "exact"
    return resolve(VideoRequest.model_validate(fields), card, rng.randrange(1_000), media), inputs


def measure(jobs: int, tell: Callable[[str], object] = lambda _: None) -> tuple[list[PricedJob], list[float]]:
    """Run the jobs; return them, and the relative error of the prediction of each step after the first ten."""
    torch.set_num_threads(1)
    card, rng = find_model("nano"), random.Random(SEED)
    pipeline, meter = LocalPipeline.load(card), Meter({card.name: card}.get)
    denoiser = pipeline.denoiser
    report = Report("engine", 1, card.name, device="cpu")
    meter.note(Report("engine", 1, card.name, device="cpu", warmed=warm_up(denoiser, card, HARDWARE["cpu"], Mesh())))
    running: list[_Job] = []
    done: list[PricedJob] = []
    errors: list[float] = []
    made = steps = 0
    while len(done) < jobs:
        if made < jobs and len(running) < TOGETHER and (not running or rng.random() < 0.3):
            running.append(_begin(f"job{made}", *draw(rng, card), pipeline, meter, card))
            made += 1
        batch = [job.segment for job in running]
        shares = tuple(share_of(denoiser, segment) for segment in batch)
        taken, seconds = timed(lambda batch=batch: denoiser.step(batch))  # type: ignore[misc]
        meter.note(_stepped(report, shares, seconds, taken))
        steps += 1
        if steps > 10:
            errors.append(abs(meter.predicted("engine") - seconds) / seconds)
        for job in [job for job in running if job.segment.sampler.done]:
            running.remove(job)
            done.append(_end(job, pipeline, meter))
            tell(f"{len(done)} of {jobs}: price {done[-1].price:.3f} s, used {done[-1].used:.3f} s")
    return done, errors


def timed(call: Callable[[], R]) -> tuple[R, float]:
    """Return what a call returns, and the seconds of the processor that it took."""
    started = time.process_time()
    result = call()
    return result, time.process_time() - started


def _begin(name: str, spec: VideoSpec, inputs: Inputs, pipeline: LocalPipeline, meter: Meter, card: ModelCard) -> _Job:
    costs = meter.engine_costs("engine")
    assert costs is not None, "the engine has reported"
    price = price_of(spec, card, costs).total
    meter.begin(name, 0.0)
    segment, seconds = timed(lambda: pipeline.start(spec, inputs))
    segment.spec = _named(segment, name)
    meter.stage("conditioning", name, spec, seconds)
    return _Job(name, spec, segment, price)


def _named(segment: Segment, name: str) -> Any:
    return replace(segment.spec, id=f"{name}/1/0")


def _stepped(report: Report, shares: tuple[Any, ...], seconds: float, tokens: int) -> Report:
    return replace(report, shares=shares, step_seconds=seconds, step_tokens=tokens)


def _end(job: _Job, pipeline: LocalPipeline, meter: Meter) -> PricedJob:
    _, seconds = timed(lambda: sum(len(chunk) for chunk in pipeline.decode(job.segment.result().cpu())))
    meter.stage("decoding", job.id, job.spec, seconds)
    used, spec = meter.used(job.id), job.spec
    meter.forget(job.id)
    size = f"{spec.width}x{spec.height}"
    return PricedJob(
        spec.task.kind, size, spec.frames, spec.steps, spec.quality, spec.guidance, round(job.price, 4), round(used, 4)
    )


def summary(jobs: Sequence[PricedJob], errors: Sequence[float]) -> dict[str, float]:
    """Return the figures of a run; the first third of the jobs only teaches."""
    later = jobs[len(jobs) // 3 :]
    off = sorted(job.error for job in later)
    price, used = sum(job.price for job in later), sum(job.used for job in later)
    return {
        "jobs": len(later),
        "median": statistics.median(off),
        "p90": off[min(len(off) - 1, len(off) * 9 // 10)],
        "within_goal": sum(one <= GOAL for one in off) / len(off),
        "total": price / used - 1,
        "step_median": statistics.median(errors),
        "steps": len(errors),
    }


def markdown(record: dict[str, Any]) -> str:
    """Return the page of a run."""
    found, where = record["summary"], record["environment"]
    lines = [
        "# Price and use",
        "",
        f"nano on {record['machine']['processor']}, one thread, seconds of processor time. `{where['command']}`, "
        f"{commit_of(where)}, {where['date']}.",
        "",
        f"- Steps: the median error of {found['steps']:.0f} predictions is {found['step_median']:.1%}.",
        f"- Jobs: of the last {found['jobs']:.0f}, the median price is {found['median']:.1%} off what was used, "
        f"the 90th percentile {found['p90']:.1%}; {found['within_goal']:.0%} are within {GOAL:.0%}. All together "
        f"{found['total']:+.1%}.",
        "",
        "| task | size | frames | steps | quality | guidance | price | used | off |",
        "|---|---|---|---|---|---|---|---|---|",
        *(
            f"| {job['task']} | {job['size']} | {job['frames']} | {job['steps']} | {job['quality']} "
            f"| {job['guidance']:g} | {job['price']:.3f} | {job['used']:.3f} | {job['price'] / job['used'] - 1:+.1%} |"
            for job in record["jobs"]
        ),
    ]
    if warning := busy(record["machine"]):
        lines += ["", warning]
    return "\n".join(lines) + "\n"


def main(arguments: Sequence[str] | None = None) -> int:
    parser = command.parser("price_error", __doc__)
    parser.add_argument("--jobs", type=command.at_least(3), default=30, help="jobs to run (default: 30)")
    parser.add_argument("--out", type=Path, help=command.OUT_HELP)
    args = parser.parse_args(arguments)
    load = os.getloadavg()
    jobs, errors = measure(args.jobs, lambda line: print(line, file=sys.stderr, flush=True))
    record: dict[str, Any] = {
        "environment": header(torch.device("cpu"), command.command_line("price_error", arguments), SEED),
        "machine": machine(load),
        "goal": GOAL,
        "summary": {name: round(value, 4) for name, value in summary(jobs, errors).items()},
        "jobs": [asdict(job) for job in jobs],
    }
    page = markdown(record)
    command.write_results(args.out, record, page)
    print(page)
    return 0


if __name__ == "__main__":
    sys.exit(main())
