"""Compare a model's step time in the whole service with that of the bare model, alternating in one run.

    python -m zoetrope.benchmarks.served_step --model wan2.7-27b --size 480p --duration 5 --steps 8 \\
        --out benchmarks/results/served-step

Bare: a process that loads the denoiser as a rank does and runs steps one by one. Served: `zoetrope serve`, with a
client that watches its job over gRPC and records when each step is reported; snapshots as usual, previews off. Each
measurement starts new processes, so that the two never share a device. Each round of the service lies between two of
the bare model, whose difference is the drift. The name of a preset without weights stands for a checkpoint with random
ones (`benchmarks.random_checkpoint`): the transformer has its full size, the other parts are small.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path

from zoetrope.benchmarks import command
from zoetrope.benchmarks.errors import BenchmarkError
from zoetrope.benchmarks.gateway.processes import helper
from zoetrope.benchmarks.provenance import busy, machine
from zoetrope.benchmarks.random_checkpoint import DESCRIPTION, write_random_checkpoint
from zoetrope.benchmarks.served_step import report, served
from zoetrope.benchmarks.served_step.bare import BareTiming
from zoetrope.benchmarks.served_step.work import MIN_STEPS, ServedWork, spec_of
from zoetrope.kernels.select.backends import VARIABLE
from zoetrope.model.catalog.checkpoint_layout import read_transformers
from zoetrope.model.catalog.checks import check_files
from zoetrope.model.catalog.parts import source_of
from zoetrope.model.catalog.presets import find_model
from zoetrope.model.families import BUNDLED, PRESETS
from zoetrope.model.inspection.files import ModelError


def main(arguments: list[str] | None = None) -> int:
    args = _parser().parse_args(arguments)
    about = machine(os.getloadavg())
    warning = busy(about)
    if warning is not None:
        _say(warning)
        if not args.busy:
            _say("Wait until nothing else runs, or use --busy.")
            return 2
    try:
        with tempfile.TemporaryDirectory(dir=args.dir) as folder:
            work = ServedWork(_model(args.model, Path(folder)), args.size, args.duration, args.steps, args.repeats)
            card = find_model(work.model)
            check_files(card)
            spec = spec_of(card, work)
            random = any(part.random for part in read_transformers(source_of(card)))
            weights = (
                DESCRIPTION if args.model in PRESETS else "random weights" if random else "the checkpoint's weights"
            )
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
    record = report.record(command.command_line("served_step", arguments), about, clip, bare, rounds)
    page = report.markdown(record)
    command.write_results(args.out, record, page)
    print(page)
    return 0


def _measure(work: ServedWork, rounds: int, folder: Path) -> tuple[list[BareTiming], list[served.ServedTiming]]:
    """Measure in turn, starting and ending with the bare model."""
    bare, through = [_bare(work)], []
    for number in range(rounds):
        place = folder / f"round-{number + 1}"
        place.mkdir()
        through.append(served.measure(work, place))
        _say(f"round {number + 1}: {_each(through[-1].runs)} through the service")
        bare.append(_bare(work))
    return bare, through


def _bare(work: ServedWork) -> BareTiming:
    with helper("zoetrope.benchmarks.served_step.bare", json.dumps(asdict(work))) as child:
        child.start()
        found = BareTiming(**json.loads(child.line()))
    _say(f"bare: {_each(found.runs)}, loaded in {found.load_seconds:.1f} s")
    return found


def _each(runs: list[float]) -> str:
    return ", ".join(f"{1e3 * seconds:.2f}" for seconds in runs) + " ms per step"


def _model(name: str, folder: Path) -> str:
    """Return the model to serve: a preset without weights becomes a folder with random ones."""
    if name in BUNDLED or name not in PRESETS:
        return name
    write_random_checkpoint(PRESETS[name], folder / name)
    return str(folder / name)


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _parser() -> argparse.ArgumentParser:
    parser, positive = command.parser("served_step", __doc__), command.at_least(1)
    parser.add_argument("--model", default="wan2.7-27b", help="preset or checkpoint folder (default: wan2.7-27b)")
    parser.add_argument("--size", default="480p", help="480p, 720p, 1080p or WIDTHxHEIGHT (default: 480p)")
    parser.add_argument("--duration", type=float, default=5.0, help="seconds of the clip (default: 5)")
    parser.add_argument(
        "--steps", type=command.at_least(MIN_STEPS), default=8, help="steps of each run; use more if they are short"
    )
    parser.add_argument("--rounds", type=positive, default=3, help="times to start the service (default: 3)")
    parser.add_argument("--repeats", type=positive, default=3, help="runs in each process (default: 3)")
    parser.add_argument("--busy", action="store_true", help="measure even if the machine is not idle")
    parser.add_argument("--dir", type=Path, help="folder for the service's data (default: a temporary folder)")
    parser.add_argument("--out", type=Path, help=command.OUT_HELP)
    return parser


if __name__ == "__main__":
    sys.exit(main())
