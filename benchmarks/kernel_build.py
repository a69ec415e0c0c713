"""Compile variants of a source tree for sm_90a and print their resources and code as JSON; `gemm_prediction` reads it.

    PYTHONPATH=TREE python -P benchmarks/kernel_build.py MODULE VARIANT...

A process of its own for each tree: the package that it imports is the tree's, and Triton's interpreter is off.
"""

from __future__ import annotations

import base64
import contextlib
import importlib
import io
import json
import re
import sys
import tempfile
from typing import Any


def main(module: str, names: list[str]) -> None:
    from triton import knobs
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource
    from triton.compiler import compile as triton_compile

    variants = {variant.name: variant for variant in importlib.import_module(module).variants()}
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as cache:
        knobs.cache.dir = cache
        knobs.nvidia.dump_ptxas_log = True
        for name in names:
            variant, log = variants[name], io.StringIO()
            arguments = list(variant.signature)
            attributes = {(arguments.index(argument),): [["tt.divisibility", 16]] for argument in variant.divisible}
            constants = {a: variant.constexprs[a] for a, kind in variant.signature.items() if kind == "constexpr"}
            source = ASTSource(variant.kernel, dict(variant.signature), constants, attributes)
            options = {"num_warps": variant.num_warps, "num_stages": variant.num_stages}
            with contextlib.redirect_stdout(log):
                compiled = triton_compile(source, target=GPUTarget("cuda", 90, 32), options=options)
            found[name] = {
                "registers": max(map(int, re.findall(r"Used (\d+) registers", log.getvalue()))),
                "spilled": sum(map(int, re.findall(r"(\d+) bytes spill", log.getvalue()))),
                "shared": int(compiled.metadata.shared),
                "warps": variant.num_warps,
                "block": [variant.constexprs[size] for size in ("BLOCK_M", "BLOCK_N", "BLOCK_K")],
                "flatten": bool(variant.constexprs["FLATTEN"]),
                "cubin": base64.b64encode(compiled.asm["cubin"]).decode(),
            }
    json.dump(found, sys.stdout)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
