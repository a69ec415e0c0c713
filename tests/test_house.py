"""The house rules: imports go down only, and what has to start fast or without a GPU stays light."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
# From the ground up; a floor may import itself and those in front of it.
FLOORS = ("kernels", "model", "cluster", "serving")
ALLOWED = {floor: FLOORS[: index + 1] for index, floor in enumerate(FLOORS)} | {"benchmarks": (*FLOORS, "benchmarks")}
OURS = (*FLOORS, "benchmarks", "tests")


def source_files() -> list[Path]:
    return [path for floor in ALLOWED for path in sorted((ROOT / floor).rglob("*.py"))]


def imported_modules(path: Path) -> Iterator[tuple[int, str]]:
    """Line and full name of every module that a file imports, also inside functions."""
    package = path.relative_to(ROOT).parent.parts
    for node in ast.walk(ast.parse(path.read_text(), str(path))):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else ()
            yield node.lineno, ".".join([*above, *([node.module] if node.module else [])])


def breaches(path: Path) -> list[str]:
    floor = path.relative_to(ROOT).parts[0]
    return [
        f"{path.relative_to(ROOT)}:{line} imports {module}"
        for line, module in imported_modules(path)
        if module.split(".")[0] in OURS and module.split(".")[0] not in ALLOWED[floor]
    ]


def test_imports_go_down_only() -> None:
    files = source_files()
    assert {path.relative_to(ROOT).parts[0] for path in files} == set(ALLOWED), "a floor has no source files"
    found = [breach for path in files for breach in breaches(path)]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    ("place", "line"),
    [
        ("kernels", "import model.tasks"),
        ("model", "from cluster import messages"),
        ("cluster", "def f():\n    from serving.jobs.job import Job"),
        ("serving", "import benchmarks"),
        ("serving/jobs", "from ...cluster import messages\nfrom ...tests import helpers"),
        ("benchmarks", "from tests.test_house import ROOT"),
    ],
)
def test_the_rule_sees_a_breach(place: str, line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules[__name__], "ROOT", tmp_path)
    path = tmp_path / place / "room.py"
    path.parent.mkdir(parents=True)
    path.write_text(line)
    assert len(breaches(path)) == 1


@pytest.mark.parametrize(
    ("place", "line"),
    [
        ("model", "from kernels import grouped_gemm\nfrom . import tasks"),
        ("serving/gateway", "import model.tasks\nfrom ..jobs import store\nimport torch"),
        ("benchmarks", "import serving.app, kernels"),
    ],
)
def test_the_rule_lets_the_rest_pass(place: str, line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules[__name__], "ROOT", tmp_path)
    path = tmp_path / place / "room.py"
    path.parent.mkdir(parents=True)
    path.write_text(line)
    assert breaches(path) == []


LIGHT = ("model.tasks", "model.presets", "cluster.messages", "serving.cli", "serving.client", "serving.gateway.main")


@pytest.mark.parametrize("module", LIGHT)
def test_light_modules_import_neither_torch_nor_ray(module: str) -> None:
    """The gateway restarts in a second and the command line answers at once only without them."""
    code = f"import sys, {module}; print(sorted({{'torch', 'ray', 'diffusers', 'transformers'}} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.strip()) == (0, "[]"), done.stderr


@pytest.mark.parametrize("module", ["serving.app", "serving.sweeper.main"])
def test_what_runs_beside_the_gateway_loads_none_of_its_servers(module: str) -> None:
    code = f"import sys, {module}; print(sorted({{'grpc', 'starlette', 'uvicorn'}} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.strip()) == (0, "[]"), done.stderr


def test_help_imports_nothing_heavy() -> None:
    """What `zoetrope --help` loads, command lists included."""
    code = (
        "import sys; from serving.cli import main; main(['generate', '--help'])\n"
        "print(sorted({'torch', 'ray', 'grpc', 'numpy'} & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr.strip() == "[]"
    assert "--latents-out" in done.stdout
