"""Launch every kernel that the tuner will try, so that the fake device compiles them for the cache that is carried.

python -m zoetrope.kernels.check.fake_cuda zoetrope.benchmarks.gpu_day.candidates
"""

from __future__ import annotations

import sys

import torch

from zoetrope.benchmarks.kernels import tune
from zoetrope.benchmarks.kernels.section import Bench
from zoetrope.benchmarks.kernels.shapes import FULL

PARTS = ("grouped_gemm", "attention", "passes")


def main() -> int:
    bench = Bench(FULL, torch.device("cuda", 0), seed=0, kernels=True, tokens=FULL.tokens)
    launched = refused = 0
    with torch.inference_mode():
        for part in PARTS:
            for problem in tune.problems(bench, part):
                for tile in (None, *problem.candidates):
                    try:
                        problem.call(tile)
                        launched += 1
                    except Exception as error:  # the tuner passes over it too
                        print(f"{problem.key} with {tile}: {type(error).__name__}: {error}"[:300], flush=True)
                        refused += 1
    print(f"{launched} launched, {refused} refused")
    return 0


if __name__ == "__main__":
    sys.exit(main())
