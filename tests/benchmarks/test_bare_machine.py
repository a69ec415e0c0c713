"""What is measured on a GPU runs where little more than torch is installed."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.benchmarks.bare_machine import ABSENT

ROOT = Path(__file__).parents[2]
STEP = "from zoetrope.benchmarks.step import main; main('--preset nano --duration 1 --repeats 1 --device cpu'.split())"
KERNELS = (
    "from zoetrope.benchmarks.kernels.__main__ import main; main('--tiny --device cpu --only passes'.split() + {})"
)


def source_of(module: str) -> Path | None:
    path = ROOT.joinpath(*module.split(".")[1:])
    found = (path.with_suffix(".py"), path / "__init__.py")
    return next((file for file in found if module.startswith("zoetrope.") and file.is_file()), None)


def loaded_by(body: list[ast.stmt]) -> Iterator[str]:
    """Yield the modules that a file loads when it is imported; inside functions and for type checkers it loads none."""
    for node in body:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from (node.module, *(f"{node.module}.{alias.name}" for alias in node.names))
        elif isinstance(node, ast.If) and "TYPE_CHECKING" not in ast.unparse(node.test):
            yield from loaded_by([*node.body, *node.orelse])
        elif isinstance(node, ast.Try | ast.With | ast.ClassDef):
            yield from loaded_by(node.body)


@pytest.mark.parametrize("module", ["zoetrope.benchmarks.kernels.__main__", "zoetrope.benchmarks.step"])
def test_benchmarks_of_a_gpu_import_no_package_that_it_lacks(module: str) -> None:
    seen: dict[str, str] = {}
    waiting = [(module, "")]
    while waiting:
        name, by = waiting.pop()
        parents = [name.rsplit(".", level)[0] for level in range(1, name.count("."))]
        for one in (name, *parents):
            if one not in seen and (path := source_of(one)) is not None:
                seen[one] = by
                waiting += [(found, one) for found in loaded_by(ast.parse(path.read_text()).body)]
            elif one.partition(".")[0] in ABSENT:
                pytest.fail(f"{by} imports {one}")
    assert "zoetrope.model.network.blocks" in seen and "zoetrope.kernels.select.proofs" in seen


@pytest.mark.long
@pytest.mark.parametrize("what", ["kernels", "step"])
def test_they_run_there(what: str, tmp_path: Path) -> None:
    code = STEP if what == "step" else KERNELS.format(["--out", str(tmp_path)])
    done = subprocess.run(
        [sys.executable, "-c", f"from tests.benchmarks.bare_machine import take_away; take_away()\n{code}"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert ("s per step" if what == "step" else "all done") in done.stdout
