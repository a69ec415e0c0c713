"""Run the kernels with the most delicate synchronisation under compute-sanitizer, on small inputs.

    python -m zoetrope.benchmarks.gpu_day.sanitizer --out FILE

racecheck looks for unordered accesses to shared memory, memcheck for accesses out of bounds. Each pair of kernel and
tool is a process of its own; exit code 1 if one reports anything, 2 if a tool did not get to its end.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from zoetrope.benchmarks import command

TOOLS = ("racecheck", "memcheck")
KERNELS = ("gluon", "grouped_gemm")
SECONDS = 20.0  # for one kernel under one tool
SUMMARY = re.compile(r"(?:ERROR|RACECHECK) SUMMARY: (.*)")
CLEAN = re.compile(r"^0 (errors|hazards)")


def summary(output: str) -> str | None:
    """Return what compute-sanitizer says at its end; None if it says nothing, as when it cannot use the device."""
    found = SUMMARY.findall(output)
    return found[-1].strip() if found else None


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--out", type=Path, help="write the reports' last lines to this file")
    parser.add_argument("--launch", choices=KERNELS, help="launch this kernel, as compute-sanitizer does")
    args = parser.parse_args(arguments)
    if args.launch:
        LAUNCH[args.launch]()
        return 0
    if args.out is None:
        parser.error("--out is needed")
    rows: list[dict[str, Any]] = []
    for tool in TOOLS:
        for kernel in KERNELS:
            row = _examine(tool, kernel)
            rows.append(row)
            command.write_json(args.out, {"rows": rows})
            print(f"{tool} {kernel}: {row['summary'] or row['problem']}", flush=True)
    if any(row["problem"] for row in rows):
        return 2
    return 0 if all(row["clean"] for row in rows) else 1


def _examine(tool: str, kernel: str) -> dict[str, Any]:
    start, problem, output = time.monotonic(), "", ""
    program = [sys.executable, "-m", "zoetrope.benchmarks.gpu_day.sanitizer", "--launch", kernel]
    try:
        done = subprocess.run(
            ["compute-sanitizer", "--tool", tool, *program], capture_output=True, text=True, timeout=SECONDS
        )
        output = done.stdout + done.stderr
        problem = "" if summary(output) else f"no summary; exit code {done.returncode}: {output[-300:]}"
    except subprocess.TimeoutExpired:
        problem = f"not done after {SECONDS:.0f} s"
    said = summary(output)
    return {
        "tool": tool,
        "kernel": kernel,
        "summary": said,
        "clean": said is not None and CLEAN.match(said) is not None,
        "problem": problem,
        "seconds": round(time.monotonic() - start, 1),
    }


def _gluon() -> None:
    import torch

    from zoetrope.kernels import CuSeqlens, varlen_attention

    q, k, v = (torch.randn(rows, 1, 128, device="cuda", dtype=torch.bfloat16) for rows in (256, 384, 384))
    varlen_attention(q, k, v, CuSeqlens.of([256]), CuSeqlens.of([384]), backend="gluon")
    torch.cuda.synchronize()


def _grouped_gemm() -> None:
    import torch

    from zoetrope.kernels import grouped_gemm

    x = torch.randn(300, 256, device="cuda", dtype=torch.bfloat16)
    weight = torch.randn(2, 256, 384, device="cuda", dtype=torch.bfloat16)
    bias = torch.randn(2, 384, device="cuda", dtype=torch.bfloat16)
    offsets = torch.tensor([0, 130, 300], device="cuda", dtype=torch.int32)
    grouped_gemm(x, weight, offsets, backend="triton")
    grouped_gemm(x, weight, offsets, bias, gelu=True, backend="triton")
    torch.cuda.synchronize()


LAUNCH: dict[str, Callable[[], None]] = {"gluon": _gluon, "grouped_gemm": _grouped_gemm}

if __name__ == "__main__":
    sys.exit(main())
