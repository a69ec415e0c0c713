"""Measure what 8-bit weights cost in quality: nano's clips with ``--quantize`` beside those without, task by task.

    python -m zoetrope.benchmarks.quantized_quality --out benchmarks/results/quantized-quality

Both networks make the same held-out cases (`model.nano.cases`) from the same noise. The oracle (`model.nano.measures`)
scores each clip; latents are compared by their relative error and PSNR, the decoded frames by their PSNR. The tasks
take turns, a batch each, and the results so far are written after every batch, single clips to OUT-clips.json. A run
with the same settings keeps these: one that was stopped goes on, and a larger --count adds to it. Exits with 1 if a
share of right cases differs by more than 2 points.

On a CPU the products are those of `kernels.reference`: of the same 8-bit numbers, summed in float32.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

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
from zoetrope.model.families.quantization import middle_blocks
from zoetrope.model.nano.cases import NanoCase, held_out
from zoetrope.model.nano.evaluate import SHORT_NAMES
from zoetrope.model.nano.samples import TaskKind
from zoetrope.model.pipeline import LocalPipeline, quiet
from zoetrope.model.request.load_options import LoadOptions

MODEL = "nano"
SEED = 987654  # of `model.nano.evaluate`
NAME = "quantized"  # of what is compared with the exact clips, in the results
NOTE = (
    "Shares are of the cases, PSNR and IoU means over them; *lost* and *won* count the cases that are right only "
    "without and only with 8 bits. A difference of latents: the norm of the difference over that of the exact ones; "
    "PSNR takes the range of a clip's exact latents as its peak, and 255 for frames. A sampler amplifies small errors: "
    "clips that differ may be equally good, which is what the oracle's shares tell."
)


def pairs(exact: LocalPipeline, quantized: LocalPipeline, cases: list[NanoCase]) -> list[Clip]:
    """Make the cases by both pipelines, in one batch of mixed sizes, and compare them."""
    specs, inputs = [case.spec for case in cases], [case.inputs for case in cases]
    made = [pipeline.run_batch(specs, quiet, inputs) for pipeline in (exact, quantized)]
    return [pair(exact, case, case, *latents) for case, *latents in zip(cases, *made, strict=True)]


def page(record: dict[str, Any]) -> str:
    """Format the page."""
    where, about = record["environment"], record["measured"]
    lines = [
        f"# Quality with --quantize {about['quantize']}",
        "",
        f"`{where['command']}`",
        "",
        f"{where['date']}, {commit_of(where)}, torch {where['torch']}, {where['device']}.",
        "",
        f"{about['model']}, blocks {about['blocks']} in 8 bits, {about['steps']} steps, cases of seed {about['seed']}.",
        "",
        NOTE,
        "",
        *SPREAD_HEAD,
        *(spread_line(kind, task) for kind, task in record["tasks"].items()),
    ]
    for kind, task in record["tasks"].items():
        lines += measure_lines(kind, task, NAME, about["quantize"])
    return "\n".join([*lines, ""])


def main(arguments: list[str] | None = None) -> int:
    parser = command.parser("quantized_quality", __doc__)
    parser.add_argument("--quantize", choices=("fp8",), default="fp8", help="the form to measure (default: fp8)")
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
    kinds: list[TaskKind] = [SHORT_NAMES[name] for name in names]
    card, other = find_model(MODEL), find_model(MODEL, LoadOptions(quantize=args.quantize))
    exact, quantized = LocalPipeline.load(card), LocalPipeline.load(other)
    network = exact.denoiser.transformer
    measured = {
        "model": MODEL,
        "quantize": args.quantize,
        "blocks": [*middle_blocks(network.config.num_layers)],
        "steps": args.steps or card.default_steps,
        "seed": args.seed,
    }
    clips = kept_clips(args.out, measured)
    record: dict[str, Any] = {
        "environment": header(network.device, command.command_line("quantized_quality", arguments), args.seed),
        "measured": measured,
        "tasks": {kind: summarise(kind, made, NAME) for kind, made in clips.items()},
    }
    for start in range(0, args.count, args.batch):
        for kind in kinds:
            done = clips.setdefault(kind, [])
            wanted = min(args.count, start + args.batch)
            if len(done) >= wanted:
                continue
            started = time.monotonic()
            done += pairs(exact, quantized, held_out(kind, card, wanted, args.seed, args.steps)[len(done) :])
            record["tasks"][kind] = summarise(kind, done, NAME)
            command.write_results(args.out, record, page(record))
            if args.out is not None:
                command.write_json(clips_path(args.out), {"measured": measured, "clips": clips}, indent=None)
            print(f"{kind}: {len(done)} cases, {time.monotonic() - started:.0f} s", file=sys.stderr, flush=True)
    command.write_results(args.out, record, page(record))
    print(page(record))
    return 0 if all(task["within"] for task in record["tasks"].values()) else 1


if __name__ == "__main__":
    sys.exit(main())
