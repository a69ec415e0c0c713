"""What torch.compile gains at each size of a step: the measurement that an engine makes when it starts.

    python -m benchmarks.compile_gain --out benchmarks/results/compile-gain

nano has its own weights; the other presets have random ones, which cost the same: bfloat16 on a GPU, float32 on a CPU.
Compiled, the passes between products are the plain torch ones of `kernels`, which the compiler joins; eager, whichever
are chosen (`ZOETROPE_KERNELS`). Attention, routing and grouped GEMM are the same both ways.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from benchmarks.kernels.environment import header
from benchmarks.provenance import commit_of
from cluster.compiled import LADDER, STEP_SECONDS, Backend, longest_clip, measure
from kernels.backends import VARIABLE
from model.checkpoints import compute_dtype, load_transformer
from model.costs import TEXT_TOKENS, tokens_of
from model.directory import RandomWeights
from model.presets import PRESETS, all_presets, find_model
from model.random_weights import random_network
from model.running import run_alone
from model.sizes import SIZES
from model.transformer import WanTransformer

SEED = 0


def network_of(name: str, device: torch.device) -> tuple[WanTransformer, int, int]:
    """The first transformer of a preset, tokens of the longest sequence to give it, and words of a text."""
    if name in PRESETS:
        card = find_model(name)
        return load_transformer(card, device), longest_clip(card), card.max_text_tokens
    preset = all_presets()[name]
    config, (width, height) = preset.config, preset.denoised_size(*SIZES["1080p"]["16:9"])
    longest = tokens_of(width, height, preset.sampling.frames, preset.vae, config.patch_size)
    weights = RandomWeights(seed=SEED, std=0.02)
    return random_network(config, device, compute_dtype(device), weights), longest, TEXT_TOKENS


def record_of(
    name: str, device: torch.device, command: str, ladder: tuple[int, ...], seconds: float, backend: Backend
) -> dict[str, Any]:
    """Measure.

    Raises:
        RuntimeError: nothing can be compiled here; the log says why.
    """
    network, longest, words = network_of(name, device)
    gains = measure([network], run_alone, longest, words, backend=backend, ladder=ladder, step_seconds=seconds)
    if not gains.rungs:
        raise RuntimeError("nothing can be compiled here")
    return {
        "environment": header(device, command, SEED),
        "measured_on": {
            "model": name,
            "dtype": str(compute_dtype(device)),
            "kernels": os.environ.get(VARIABLE, ""),
            "threads": torch.get_num_threads(),
            "load_average": round(os.getloadavg()[1], 1),  # of the last five minutes
            "cores": os.cpu_count(),
            "longest_sequence": longest,
            "text_tokens": words,
        },
        "compile_seconds": gains.compiling,
        "rungs": [{**asdict(rung), "gain": rung.gain, "chosen": _way(rung.gain)} for rung in gains.rungs],
    }


def markdown(record: dict[str, Any]) -> str:
    """The page beside the figures."""
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
        f"{record['compile_seconds']:.1f} s; less where an earlier run has left its cache. Of each way the fastest of "
        "three steps, in turns.",
        "",
        "| tokens of a step | eager | compiled | gain | an engine takes |",
        "|---|---|---|---|---|",
    ]
    for rung in record["rungs"]:
        lines.append(
            f"| {rung['tokens']:,} | {1e3 * rung['eager']:.2f} ms | {1e3 * rung['compiled']:.2f} ms | "
            f"{rung['gain']:.2f}x | {rung['chosen']} |"
        )
    return "\n".join([*lines, ""])


def main(arguments: list[str] | None = None, backend: Backend = "inductor") -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--preset", default="nano", choices=sorted(all_presets()))
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--tokens", type=int, action="append", help="of a step; once for each, else as an engine does")
    parser.add_argument("--step-seconds", type=float, default=STEP_SECONDS, help="longest step before the last")
    parser.add_argument("--out", type=Path, help="write the figures to OUT.json, and as Markdown to OUT.md")
    args = parser.parse_args(arguments)
    ladder = tuple(sorted(args.tokens or LADDER))
    if ladder[0] < 1:
        parser.error(f"--tokens is {ladder[0]}, at least 1")
    logging.basicConfig(format="%(message)s")
    logging.getLogger("zoetrope.compiled").setLevel(logging.INFO)
    command = " ".join(["python -m benchmarks.compile_gain", *(sys.argv[1:] if arguments is None else arguments)])
    try:
        record = record_of(args.preset, torch.device(args.device), command, ladder, args.step_seconds, backend)
    except RuntimeError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    page = markdown(record)
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.with_name(f"{args.out.name}.json").write_text(json.dumps(record, indent=2) + "\n")
        args.out.with_name(f"{args.out.name}.md").write_text(page)
    print(page)
    return 0


def _way(gain: float) -> str:
    return "compiled" if gain > 1 else "eager"


if __name__ == "__main__":
    sys.exit(main())
