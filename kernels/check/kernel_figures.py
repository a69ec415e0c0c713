"""The figures of a kernel that the JIT compiled for a fake device, from its files alone."""

from __future__ import annotations

import re
import subprocess
import tempfile

from triton import knobs

from zoetrope.kernels.check.compile_table import Figures
from zoetrope.kernels.check.fake_record import CompiledKernel
from zoetrope.kernels.check.screens import screen

SHOWN = 2  # hazards of a kind that are described
RESERVED = 1024  # bytes of shared memory that the driver keeps for itself, which cuobjdump counts


def kernel_figures(kernel: CompiledKernel) -> Figures:
    """Return the figures of a compiled kernel; its spills are not known, but what is spilled needs stack.

    Raises:
        RuntimeError: cuobjdump fails.
    """
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(kernel.cubin)
        file.flush()
        command = [knobs.nvidia.cuobjdump.path, "-res-usage", file.name]
        done = subprocess.run(command, capture_output=True, text=True)
    found = re.findall(r"REG:(\d+) STACK:(\d+) SHARED:(\d+) LOCAL:(\d+)", done.stdout)
    if done.returncode or not found:
        raise RuntimeError(f"cuobjdump ended with code {done.returncode} for {kernel.name}: {done.stderr[-500:]}")
    ptx = kernel.text("ptx")
    threads = re.search(r"^\.(?:req|max)ntid (\d+)", ptx, re.MULTILINE)
    if threads is None:
        raise RuntimeError(f"the PTX of {kernel.name} does not say how many threads a block has")
    hazards = screen(kernel.cubin, kernel.text("ttgir"), int(threads.group(1)))
    registers, stack, static, local = (max(map(int, column)) for column in zip(*found, strict=True))
    return Figures(
        registers=registers,
        shared=kernel.shared + max(0, static - RESERVED),
        stack=stack,
        spill_stores=local,
        spill_loads=local,
        wgmma=len(re.findall(r"\bwgmma\.mma_async\.", ptx)),
        tma=len(re.findall(r"\bcp\.(?:reduce\.)?async\.bulk\.tensor\b", ptx)),
        setmaxnreg=len(re.findall(r"\bsetmaxnreg\.", ptx)),
        threads=int(threads.group(1)),
        overwritten=len(hazards.overwritten),
        missing_barriers=len(hazards.barriers),
        missing_fences=len(hazards.fences),
        hazards=tuple(place for places in hazards for place in places[:SHOWN]),
    )
