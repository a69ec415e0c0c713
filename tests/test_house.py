"""The house rules: imports go down only, and what has to start fast or without a GPU stays light."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
# From the ground up; a floor may import itself and those in front of it.
FLOORS = ("kernels", "model", "cluster", "serving")
ALLOWED = {floor: FLOORS[: index + 1] for index, floor in enumerate(FLOORS)} | {"benchmarks": (*FLOORS, "benchmarks")}
MAX_LINES = 400
OURS = (*FLOORS, "benchmarks", "tests")


def floor_of(module: str) -> str:
    """The floor of an import name, or "tests"; "" for what is not ours."""
    parts = module.removeprefix("zoetrope.").split(".")
    return parts[0] if parts[0] in OURS and (module.startswith("zoetrope.") or parts[0] == "tests") else ""


def source_files() -> list[Path]:
    return [path for floor in ALLOWED for path in sorted((ROOT / floor).rglob("*.py"))]


def written_files() -> list[Path]:
    """Those that were not generated."""
    return [path for path in source_files() if not path.name.endswith(("_pb2.py", "_pb2_grpc.py"))]


def imported_modules(path: Path) -> Iterator[tuple[int, str]]:
    """Line and full name of every module that a file imports, also inside functions."""
    package = ("zoetrope", *path.relative_to(ROOT).parent.parts)
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
        if floor_of(module) and floor_of(module) not in ALLOWED[floor]
    ]


def test_imports_go_down_only() -> None:
    files = source_files()
    assert {path.relative_to(ROOT).parts[0] for path in files} == set(ALLOWED), "a floor has no source files"
    found = [breach for path in files for breach in breaches(path)]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    ("place", "line"),
    [
        ("kernels", "import zoetrope.model.request.tasks"),
        ("model", "from zoetrope.cluster import messages"),
        ("cluster", "def f():\n    from zoetrope.serving.jobs.job import Job"),
        ("serving", "import zoetrope.benchmarks"),
        ("serving/jobs", "from ...cluster import messages\nfrom tests import helpers"),
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
        ("model", "from zoetrope.kernels import grouped_gemm\nfrom . import tasks"),
        ("serving/gateway", "import zoetrope.model.request.tasks\nfrom ..jobs import store\nimport torch"),
        ("benchmarks", "import zoetrope.serving.supervisor.supervisor, kernels"),
    ],
)
def test_the_rule_lets_the_rest_pass(place: str, line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules[__name__], "ROOT", tmp_path)
    path = tmp_path / place / "room.py"
    path.parent.mkdir(parents=True)
    path.write_text(line)
    assert breaches(path) == []


def folder_imports() -> dict[str, set[str]]:
    """Folder -> the others that its files import from. A subfolder is a folder of its own."""
    folders: dict[str, Path] = {}
    for path in source_files():
        parts = path.relative_to(ROOT).with_suffix("").parts
        module = ".".join(("zoetrope", *(parts[:-1] if parts[-1] == "__init__" else parts)))
        folders[module] = path.parent
    found: defaultdict[str, set[str]] = defaultdict(set)
    for path in source_files():
        for _, module in imported_names(path):
            while module and module not in folders:
                module = module.rpartition(".")[0]
            if module and folders[module] != path.parent:
                found[str(path.parent.relative_to(ROOT))].add(str(folders[module].relative_to(ROOT)))
    return found


def imported_names(path: Path) -> Iterator[tuple[int, str]]:
    """Line and full name of everything that a file imports: of ``from a import b``, ``a.b``, which may be a module."""
    modules = dict(imported_modules(path))
    for node in ast.walk(ast.parse(path.read_text(), str(path))):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from ((node.lineno, f"{modules[node.lineno]}.{alias.name}") for alias in node.names)


def circles(imports: Mapping[str, Collection[str]]) -> list[list[str]]:
    """The groups of folders each of which imports, directly or not, from every other one of its group."""
    reached = {folder: _reached(folder, imports) for folder in imports}
    groups = {
        tuple(sorted(other for other in reached[folder] if folder in reached.get(other, ())))
        for folder in imports
        if folder in reached[folder]
    }
    return sorted(map(list, groups))


def _reached(start: str, imports: Mapping[str, Collection[str]]) -> set[str]:
    found: set[str] = set()
    todo = [start]
    while todo:
        new = set(imports.get(todo.pop(), ())) - found
        found |= new
        todo += new
    return found


def test_no_folders_import_each_other_in_a_circle() -> None:
    imports = folder_imports()
    assert "serving/gateway/http" in imports["serving/gateway"], "imports are found"
    assert circles(imports) == []


def test_circles_are_found() -> None:
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"b", "d"}, "e": {"f"}, "f": {"a", "e"}}) == [["b", "c"], ["e", "f"]]
    assert circles({"a": {"b", "c"}, "b": {"c"}}) == []


def test_nothing_is_imported_by_the_name_of_its_folder() -> None:
    """Also not in code that a test hands to another process: the folders are importable from the repository's root."""
    bare = re.compile(rf"^\s*(from|import) ({'|'.join(FLOORS)}|benchmarks)\b", re.MULTILINE)
    paths = [*source_files(), *sorted((ROOT / "tests").rglob("*.py"))]
    found = [
        f"{path.relative_to(ROOT)}: {match[0].strip()}" for path in paths for match in bare.finditer(path.read_text())
    ]
    assert found == []


def test_a_file_can_be_read_in_a_sitting() -> None:
    lengths = {path: len(path.read_text().splitlines()) for path in written_files()}
    assert {str(path.relative_to(ROOT)): lines for path, lines in lengths.items() if lines > MAX_LINES} == {}


def test_no_two_public_classes_share_a_name() -> None:
    places: defaultdict[str, list[str]] = defaultdict(list)
    for path in written_files():
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                places[node.name].append(str(path.relative_to(ROOT)))
    assert {name: files for name, files in places.items() if len(files) > 1} == {}


LIGHT = (
    "zoetrope.model.request.tasks",
    "zoetrope.model.catalog.presets",
    "zoetrope.cluster.protocol.messages",
    "zoetrope.serving.cli",
    "zoetrope.serving.client",
    "zoetrope.serving.gateway.main",
)


@pytest.mark.integration
@pytest.mark.parametrize("module", LIGHT)
def test_light_modules_import_neither_torch_nor_ray(module: str) -> None:
    """The gateway restarts in a second and the command line answers at once only without them."""
    code = f"import sys, {module}; print(sorted({{'torch', 'ray', 'diffusers', 'transformers'}} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.strip()) == (0, "[]"), done.stderr


@pytest.mark.integration
@pytest.mark.parametrize("module", ["zoetrope.serving.supervisor.supervisor", "zoetrope.serving.sweeper.main"])
def test_what_runs_beside_the_gateway_loads_none_of_its_servers(module: str) -> None:
    """Not later either: the sweeper has loaded how each API renders webhooks."""
    code = f"import sys, {module}; print(sorted({{'grpc', 'fastapi', 'starlette', 'uvicorn'}} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.strip()) == (0, "[]"), done.stderr


@pytest.mark.integration
def test_help_imports_nothing_heavy() -> None:
    """What `zoetrope --help` loads, command lists included."""
    code = (
        "import sys; from zoetrope.serving.cli import main; main(['generate', '--help'])\n"
        "print(sorted({'torch', 'ray', 'grpc', 'numpy'} & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr.strip() == "[]"
    assert "--latents-out" in done.stdout
