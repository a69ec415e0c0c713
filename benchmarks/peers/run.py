"""Read the command line, run every peer in turn, and write the results."""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from zoetrope.benchmarks import command
from zoetrope.benchmarks.environment import header
from zoetrope.benchmarks.errors import BenchmarkError
from zoetrope.benchmarks.packed_throughput.dense import write_dense
from zoetrope.benchmarks.peers import __main__ as command_page
from zoetrope.benchmarks.peers.measure import PeerFailed, PeerRun, run, version_of
from zoetrope.benchmarks.peers.peer import NotRun, PeerWork
from zoetrope.benchmarks.peers.registry import PEERS, REFERENCE
from zoetrope.benchmarks.peers.report import page
from zoetrope.model.nano.measures import psnr

PROMPT = "a red circle moving right on a white background"
TINY = "a tiny dense checkpoint with random weights"
FEW = 4  # steps of the shorter run; its loading and decoding are those of the longer one


def main(arguments: Sequence[str] | None = None) -> int:
    parser = _parser()
    args = parser.parse_args(arguments)
    pythons = _pythons(parser, args.peer)
    if args.steps <= FEW:
        parser.error(f"--steps is {args.steps}, must be above {FEW}, the steps of the shorter run")
    width, height = _size(parser, args.size)
    with tempfile.TemporaryDirectory() as name:
        if args.model is None:
            write_dense(Path(name, "dense"))
        model = args.model or str(Path(name, "dense"))
        try:
            shift = shift_of(Path(model))
        except BenchmarkError as error:
            parser.error(f"--model: {error}")
        work = PeerWork(
            model=model,
            original=args.original,
            hub_name=args.hub_name,
            prompt=args.prompt,
            negative=args.negative,
            width=width,
            height=height,
            frames=args.frames,
            steps=args.steps,
            guidance=args.guidance,
            shift=shift,
            seed=args.seed,
        )
        record = record_of(work, args.model or TINY, pythons, args.repeats, args.threads, args.timeout)
    line = command.command_line("peers", arguments)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    record = {"environment": header(device, line, args.seed), **record}
    command.write_results(args.out, record, page(record))
    print(page(record))
    return 0


def record_of(
    work: PeerWork, model: str, pythons: dict[str, str], repeats: int, threads: int, timeout: float
) -> dict[str, Any]:
    """Run every peer, in turn.

    Args:
        model: to be named in the record. pythons: the interpreter of each peer, by its name in `PEERS`.
    """
    rows: dict[str, dict[str, Any]] = {}
    for key, peer in PEERS.items():
        rows[key] = {"name": peer.name, "source": peer.source}
        try:
            rows[key]["version"] = version_of(peer, pythons[key])
        except NotRun as reason:
            rows[key]["outcome"] = f"not run: {reason}"
    runs: dict[tuple[str, int], list[PeerRun]] = {}
    for number in range(repeats):
        for key, row in rows.items():
            for steps in (FEW, work.steps):
                if "outcome" in row:
                    continue
                print(f"{row['name']}, {steps} steps, run {number + 1} of {repeats}", file=sys.stderr, flush=True)
                try:
                    found = run(PEERS[key], pythons[key], work.in_steps(steps), threads, timeout)
                except NotRun as reason:
                    row["outcome"] = f"not run: {reason}"
                except PeerFailed as error:
                    row["outcome"] = f"failed: {error}"
                else:
                    runs.setdefault((key, steps), []).append(found)
    clock = "cuda" if torch.cuda.is_available() else "cpu"
    for key, row in rows.items():
        if "outcome" not in row:
            row |= _figures(runs[key, FEW], runs[key, work.steps], work.steps - FEW, clock)
    _compare(rows, {key: runs[key, work.steps][-1] for key, row in rows.items() if "outcome" not in row})
    described = {**work.to_dict(), "model": model}
    about = {"model": model, "work": described, "reference": PEERS[REFERENCE].name, "clock": clock}
    return {**about, "repeats": repeats, "threads": threads, "few": FEW, "peers": _shown(rows, work.model, model)}


def _figures(few: list[PeerRun], many: list[PeerRun], steps: int, clock: str) -> dict[str, Any]:
    """Return a peer's seconds; a step has none if the longer runs took no longer."""
    short, long = (
        statistics.median(one.processor if clock == "cpu" else one.wall for one in runs) for runs in (few, many)
    )
    step = (long - short) / steps
    return {
        "command": many[-1].command,
        "seconds": round(long, 3),
        "seconds_of_few": round(short, 3),
        "wall": round(statistics.median(one.wall for one in many), 3),
        "step": round(step, 6) if step > 0 else None,
    }


def _compare(rows: dict[str, dict[str, Any]], last: dict[str, PeerRun]) -> None:
    """Add how fast each is against the reference, and how alike their clips are."""
    for key, found in last.items():
        other = rows[REFERENCE].get("step") if REFERENCE in last else None
        step = rows[key]["step"]
        rows[key]["speed"] = round(other / step, 4) if other and step else None
        theirs = last[REFERENCE].frames if REFERENCE in last else None
        rows[key]["psnr"] = None if theirs is None else round(psnr(theirs, found.frames), 3)
        rows[key]["equal"] = theirs is not None and bool((theirs == found.frames).all())


def _shown(rows: dict[str, dict[str, Any]], path: str, model: str) -> list[dict[str, Any]]:
    """Return the rows, with the name of a model that was made for this run in place of its folder."""
    shown = path if path == model else "MODEL"
    texts = ("command", "outcome")
    return [{k: v.replace(path, shown) if k in texts else v for k, v in row.items()} for row in rows.values()]


def shift_of(model: Path) -> float:
    """Return the shift of a checkpoint's noise schedule.

    Raises:
        BenchmarkError: the folder has no schedule, or one without a shift.
    """
    path = model / "scheduler" / "scheduler_config.json"
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise BenchmarkError(f"{path} cannot be read: {error}") from None
    shift = found.get("flow_shift", found.get("shift"))
    if not isinstance(shift, int | float):
        raise BenchmarkError(f"{path} has no flow_shift")
    return float(shift)


def _parser() -> argparse.ArgumentParser:
    parser = command.parser("peers", command_page.__doc__)
    parser.add_argument("--model", help="checkpoint in diffusers' layout (default: a tiny one, made for this)")
    parser.add_argument("--original", default="", help="the same weights in the layout of Wan's own releases")
    parser.add_argument("--hub-name", default="", help="the name of --model at Hugging Face, for xDiT")
    parser.add_argument(
        "--peer", action="append", default=[], metavar="NAME=PYTHON", help=f"one of {', '.join(PEERS)}, and its Python"
    )
    parser.add_argument("--prompt", default=PROMPT, help="default: %(default)s")
    parser.add_argument("--negative", default="", help="negative prompt (default: none)")
    parser.add_argument("--size", default="256x160", help="WIDTHxHEIGHT (default: %(default)s)")
    parser.add_argument("--frames", type=command.at_least(1), default=17, help="default: %(default)s")
    parser.add_argument("--steps", type=command.at_least(1), default=44, help=f"above {FEW} (default: %(default)s)")
    parser.add_argument("--guidance", type=float, default=4.0, help="default: %(default)s")
    parser.add_argument("--seed", type=command.at_least(0), default=7, help="default: %(default)s")
    parser.add_argument("--repeats", type=command.at_least(1), default=3, help="default: %(default)s")
    parser.add_argument("--threads", type=command.at_least(1), default=1, help="of a CPU (default: %(default)s)")
    parser.add_argument("--timeout", type=float, default=3_600, help="seconds of a run (default: %(default)s)")
    parser.add_argument("--out", type=Path, help=command.OUT_HELP)
    return parser


def _pythons(parser: argparse.ArgumentParser, given: list[str]) -> dict[str, str]:
    """Return the interpreter of every peer; a bad --peer ends the process with a message."""
    pythons = dict.fromkeys(PEERS, sys.executable)
    for text in given:
        name, _, python = text.partition("=")
        if name not in PEERS or not python:
            parser.error(f"--peer: {text!r} must be NAME=PYTHON, NAME one of {', '.join(PEERS)}")
        pythons[name] = python
    return pythons


def _size(parser: argparse.ArgumentParser, text: str) -> tuple[int, int]:
    width, _, height = text.partition("x")
    if not (width.isdecimal() and height.isdecimal() and int(width) and int(height)):
        parser.error(f"--size: {text!r} must be WIDTHxHEIGHT")
    return int(width), int(height)
