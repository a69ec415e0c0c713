"""Measure what faster levels of quality cost: nano's clips with ``quality`` or a guidance interval beside exact ones.

    python -m zoetrope.benchmarks.cached_quality --out benchmarks/results/cached-quality

Each variant makes the same held-out cases (`model.nano.cases`) from the same noise as exact requests. The oracle
(`model.nano.measures`) scores each clip; latents are compared by their relative error and PSNR, the decoded frames by
their PSNR. The tasks take turns, a batch each, and the results so far are written after every batch, single clips to
OUT-clips.json. A run with the same settings keeps these: one that was stopped goes on, and a larger --count adds to it.
Exits with 1 if a share of right cases differs by more than 2 points, or by more than one case where that is more.
"""

from __future__ import annotations

import statistics
import sys
import time
from pathlib import Path
from typing import Any

import torch

from zoetrope.benchmarks import command
from zoetrope.benchmarks.environment import header
from zoetrope.benchmarks.paired_quality import (
    SPREAD_HEAD,
    Clip,
    clips_path,
    kept_clips,
    measure_lines,
    pair,
    spread_line,
    summarise,
)
from zoetrope.benchmarks.provenance import commit_of
from zoetrope.model.catalog.presets import find_model
from zoetrope.model.nano.cases import NanoCase, held_out
from zoetrope.model.nano.evaluate import SHORT_NAMES
from zoetrope.model.nano.samples import TaskKind
from zoetrope.model.pipeline import LocalPipeline, quiet
from zoetrope.model.request.steps import forwards
from zoetrope.model.request.tasks import ModelCard

MODEL = "nano"
SEED = 987654  # of `model.nano.evaluate`
NAME = "other"
INTERVAL = "guidance-"  # in the name of a variant: guidance-0.1-0.5
VARIANTS = "balanced,fast,guidance-0-0.5"
NOTE = (
    "Shares are of the cases, PSNR and IoU means over them; *lost* and *won* count the cases that are right only in "
    "the exact clip and only in the other. Latents differ by the norm of the difference over that of the exact ones; "
    "PSNR takes the range of a clip's exact latents as its peak, and 255 for frames. A forward is one sequence in one "
    "step, so an exact step with guidance has two. "
    "A share is within 2 points also where it differs by one case of few."
)

Clips = dict[str, dict[TaskKind, list[Clip]]]  # by variant


def options_of(variant: str) -> dict[str, Any]:
    """Return the fields of a variant's requests. Raises ValueError for a name that is not one."""
    if variant in ("balanced", "fast"):
        return {"quality": variant}
    start, dash, end = variant.removeprefix(INTERVAL).partition("-")
    if variant.startswith(INTERVAL) and dash:
        return {"guidance_start": float(start), "guidance_end": float(end)}
    raise ValueError(f"{variant!r} is neither balanced, fast nor {INTERVAL}START-END")


def made(pipeline: LocalPipeline, cases: list[NanoCase]) -> list[torch.Tensor]:
    """Return the latents of the cases, made in one batch of mixed sizes."""
    return pipeline.run_batch([case.spec for case in cases], quiet, [case.inputs for case in cases])


def add_batch(
    pipeline: LocalPipeline,
    card: ModelCard,
    kind: TaskKind,
    clips: Clips,
    wanted: int,
    measured: dict[str, Any],
) -> bool:
    """Make the cases that variants lack up to the ``wanted``-th, and compare them; False if none does."""
    lacking = {name: kinds.setdefault(kind, []) for name, kinds in clips.items()}
    lacking = {name: done for name, done in lacking.items() if len(done) < wanted}
    if not lacking:
        return False
    first, seed, steps = min(map(len, lacking.values())), measured["seed"], measured["steps"]
    cases = held_out(kind, card, wanted, seed, steps)[first:]
    exact = made(pipeline, cases)
    for name, done in lacking.items():
        skip = len(done) - first
        others = held_out(kind, card, wanted, seed, steps, options=options_of(name))[first + skip :]
        latents = made(pipeline, others)
        for case, other, ours, theirs in zip(cases[skip:], others, exact[skip:], latents, strict=True):
            counts = {"forwards": [forwards(case.spec), forwards(other.spec)], "step_mask": other.spec.step_mask}
            done.append({**pair(pipeline, case, other, ours, theirs), **counts})
    return True


def record_of(clips: Clips, measured: dict[str, Any], environment: dict[str, Any]) -> dict[str, Any]:
    """Summarise all clips."""
    variants = {}
    for name, kinds in clips.items():
        tasks: dict[str, dict[str, Any]] = {}
        for kind, done in kinds.items():
            if done:
                tasks[kind] = {**summarise(kind, done, NAME), **_cost(done), "step_mask": done[0]["step_mask"]}
        variants[name] = tasks
    return {"environment": environment, "measured": measured, "variants": variants}


def _cost(done: list[Clip]) -> dict[str, Any]:
    pairs = {
        name: [statistics.fmean(side) for side in zip(*(clip[name] for clip in done), strict=True)] for name in COST
    }
    return {name: [round(value, 4) for value in sides] for name, sides in pairs.items()}


COST = ("forwards",)


def page(record: dict[str, Any]) -> str:
    """Format the page."""
    where, about = record["environment"], record["measured"]
    lines = [
        "# Quality of the faster levels",
        "",
        f"`{where['command']}`",
        "",
        f"{where['date']}, {commit_of(where)}, torch {where['torch']}, {where['device']}.",
        "",
        f"{about['model']}, {about['steps']} steps, cases of seed {about['seed']}.",
        "",
        NOTE,
    ]
    for name, tasks in record["variants"].items():
        lines += ["", f"## {name}", "", "| task | steps computed | forwards | fewer |"]
        lines += ["|---|---|---|---|", *(_cost_line(kind, task) for kind, task in tasks.items())]
        lines += ["", *SPREAD_HEAD, *(spread_line(kind, task) for kind, task in tasks.items())]
        for kind, task in tasks.items():
            lines += measure_lines(kind, task, NAME, name)
    return "\n".join([*lines, ""])


def _cost_line(kind: str, task: dict[str, Any]) -> str:
    before, after = task["forwards"]
    mask = f"`{task['step_mask']}`" if task["step_mask"] else "all"
    return f"| {kind} | {mask} | {before:.0f} -> {after:.0f} | {before / after:.2f} x |"


def main(arguments: list[str] | None = None) -> int:
    parser = command.parser("cached_quality", __doc__)
    help_text = f"balanced, fast or {INTERVAL}START-END, by commas (default: %(default)s)"
    parser.add_argument("--variants", default=VARIANTS, help=help_text)
    parser.add_argument("--tasks", default=",".join(SHORT_NAMES), help="which, by commas (default: %(default)s)")
    parser.add_argument("--count", type=command.at_least(1), default=200, help="cases of each task (default: 200)")
    parser.add_argument("--seed", type=int, default=SEED, help="of the cases; must not be the seed of training")
    parser.add_argument("--steps", type=command.at_least(1), help="denoising steps, else the model's default")
    parser.add_argument("--batch", type=command.at_least(1), default=10, help="clips per batch (default: 10)")
    parser.add_argument("--out", type=Path, help=command.OUT_HELP)
    args = parser.parse_args(arguments)
    names = [name.strip() for name in args.tasks.split(",")]
    if not SHORT_NAMES.keys() >= set(names):
        parser.error(f"--tasks: {args.tasks!r} must be of {', '.join(SHORT_NAMES)}")
    variants = [name.strip() for name in args.variants.split(",")]
    card = find_model(MODEL)
    try:
        for name in variants:
            held_out("text_to_video", card, 1, args.seed, args.steps, options=options_of(name))
    except ValueError as error:  # an InvalidRequest is one
        parser.error(f"--variants: {error}")
    kinds: list[TaskKind] = [SHORT_NAMES[name] for name in names]
    pipeline = LocalPipeline.load(card)
    measured = {"model": MODEL, "steps": args.steps or card.default_steps, "seed": args.seed}
    clips: Clips = {name: {} for name in variants} | kept_clips(args.out, measured)
    line = command.command_line("cached_quality", arguments)
    environment = header(pipeline.denoiser.device, line, args.seed)
    for start in range(0, args.count, args.batch):
        for kind in kinds:
            started, wanted = time.monotonic(), min(args.count, start + args.batch)
            if not add_batch(pipeline, card, kind, {name: clips[name] for name in variants}, wanted, measured):
                continue
            record = record_of(clips, measured, environment)
            command.write_results(args.out, record, page(record))
            if args.out is not None:
                command.write_json(clips_path(args.out), {"measured": measured, "clips": clips}, indent=None)
            print(f"{kind}: {wanted} cases, {time.monotonic() - started:.0f} s", file=sys.stderr, flush=True)
    record = record_of(clips, measured, environment)
    command.write_results(args.out, record, page(record))
    print(page(record))
    good = all(task["within"] for tasks in record["variants"].values() for task in tasks.values())
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
