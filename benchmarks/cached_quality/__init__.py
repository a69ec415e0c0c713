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
from typing import Any

from zoetrope.benchmarks import command
from zoetrope.benchmarks.environment import header
from zoetrope.benchmarks.quality.arguments import MODEL, add_case_options, kinds_of
from zoetrope.benchmarks.quality.clips import clips_path, earlier_runs, kept_clips
from zoetrope.benchmarks.quality.engine import Clips, fill, plain
from zoetrope.benchmarks.quality.pairs import Clip, summarise
from zoetrope.benchmarks.quality.sampling import INTERVAL, forwards_of, options_of
from zoetrope.benchmarks.quality.tables import SPREAD_HEAD, measure_lines, run_lines, spread_line
from zoetrope.model.catalog.presets import find_model
from zoetrope.model.nano.cases import held_out
from zoetrope.model.pipeline import LocalPipeline

NAME = "other"
VARIANTS = "balanced,fast,guidance-0-0.5"
NOTE = (
    "Shares are of the cases, PSNR and IoU means over them; *lost* and *won* count the cases that are right only in "
    "the exact clip and only in the other. Latents differ by the norm of the difference over that of the exact ones; "
    "PSNR takes the range of a clip's exact latents as its peak, and 255 for frames. A forward is one sequence in one "
    "step, so an exact step with guidance has two. "
    "A share is within 2 points also where it differs by one case of few."
)


def record_of(clips: Clips, measured: dict[str, Any], runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Summarise all clips. ``runs``: what made them, see `earlier_runs`."""
    variants = {}
    for name, kinds in clips.items():
        tasks: dict[str, dict[str, Any]] = {}
        for kind, done in kinds.items():
            if done:
                tasks[kind] = {**summarise(kind, done, NAME), **_cost(done), "step_mask": done[0]["step_mask"]}
        variants[name] = tasks
    return {"environment": runs[-1], "runs": runs, "measured": measured, "variants": variants}


def _cost(done: list[Clip]) -> dict[str, Any]:
    pairs = {
        name: [statistics.fmean(side) for side in zip(*(clip[name] for clip in done), strict=True)] for name in COST
    }
    return {name: [round(value, 4) for value in sides] for name, sides in pairs.items()}


COST = ("forwards",)


def page(record: dict[str, Any]) -> str:
    """Format the page."""
    about = record["measured"]
    lines = [
        "# Quality of the faster levels",
        *run_lines(record),
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
    add_case_options(parser)
    args = parser.parse_args(arguments)
    kinds = kinds_of(parser, args.tasks)
    variants = [name.strip() for name in args.variants.split(",")]
    card = find_model(MODEL)
    try:
        for name in variants:
            held_out("text_to_video", card, 1, args.seed, args.steps, options=options_of(name))
    except ValueError as error:  # an InvalidRequest is one
        parser.error(f"--variants: {error}")
    pipeline = LocalPipeline.load(card)
    measured = {"model": MODEL, "steps": args.steps or card.default_steps, "seed": args.seed}
    clips: Clips = {name: {} for name in variants} | kept_clips(args.out, measured)
    line = command.command_line("cached_quality", arguments)
    earlier, here = earlier_runs(args.out, measured), header(pipeline.denoiser.device, line, args.seed)

    def save() -> None:
        record = record_of(clips, measured, [*earlier, here])
        command.write_results(args.out, record, page(record))
        if args.out is not None:
            command.write_json(clips_path(args.out), {"measured": measured, "clips": clips}, indent=None)

    some = fill(
        plain("exact", pipeline, card),
        [plain(name, pipeline, card, options_of(name)) for name in variants],
        clips,
        kinds,
        count=args.count,
        batch=args.batch,
        seed=args.seed,
        steps=args.steps,
        save=save,
        figures=forwards_of,
    )
    record = record_of(clips, measured, [*earlier, here] if some or not earlier else earlier)
    command.write_results(args.out, record, page(record))
    print(page(record))
    good = all(task["within"] for tasks in record["variants"].values() for task in tasks.values())
    return 0 if good else 1
