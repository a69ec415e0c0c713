"""The step of a model through the whole service against the step of the bare model, in one run, in turns.

    python -m benchmarks.served_step --model wan2.7-27b --size 480p --duration 5 --steps 8 \\
        --out benchmarks/results/served-step

Bare: a process that loads the denoiser as a rank does and takes steps one by one. Served: `zoetrope serve`, and a
client that watches its job over gRPC and notes when each step is told; snapshots as usual, previews off. Every turn
starts its processes anew, so that the two never share a device, and each round of the service lies between two of the
bare model, whose difference is the drift. The name of a preset without weights stands for a checkpoint of random ones
(`benchmarks.random_checkpoint`), whose transformer has the full size and whose other parts are small.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path

from benchmarks.gateway.processes import BenchmarkError, helper
from benchmarks.gateway.report import machine
from benchmarks.provenance import busy
from benchmarks.random_checkpoint import SAID, write_random_checkpoint
from benchmarks.served_step import report, served
from benchmarks.served_step.bare import Bare
from benchmarks.served_step.work import MIN_STEPS, Work, spec_of
from kernels.backends import VARIABLE
from model.directory import read_transformers
from model.family import FAMILY
from model.presets import PRESETS, ModelError, check_files, find_model


def main(arguments: list[str] | None = None) -> int:
    given = sys.argv[1:] if arguments is None else arguments
    parser = _parser()
    args = parser.parse_args(given)
    if args.steps < MIN_STEPS or args.rounds < 1 or args.repeats < 1:
        parser.error(
            f"--steps is {args.steps}, at least {MIN_STEPS}; --rounds is {args.rounds} and --repeats {args.repeats}, "
            "at least 1"
        )
    about = machine(os.getloadavg())
    warning = busy(about)
    if warning is not None:
        _say(warning)
        if not args.busy:
            _say("Wait until nothing else runs, or measure all the same with --busy.")
            return 2
    try:
        with tempfile.TemporaryDirectory(dir=args.dir) as folder:
            work = Work(_model(args.model, Path(folder)), args.size, args.duration, args.steps, args.repeats)
            card = find_model(work.model)
            check_files(card)
            spec = spec_of(card, work)
            drawn = any(part.random for part in read_transformers(Path(card.directory)))
            weights = SAID if args.model in FAMILY else "random weights" if drawn else "the checkpoint's weights"
            bare, rounds = _measure(work, args.rounds, Path(folder))
    except (BenchmarkError, ModelError) as error:
        _say(f"error: {error}")
        return 1
    clip = {
        **asdict(work),
        "model": card.name,
        "weights": weights,
        "latent_shape": spec.latent_shape,
        "guidance": spec.guidance,
        "kernels": os.environ.get(VARIABLE, ""),
    }
    record = report.record(shlex.join(["python", "-m", "benchmarks.served_step", *given]), about, clip, bare, rounds)
    page = report.markdown(record)
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.with_suffix(".json").write_text(json.dumps(record, indent=2) + "\n")
        args.out.with_suffix(".md").write_text(page)
    print(page)
    return 0


def _measure(work: Work, rounds: int, folder: Path) -> tuple[list[Bare], list[served.Served]]:
    """One more of the bare model than of the service."""
    bare, through = [_bare(work)], []
    for number in range(rounds):
        place = folder / f"round-{number + 1}"
        place.mkdir()
        through.append(served.measure(work, place))
        _say(f"round {number + 1}: {_each(through[-1].runs)} through the service")
        bare.append(_bare(work))
    return bare, through


def _bare(work: Work) -> Bare:
    with helper("benchmarks.served_step.bare", json.dumps(asdict(work))) as child:
        child.begin()
        found = Bare(**json.loads(child.line()))
    _say(f"bare: {_each(found.runs)}, loaded in {found.load_seconds:.1f} s")
    return found


def _each(runs: list[float]) -> str:
    return ", ".join(f"{1e3 * seconds:.2f}" for seconds in runs) + " ms a step"


def _model(name: str, folder: Path) -> str:
    """What the service is given: a preset without weights becomes a folder with random ones."""
    if name in PRESETS or name not in FAMILY:
        return name
    write_random_checkpoint(FAMILY[name], folder / name)
    return str(folder / name)


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.served_step", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--model", default="wan2.7-27b", help="a preset, or a checkpoint's folder")
    parser.add_argument("--size", default="480p", help="480p, 720p, 1080p or WIDTHxHEIGHT")
    parser.add_argument("--duration", type=float, default=5.0, help="of the clip, in seconds")
    parser.add_argument("--steps", type=int, default=8, help="of each run; more where steps are short")
    parser.add_argument("--rounds", type=int, default=3, help="starts of the service")
    parser.add_argument("--repeats", type=int, default=3, help="runs in each process")
    parser.add_argument("--busy", action="store_true", help="measure although other programs run")
    parser.add_argument("--dir", type=Path, help="for the service's data; a folder for temporary files by default")
    parser.add_argument("--out", type=Path, help="write the figures there as .json, and as .md beside it")
    return parser


if __name__ == "__main__":
    sys.exit(main())
