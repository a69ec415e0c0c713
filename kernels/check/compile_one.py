"""Compile one variant with Triton and ptxas, without a GPU."""

from __future__ import annotations

import contextlib
import io
import re
from pathlib import Path
from typing import Any

from triton import knobs
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton.compiler import compile as triton_compile

from zoetrope.kernels.check.compile_table import Figures
from zoetrope.kernels.check.proxies import unfenced
from zoetrope.kernels.gpu.variant import Variant

TARGET = GPUTarget("cuda", 90, 32)


def ptxas_version() -> str:
    """Return the version of the ptxas that Triton calls."""
    return str(knobs.nvidia.ptxas.version)


def compile_variant(variant: Variant, cache: Path) -> Figures:
    """Compile anew in its own folder; Triton's interpreter must be off in this process."""
    knobs.cache.dir = str(cache)
    knobs.compilation.always_compile = True
    knobs.nvidia.dump_ptxas_log = True
    log = io.StringIO()
    with contextlib.redirect_stdout(log):
        compiled = triton_compile(_source(variant), target=TARGET, options=_options(variant))
    return _figures(compiled.asm["ptx"], int(compiled.metadata.shared), log.getvalue())


def _source(variant: Variant) -> Any:
    names = list(variant.signature)
    unknown = (set(variant.divisible) | set(variant.constexprs)) - set(names)
    if unknown or names != list(variant.kernel.arg_names):
        raise ValueError(f"signature has {names} (and {sorted(unknown)}), the kernel takes {variant.kernel.arg_names}")
    attributes = {(names.index(name),): [["tt.divisibility", 16]] for name in variant.divisible}
    constants = {name: variant.constexprs[name] for name, kind in variant.signature.items() if kind == "constexpr"}
    if variant.gluon:
        from triton.experimental.gluon._runtime import GluonASTSource

        return GluonASTSource(variant.kernel, dict(variant.signature), constants, attributes)
    return ASTSource(variant.kernel, dict(variant.signature), constants, attributes)


def _options(variant: Variant) -> dict[str, Any]:
    options: dict[str, Any] = {"num_warps": variant.num_warps}
    if not variant.gluon:
        options["num_stages"] = variant.num_stages
    return options


def _figures(ptx: str, dynamic_shared: int, log: str) -> Figures:
    # cuobjdump would add the kilobyte of shared memory that the driver keeps for itself; ptxas does not count it
    functions = re.findall(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads", log)
    registers = re.findall(r"Used (\d+) registers", log)
    if not functions or not registers:
        raise RuntimeError(f"ptxas did not report registers and spills: {log[-500:]}")
    threads = re.search(r"^\.(?:req|max)ntid (\d+)", ptx, re.MULTILINE)
    if threads is None:
        raise RuntimeError("the PTX does not say how many threads a block has")
    return Figures(
        registers=max(map(int, registers)),
        shared=dynamic_shared + sum(map(int, re.findall(r"(\d+) bytes smem", log))),
        stack=sum(int(stack) for stack, _, _ in functions),
        spill_stores=sum(int(stores) for _, stores, _ in functions),
        spill_loads=sum(int(loads) for _, _, loads in functions),
        wgmma=len(re.findall(r"\bwgmma\.mma_async\.", ptx)),
        tma=len(re.findall(r"\bcp\.(?:reduce\.)?async\.bulk\.tensor\b", ptx)),
        setmaxnreg=len(re.findall(r"\bsetmaxnreg\.", ptx)),
        threads=int(threads.group(1)),
        unfenced=len(unfenced(ptx)),
        serialised=int("wgmma.mma_async instructions are serialized" in log),
    )
