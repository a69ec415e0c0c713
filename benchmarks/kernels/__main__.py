"""The command line of the kernel benchmark; see the package docstring."""

from __future__ import annotations

import argparse
import os
import sys
import warnings
from pathlib import Path

import torch

import zoetrope.benchmarks.kernels as package
from zoetrope.benchmarks.kernels.contenders import DeviceLost
from zoetrope.benchmarks.kernels.merge import RESULTS
from zoetrope.benchmarks.kernels.results import NOTICE
from zoetrope.benchmarks.kernels.run import BenchmarkRun
from zoetrope.benchmarks.kernels.sections import SECTIONS
from zoetrope.benchmarks.kernels.selection import BACKENDS, DTYPE_NAMES, KERNELS
from zoetrope.benchmarks.kernels.shapes import MODELS, USUAL
from zoetrope.kernels.gpu.tiles import DATA

COMMAND = "python -m zoetrope.benchmarks.kernels"
NO_GPU = f"""error: there is no CUDA device to measure. On an H100 or H200:

    {COMMAND} --tune
    {COMMAND}

or in calls of about ten minutes, each repeated until it reports that it is done:

    for part in {" ".join(SECTIONS)}; do {COMMAND} --only $part --resume --limit 500; done

To run a smoke test here at toy sizes: {COMMAND} --tiny --device cpu"""


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog=COMMAND, description=package.__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--only", nargs="+", choices=list(SECTIONS), default=list(SECTIONS), help="parts to run (default: all)"
    )
    parser.add_argument("--tokens", nargs="+", type=int, help="token counts (default 8192 32768 75600)")
    parser.add_argument(
        "--models", nargs="+", choices=list(MODELS), default=list(USUAL), help="shapes to time (default: 27b 14b)"
    )
    parser.add_argument(
        "--kernel", nargs="+", choices=KERNELS, default=[], metavar="OP/BACKEND", help=f"kernels: {', '.join(KERNELS)}"
    )
    parser.add_argument("--backend", nargs="+", choices=BACKENDS, default=[], help="kernels of these backends only")
    parser.add_argument("--dtype", nargs="+", choices=DTYPE_NAMES, default=[], help="kernels in these dtypes only")
    parser.add_argument("--out", type=Path, help=f"folder of the results, and of proofs and tiles (default: {RESULTS})")
    parser.add_argument(
        "--data", type=Path, help=f"folder of proofs and tiles (default: data in --out, without it {DATA})"
    )
    parser.add_argument("--correctness-only", action="store_true", help="check correctness, time nothing")
    parser.add_argument(
        "--tune", action="store_true", help="tune tile sizes and write the device's table, time nothing"
    )
    parser.add_argument(
        "--limit",
        type=float,
        default=float("inf"),
        help="seconds after which no new case is started; what was tuned is still proved",
    )
    parser.add_argument("--resume", action="store_true", help="skip cases that this commit already has in the results")
    parser.add_argument("--seed", type=int, help="seed of the random inputs (default: random)")
    parser.add_argument("--device", default="cuda", help="torch device (default: cuda)")
    parser.add_argument("--tiny", action="store_true", help="use toy sizes, as a smoke test")
    args = parser.parse_args(arguments)
    if args.tokens and min(args.tokens) < 1:
        parser.error(f"--tokens must be at least 1, not {min(args.tokens)}")
    return args


def main(arguments: list[str] | None = None) -> int:
    args = parse(arguments)
    if args.device != "cpu" and not torch.cuda.is_available():
        print(NO_GPU, file=sys.stderr)
        return 2
    if args.device == "cpu" and (not args.tiny or args.tune):
        print("error: a CPU runs toy sizes only: --tiny, without --tune", file=sys.stderr)
        return 2
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # before cuBLAS is loaded, for reproducible results
    warnings.filterwarnings("ignore", message=".*deterministic.*")
    command = " ".join([COMMAND, *(sys.argv[1:] if arguments is None else arguments)])
    data: Path = args.data or (args.out / "data" if args.out is not None else DATA)
    run = BenchmarkRun(args, command, args.out or RESULTS, data)
    if not run.gpu:
        print(NOTICE)
    try:
        done = run.examine(run.needed())
        if done and args.tune:
            done = run.tune()
        elif done and not args.correctness_only:
            done = run.time()
    except DeviceLost as lost:
        print(f"error: the GPU was lost by {lost}", file=sys.stderr)
        run.report()
        return 1
    run.report()
    print("all done" if done else "out of time: run again with --resume and the remaining parts in --only")
    return 1 if run.bench.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
