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

from typing import Any

from zoetrope.benchmarks import command
from zoetrope.benchmarks.environment import header
from zoetrope.benchmarks.quality.arguments import MODEL, add_case_options, kinds_of
from zoetrope.benchmarks.quality.clips import clips_path, earlier_runs, kept_clips
from zoetrope.benchmarks.quality.engine import Clips, fill, plain
from zoetrope.benchmarks.quality.pairs import summarise
from zoetrope.benchmarks.quality.tables import SPREAD_HEAD, measure_lines, run_lines, spread_line
from zoetrope.model.catalog.presets import find_model
from zoetrope.model.families.quantization import middle_blocks
from zoetrope.model.pipeline import LocalPipeline
from zoetrope.model.request.load_options import LoadOptions

NAME = "quantized"  # of what is compared with the exact clips, in the results
NOTE = (
    "Shares are of the cases, PSNR and IoU means over them; *lost* and *won* count the cases that are right only "
    "without and only with 8 bits. A difference of latents: the norm of the difference over that of the exact ones; "
    "PSNR takes the range of a clip's exact latents as its peak, and 255 for frames. A sampler amplifies small errors: "
    "clips that differ may be equally good, which is what the oracle's shares tell."
)


def record_of(clips: Clips, measured: dict[str, Any], runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Summarise all clips. ``runs``: what made them, see `earlier_runs`."""
    tasks = {kind: summarise(kind, made, NAME) for kind, made in clips[NAME].items() if made}
    return {"environment": runs[-1], "runs": runs, "measured": measured, "tasks": tasks}


def page(record: dict[str, Any]) -> str:
    """Format the page."""
    about = record["measured"]
    lines = [
        f"# Quality with --quantize {about['quantize']}",
        *run_lines(record),
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
    add_case_options(parser)
    args = parser.parse_args(arguments)
    kinds = kinds_of(parser, args.tasks)
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
    clips: Clips = {NAME: kept_clips(args.out, measured)}
    line = command.command_line("quantized_quality", arguments)
    earlier, here = earlier_runs(args.out, measured), header(network.device, line, args.seed)

    def save() -> None:
        record = record_of(clips, measured, [*earlier, here])
        command.write_results(args.out, record, page(record))
        if args.out is not None:
            command.write_json(clips_path(args.out), {"measured": measured, "clips": clips[NAME]}, indent=None)

    some = fill(
        plain("exact", exact, card),
        [plain(NAME, quantized, card)],
        clips,
        kinds,
        count=args.count,
        batch=args.batch,
        seed=args.seed,
        steps=args.steps,
        save=save,
    )
    record = record_of(clips, measured, [*earlier, here] if some or not earlier else earlier)
    command.write_results(args.out, record, page(record))
    print(page(record))
    return 0 if all(task["within"] for task in record["tasks"].values()) else 1
