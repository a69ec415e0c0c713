"""Run a module with what this day has proved so far.

    python -m zoetrope.benchmarks.gpu_day.proved WORK DATA MODULE [ARGUMENTS...]

No proof is committed yet when the day runs. So steps ask by ZOETROPE_KERNELS for the kernels that were right, except
those that were measured and are slower than what torch has; and the kernel benchmark finds the proofs of all stages
under WORK in the folder DATA, and need not examine again what it times.
"""

from __future__ import annotations

import os
import runpy
import statistics
import sys
from collections.abc import Iterable
from pathlib import Path

from zoetrope.kernels.select.backends import BACKENDS, PROOF_OF, VARIABLE
from zoetrope.kernels.select.proofs import PROOFS, Proof, load, record

STAGES = ("correct-*", "time-*")
DTYPES = ("bf16", "fp8")  # of what a model multiplies: fp8 where it was quantised
FIXED = ("routing", "dispatch")  # they work on float32 whatever the model's dtype


def wanted(proofs: Iterable[Proof]) -> str:
    """Return the value of ZOETROPE_KERNELS: of each operation, the first backend that is worth it in a bf16 model."""
    right = {
        (proof.op, proof.backend): proof
        for proof in proofs
        if proof.holds and (proof.dtype in DTYPES or proof.op in FIXED) and proof.head_dim in (None, 128)
    }
    chosen = []
    for op, backends in BACKENDS.items():
        ours = [backend.name for backend in backends if backend.ours and backend.exact]
        names = [name for name in ours if _pays(op, right.get((PROOF_OF.get(op, op), name)))]
        chosen += [f"{op}={names[0]}"] if names else []
    return ",".join(chosen)


def _pays(op: str, proof: Proof | None) -> bool:
    """Tell whether a kernel is right and faster or, where nothing was measured, made for this operation."""
    if proof is None:
        return False
    ratios = [speed.ratio for speed in proof.speeds if speed.op == op]
    return statistics.median(ratios) > 1 if ratios else op not in PROOF_OF


def main(arguments: list[str] | None = None) -> None:
    work, data, module, *rest = sys.argv[1:] if arguments is None else arguments
    paths = [path for stages in STAGES for path in sorted(Path(work).glob(f"{stages}/data/{PROOFS.name}"))]
    proofs = record([proof for path in paths for proof in load(path)], path=Path(data) / PROOFS.name)
    os.environ[VARIABLE] = wanted(proofs)
    print(f"{VARIABLE}={os.environ[VARIABLE]}", flush=True)
    sys.argv = [module, *rest]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
