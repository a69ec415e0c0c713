"""Run a module with the kernels that this day's correctness stages found right.

    python -m zoetrope.benchmarks.gpu_day.proved WORK DATA MODULE [ARGUMENTS...]

No proof is committed yet when the day runs. So steps ask for these kernels by ZOETROPE_KERNELS, and the kernel
benchmark finds the proofs of all stages under WORK in the folder DATA, and need not examine again what it times.
"""

from __future__ import annotations

import os
import runpy
import sys
from collections.abc import Iterable
from pathlib import Path

from zoetrope.kernels.select.backends import BACKENDS, PROOF_OF, VARIABLE
from zoetrope.kernels.select.proofs import PROOFS, Proof, load, record

FIXED = ("routing", "dispatch")  # they work on float32 whatever the model's dtype


def wanted(proofs: Iterable[Proof]) -> str:
    """Return the value of ZOETROPE_KERNELS: of each operation, the first backend with a proof for a bf16 model.

    Operations that use another's kernel stay with torch, which is as correct and, unmeasured, more likely the faster.
    """
    right = {
        (proof.op, proof.backend)
        for proof in proofs
        if proof.holds and (proof.dtype == "bf16" or proof.op in FIXED) and proof.head_dim in (None, 128)
    }
    chosen = []
    for op, backends in BACKENDS.items():
        names = [b.name for b in backends if b.ours and b.exact and (op, b.name) in right and op not in PROOF_OF]
        chosen += [f"{op}={names[0]}"] if names else []
    return ",".join(chosen)


def main(arguments: list[str] | None = None) -> None:
    work, data, module, *rest = sys.argv[1:] if arguments is None else arguments
    proofs = [proof for path in sorted(Path(work).glob(f"correct-*/data/{PROOFS.name}")) for proof in load(path)]
    if proofs:
        record(proofs, path=Path(data) / PROOFS.name)
    os.environ[VARIABLE] = wanted(proofs)
    print(f"{VARIABLE}={os.environ[VARIABLE]}", flush=True)
    sys.argv = [module, *rest]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
