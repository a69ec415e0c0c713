"""Measure what every option that makes clips faster or smaller costs in quality, on nano, and what it gains.

    python -m zoetrope.benchmarks.quality --out benchmarks/results/quality

Each option makes the same held-out cases of all six tasks from the same noise as exact requests, in the same run. The
oracle (`model.nano.measures`) scores each clip; frames are compared by PSNR, SSIM and VMAF, and VBench's temporal
flickering is computed of both. *again*, *neighbours* and *compiled* should change nothing: they measure how far that
holds. With --vbench the clips are given to VBench's own package too. The results so far are written after every batch,
single clips to OUT-clips.json; a run with the same settings keeps these and goes on. Exits with 1 if a share of right
cases differs by more than 2 points, or by more than one case where that is more.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from zoetrope.benchmarks import command
from zoetrope.benchmarks.environment import header
from zoetrope.benchmarks.errors import BenchmarkError
from zoetrope.benchmarks.kernels.peers import installed
from zoetrope.benchmarks.quality.arguments import MODEL, add_case_options, kinds_of
from zoetrope.benchmarks.quality.clips import clips_path, earlier_runs, kept_clips
from zoetrope.benchmarks.quality.engine import ClipPair, Clips, fill
from zoetrope.benchmarks.quality.options import DISTILL, FLOOR, SPEED, QualityOptions, check_name
from zoetrope.benchmarks.quality.plot import plot
from zoetrope.benchmarks.quality.record import figures_of, record_of, shown
from zoetrope.benchmarks.quality.report import page
from zoetrope.benchmarks.quality.sampling import INTERVAL, LEVELS, options_of
from zoetrope.benchmarks.quality.similarity import VMAF_LINES, ffmpeg_version, find_ffmpeg
from zoetrope.benchmarks.quality.vbench import score
from zoetrope.model.catalog.presets import find_model
from zoetrope.model.nano.cases import held_out
from zoetrope.model.request.tasks import ModelCard
from zoetrope.serving.stages.render import render_video

COUNT, FLOOR_COUNT = 10, 2


def main(arguments: Sequence[str] | None = None) -> int:
    """Read the command line, measure, and write the results."""
    parser = _parser()
    args = parser.parse_args(arguments)
    kinds = kinds_of(parser, args.tasks)
    names = list(dict.fromkeys(name.strip() for name in args.options.split(",")))
    card = find_model(MODEL)
    _check(parser, names, card, args)
    try:
        ffmpeg, measured_vmaf = _vmaf(args.ffmpeg)
    except BenchmarkError as error:
        parser.error(f"--ffmpeg: {error}")
    made = QualityOptions(card)
    ways = [replace(made.way(name), most=args.floor_count if name in FLOOR else None) for name in names]
    sizes = {name: made.size(name) for name in names}
    measured = {"model": MODEL, "steps": args.steps or card.default_steps, "seed": args.seed}
    clips: Clips = {name: {} for name in names} | kept_clips(args.out, measured)
    sizes |= {name: made.size(name) for name in clips if name not in sizes}
    line = command.command_line("quality", arguments)
    earlier, here = earlier_runs(args.out, measured), header(made.pipeline.denoiser.device, line, args.seed)

    def keep(name: str, pair: ClipPair) -> None:
        if args.videos is not None:
            _write_video(args.videos / name, pair, shown(pair)[1])
            _write_video(args.videos / "exact", pair, shown(pair)[0])

    def record(runs: list[dict[str, Any]]) -> dict[str, Any]:
        return {**record_of(clips, sizes, measured, runs), "vmaf": measured_vmaf, "plot": None, "vbench": NO_VBENCH}

    def save() -> None:
        now = record([*earlier, here])
        command.write_results(args.out, now, page(now))
        if args.out is not None:
            command.write_json(clips_path(args.out), {"measured": measured, "clips": clips}, indent=None)

    warm_up(made, card, args.seed)
    some = fill(
        made.exact,
        ways,
        clips,
        kinds,
        count=args.count,
        batch=args.batch,
        seed=args.seed,
        steps=args.steps,
        save=save,
        figures=figures_of(ffmpeg, keep),
    )
    found = record([*earlier, here] if some or not earlier else earlier)
    if args.vbench is not None:
        found["vbench"] = _vbench(args.vbench, args.videos, ["exact", *names])
    found["plot"] = _plot(found, args.out)
    command.write_results(args.out, found, page(found))
    print(page(found))
    speed = [row for row in found["options"].values() if not row["floor"]]
    return 0 if all(task["within"] for row in speed for task in row["tasks"].values()) else 1


NO_VBENCH = {"reason": "VBench was not asked for (--vbench)"}


def warm_up(made: QualityOptions, card: ModelCard, seed: int) -> None:
    """Make a clip in one step, so that the first timed batch does not pay for what is done once."""
    made.exact.make(made.exact.cases("text_to_video", 1, seed, 1))


def _parser() -> argparse.ArgumentParser:
    parser = command.parser("quality", __doc__)
    options = f"which, by commas; guidance-START-END for another interval (default: {','.join((*SPEED, *FLOOR))})"
    parser.add_argument("--options", default=",".join((*SPEED, *FLOOR)), help=options)
    add_case_options(parser, COUNT)
    parser.add_argument(
        "--floor-count",
        type=command.at_least(1),
        default=FLOOR_COUNT,
        help="cases of each task of what changes nothing (default: %(default)s)",
    )
    parser.add_argument("--ffmpeg", help="an ffmpeg with libvmaf (default: on the path, or of imageio-ffmpeg)")
    parser.add_argument("--videos", type=Path, help="write the clips of this run to FOLDER/OPTION, as MP4")
    parser.add_argument(
        "--vbench", metavar="PYTHON", help="of an environment with vbench and its weights: score --videos"
    )
    return parser


def _check(parser: argparse.ArgumentParser, names: list[str], card: ModelCard, args: argparse.Namespace) -> None:
    """End the process with a message if an option cannot be measured; before anything is loaded."""
    for name in names:
        try:
            check_name(name)
            if name.startswith(INTERVAL) or name in LEVELS:
                held_out("text_to_video", card, 1, args.seed, args.steps, options=options_of(name))
        except ValueError as error:  # an InvalidRequest is one
            parser.error(f"--options: {error}")
    if DISTILL in names and args.steps is not None:
        parser.error(f"--options: {DISTILL} has steps of its own, so --steps cannot be given with it")
    if args.vbench is not None and args.videos is None:
        parser.error("--vbench scores the clips of --videos: give both")
    if missing := installed("torchmetrics"):
        parser.error(f"SSIM needs torchmetrics: {missing}, pip install '.[bench]'")


def _vmaf(named: str | None) -> tuple[str | None, dict[str, Any]]:
    """Return an ffmpeg that computes VMAF, and what the record says about it; one that was named must."""
    try:
        path = find_ffmpeg(named)
    except BenchmarkError as error:
        if named is not None:
            raise
        return None, {"reason": str(error)}
    return path, {"ffmpeg": ffmpeg_version(path), "lines": VMAF_LINES}


def _write_video(folder: Path, pair: ClipPair, frames: Any) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    spec = pair.exact_case.spec
    path = folder / f"{pair.exact_case.kind}-{spec.seed}.mp4"
    render_video(replace(spec, width=spec.native_width, height=spec.native_height), [frames], path)


def _vbench(python: str, videos: Path, names: list[str]) -> dict[str, Any]:
    """Return VBench's scores of each folder that has clips, or why there are none."""
    scores: dict[str, Any] = {}
    version = ""
    for name in names:
        if (videos / name).is_dir():
            try:
                found = score(python, videos / name)
            except BenchmarkError as error:
                return {"reason": str(error)}
            version, scores[name] = found["version"], found["scores"]
    return {"version": version, "scores": scores} if scores else {"reason": "this run made no clip"}


def _plot(record: dict[str, Any], out: Path | None) -> str | None:
    """Draw the plot beside the results; returns its name, or None if there is none."""
    if out is None or not any(row["gain"] for row in record["options"].values()):
        return None
    stem = out.with_suffix("") if out.suffix == ".json" else out
    path = stem.with_name(f"{stem.name}.png")
    missing = plot(record, path)
    if missing is not None:
        print(f"no plot: {missing}", file=sys.stderr)
    return None if missing is not None else path.name
