"""Measure the gain of torch.compile for each step size, as an engine does when it starts.

    python -m zoetrope.benchmarks.compile_gain --out benchmarks/results/compile-gain

nano has its real weights; other presets have random ones, which cost the same: bfloat16 on a GPU, float32 on a CPU.
Compiled, the passes between matrix products are the plain torch ones of `kernels`, which the compiler fuses; eager,
they are chosen as usual (`ZOETROPE_KERNELS`). Attention, routing and grouped GEMM are the same either way.
"""

from __future__ import annotations

import logging
import os
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from zoetrope.benchmarks import command
from zoetrope.benchmarks.environment import header
from zoetrope.benchmarks.provenance import commit_of
from zoetrope.cluster.parallel.compiled import LADDER, STEP_SECONDS, Backend, longest_clip, measure
from zoetrope.kernels.select.backends import VARIABLE
from zoetrope.model.catalog.checkpoint_layout import RandomWeights
from zoetrope.model.catalog.presets import find_model
from zoetrope.model.checkpoints.load import compute_dtype, load_transformer
from zoetrope.model.checkpoints.random_weights import random_network
from zoetrope.model.denoising.forward import run_alone
from zoetrope.model.families import BUNDLED, all_presets
from zoetrope.model.families.config import TEXT_TOKENS
from zoetrope.model.network.costs import tokens_of
from zoetrope.model.network.protocol import Network
from zoetrope.model.request.sizes import SIZES

SEED = 0
BACKENDS = ("inductor", "aot_eager")  # the second one traces as the first, and generates no code


def network_of(name: str, device: torch.device) -> tuple[Network, int, int]:
    """Return the first transformer of a preset, the maximum length of its sequences, and its text tokens."""
    if name in BUNDLED:
        card = find_model(name)
        return load_transformer(card, device), longest_clip(card), card.max_text_tokens
    preset = all_presets()[name]
    config, (width, height) = preset.config, preset.denoised_size(*SIZES["1080p"]["16:9"])
    longest = tokens_of(width, height, preset.sampling.frames, preset.vae, config.patch_size)
    weights = RandomWeights(seed=SEED, std=0.02)
    return random_network(config, device, compute_dtype(device), weights), longest, TEXT_TOKENS


def record_of(
    name: str, device: torch.device, run: str, ladder: tuple[int, ...], seconds: float, backend: Backend
) -> dict[str, Any]:
    """Measure and return the record. ``run``: the command to record.

    Raises:
        RuntimeError: nothing can be compiled here; the log says why.
    """
    network, longest, words = network_of(name, device)
    gains = measure([network], run_alone, longest, words, backend=backend, ladder=ladder, step_seconds=seconds)
    if not gains.rungs:
        raise RuntimeError("nothing can be compiled here")
    return {
        "environment": header(device, run, SEED),
        "measured_on": {
            "model": name,
            "dtype": str(compute_dtype(device)),
            "kernels": os.environ.get(VARIABLE, ""),
            "threads": torch.get_num_threads(),
            "load_average": round(os.getloadavg()[1], 1),  # over the last five minutes
            "cores": os.cpu_count(),
            "longest_sequence": longest,
            "text_tokens": words,
            "backend": backend if isinstance(backend, str) else backend.__name__,
        },
        "compile_seconds": gains.compiling,
        "rungs": [{**asdict(rung), "gain": rung.gain, "chosen": _way(rung.gain)} for rung in gains.rungs],
    }


def markdown(record: dict[str, Any]) -> str:
    """Format the page."""
    where, about = record["environment"], record["measured_on"]
    lines = [
        "# Gain of torch.compile",
        "",
        f"`{where['command']}`",
        "",
        f"{where['date']}, {commit_of(where)}, torch {where['torch']}.",
        "",
        f"{about['model']}, {about['dtype'].removeprefix('torch.')}, on {where['device']}, {about['threads']} "
        f"thread(s); load average of the machine {about['load_average']} on {about['cores']} cores. Sequences of at "
        f"most {about['longest_sequence']:,} tokens, {about['text_tokens']} of text each. Compiling took "
        f"{record['compile_seconds']:.1f} s; an earlier run's cache shortens it. Times are the fastest of three steps, "
        "in turn.",
        *([] if about.get("backend", BACKENDS[0]) == BACKENDS[0] else [f"Backend: {about['backend']}."]),
        "",
        "| tokens per step | eager | compiled | gain | chosen |",
        "|---|---|---|---|---|",
    ]
    for rung in record["rungs"]:
        lines.append(
            f"| {rung['tokens']:,} | {1e3 * rung['eager']:.2f} ms | {1e3 * rung['compiled']:.2f} ms | "
            f"{rung['gain']:.2f}x | {rung['chosen']} |"
        )
    return "\n".join([*lines, ""])


def main(arguments: list[str] | None = None, backend: Backend | None = None) -> int:
    parser = command.parser("compile_gain", __doc__)
    parser.add_argument("--preset", default="nano", choices=sorted(all_presets()), help="model (default: nano)")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="torch device")
    parser.add_argument(
        "--tokens", type=command.at_least(1), action="append", help="step size; repeatable (default: as an engine)"
    )
    parser.add_argument(
        "--step-seconds", type=float, default=STEP_SECONDS, help="stop after a step longer than this, in seconds"
    )
    parser.add_argument(
        "--backend", default="inductor", choices=BACKENDS, help="of torch.compile; engines use %(default)s"
    )
    parser.add_argument("--out", type=Path, help=command.OUT_HELP)
    args = parser.parse_args(arguments)
    ladder = tuple(sorted(args.tokens or LADDER))
    logging.basicConfig(format="%(message)s")
    logging.getLogger("zoetrope.compiled").setLevel(logging.INFO)
    run = command.command_line("compile_gain", arguments)
    try:
        record = record_of(
            args.preset, torch.device(args.device), run, ladder, args.step_seconds, backend or args.backend
        )
    except RuntimeError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    page = markdown(record)
    command.write_results(args.out, record, page)
    print(page)
    return 0


def _way(gain: float) -> str:
    return "compiled" if gain > 1 else "eager"


if __name__ == "__main__":
    sys.exit(main())
