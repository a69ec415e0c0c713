"""What the correctness cases of the benchmark launch: each kernel compiled once on a fake device, and checked.

python -m tests.kernels.check.case_launches FILE PART       without Triton's interpreter; writes JSON
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch

from zoetrope.benchmarks.kernels.cases import KernelInputs
from zoetrope.benchmarks.kernels.correctness import cases_of
from zoetrope.kernels.check.compile_table import broken_rules
from zoetrope.kernels.check.fake_cuda import fake_cuda
from zoetrope.kernels.check.fake_record import CompiledKernel
from zoetrope.kernels.check.kernel_figures import kernel_figures


def main(out: Path, part: str) -> None:
    kernels: dict[CompiledKernel, str] = {}
    errors: dict[str, str] = {}
    cases = 0
    with fake_cuda() as device, torch.inference_mode():
        inputs = KernelInputs(1, torch.device("cuda", 0), tiny=False, kernels=True)
        for case in cases_of(part, inputs):
            device.clear()
            label = f"{case.op}/{case.backend} {case.dtype} {case.name}"
            cases += 1
            try:
                case.run()
            except Exception as error:
                errors[label] = f"{type(error).__name__}: {error}"[:1000]
            for launch in device.launches:
                kernels.setdefault(launch.kernel, f"{label}: {launch.name}")
    broken = {label: broken_rules(kernel_figures(kernel)) for kernel, label in kernels.items()}
    found = {label: rules for label, rules in broken.items() if rules}
    out.write_text(json.dumps({"cases": cases, "kernels": len(kernels), "errors": errors, "broken": found}, indent=1))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
