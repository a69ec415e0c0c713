"""Tell whether the carried kernels are found by this machine's Triton: in seconds, before anything relies on it.

    python -m zoetrope.benchmarks.gpu_day.kernel_cache --out FILE

A cache made by another build of Triton is never found. Then every kernel is compiled here, which the correctness stages
do side by side.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
import time
from pathlib import Path
from typing import Any

import torch
from triton import knobs
from triton.runtime.cache import triton_key

from zoetrope.benchmarks import command
from zoetrope.benchmarks.environment import header
from zoetrope.benchmarks.gpu_day.compiled import manifest
from zoetrope.benchmarks.kernels.cases import KernelInputs
from zoetrope.benchmarks.kernels.cases_rows import combine_cases

SEED = 1


def key() -> str:
    """Return what tells one build of Triton from another, shortened."""
    return hashlib.sha256(triton_key().encode()).hexdigest()[:16]


def probe(device: torch.device) -> dict[str, Any]:
    """Launch one kernel in bf16; return whether it was found compiled, and the seconds that it took."""
    hits: list[bool] = []

    def listen(*, cache_hit: bool, **rest: Any) -> None:
        hits.append(cache_hit)

    before, knobs.compilation.listener = knobs.compilation.listener, listen
    start = time.perf_counter()
    try:
        inputs = KernelInputs(SEED, device, tiny=False, kernels=True)
        with torch.inference_mode():
            next(case for case in combine_cases(inputs) if case.dtype == "bf16").run()
        torch.cuda.synchronize()
    finally:
        knobs.compilation.listener = before
    return {"hit": all(hits), "seconds": time.perf_counter() - start}


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--out", type=Path, required=True, help="write what was found to this file")
    args = parser.parse_args(arguments)
    device = torch.device("cuda", 0)
    carried, mine = manifest(Path(knobs.cache.dir)), key()
    found = probe(device)
    record = {
        **header(device, command.command_line("gpu_day.kernel_cache", arguments), SEED),
        "triton_key": mine,
        "carried": carried,
        "same_triton": None if carried is None else carried["triton_key"] == mine,
        **found,
    }
    command.write_json(args.out, record)
    print(f"Triton {mine}, carried {carried and carried['triton_key']}: {found}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
