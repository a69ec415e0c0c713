"""The PTX of a kernel's variant, compiled in another process: this one may run kernels in Triton's interpreter."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]


def compiled_ptx(name: str) -> list[str]:
    """The lines of the PTX of the variant ``name``, for sm_90a."""
    env = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    command = [sys.executable, "-m", "tests.kernels.compiled", name]
    result = subprocess.run(command, cwd=REPOSITORY, env=env, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr[-3000:]
    return result.stdout.splitlines()


def main(name: str) -> None:
    from triton.compiler import compile as triton_compile

    from zoetrope.kernels.check.compile_check import all_variants
    from zoetrope.kernels.check.compile_one import TARGET, _options, _source

    (variant,) = [variant for variant in all_variants(name) if variant.name == name]
    print(triton_compile(_source(variant), target=TARGET, options=_options(variant)).asm["ptx"])


if __name__ == "__main__":
    main(sys.argv[1])
