"""Measure a model in one process, by size and part.

Seconds a step and memory, split by part, and against diffusers.

    zoetrope bench model --out benchmarks/results/model-steps
    python -m zoetrope.benchmarks.model_steps --model wan2.7-27b --clip 832x480x81

Without ``--model``, a Wan2.1 text-to-video checkpoint with nano's width and depth and random weights, which diffusers
can run as well. A preset without weights of its own gets random ones at full size, with a small text encoder and a
small autoencoder. On a CPU the figures are processor time, so that other processes disturb them little.

diffusers' WanPipeline runs on the very same weights, with as many threads, in turns with ours: from the prompt to the
last step, each time with prompts that neither has seen. The model must be dense, with one transformer, and make clips
of text; otherwise the page says why there is no comparison. Compiled, each side compiles its blocks for all sizes.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from zoetrope.benchmarks import command

WAYS = ("eager", "compiled")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = command.parser("model_steps", __doc__)
    parser.add_argument("--model", default="", help="preset or folder of a checkpoint (default: small, random, dense)")
    parser.add_argument(
        "--clip", action="append", default=[], help="WIDTHxHEIGHTxFRAMES; repeatable (default: as the model's, or five)"
    )
    parser.add_argument("--steps", type=command.at_least(2), default=4, help="denoising steps of a clip (default: 4)")
    parser.add_argument("--repeats", type=command.at_least(1), default=5, help="timed clips of each size (default: 5)")
    parser.add_argument(
        "--ways", nargs="*", choices=WAYS, default=list(WAYS), help="how diffusers is compared; none: not at all"
    )
    parser.add_argument(
        "--jobs", type=command.at_least(0), default=8, help="mixed small clips in one batch; 0: none (default: 8)"
    )
    parser.add_argument("--out", type=Path, help=f"{command.OUT_HELP}, and a plot to OUT.png")
    args = parser.parse_args(arguments)
    from zoetrope.benchmarks.errors import BenchmarkError
    from zoetrope.benchmarks.model_steps.clips import parse_clip
    from zoetrope.model.inspection.files import ModelError
    from zoetrope.model.request.tasks import InvalidRequest

    try:
        clips = [parse_clip(text) for text in args.clip]
        from zoetrope.benchmarks.model_steps.measure import measure
        from zoetrope.benchmarks.model_steps.plot import plot
        from zoetrope.benchmarks.model_steps.report import page

        run = command.command_line("model_steps", arguments)
        record = measure(args.model, clips, args.steps, args.repeats, args.ways, args.jobs, run)
    except (BenchmarkError, ModelError, InvalidRequest) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    made = page(record)
    command.write_results(args.out, record, made)
    if args.out is not None and (reason := plot(record, args.out.with_suffix(".png"))):
        print(f"no plot: {reason}", file=sys.stderr)
    print(made)
    return 0


if __name__ == "__main__":
    sys.exit(main())
