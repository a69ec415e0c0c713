"""Every benchmark is in the list, runs small, and writes what its schema says; so do all files that are committed."""

from __future__ import annotations

import ast
import copy
import json
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from zoetrope.benchmarks.provenance import REPOSITORY
from zoetrope.benchmarks.registry import BENCHMARKS, TOOLS
from zoetrope.benchmarks.results_files import RESULTS, ResultError, ResultFile, read_results
from zoetrope.benchmarks.smoke import check, entry

FOLDER = REPOSITORY / "benchmarks"
QUICK = [name for name, benchmark in BENCHMARKS.items() if benchmark.quick]


def names_of_parsers(source: str) -> set[str]:
    """The names that a module gives to `command.parser`, or in the name of its own parser."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call) and node.args and isinstance(first := node.args[0], ast.Constant):
            name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if name == "parser" and isinstance(first.value, str):
                found.add(first.value)
    return found


def test_no_benchmark_is_missing() -> None:
    found = {"serving_load"}  # whose command line is zoetrope's own
    for path in FOLDER.rglob("*.py"):
        named = names_of_parsers(path.read_text())
        if not named and "ArgumentParser(" in path.read_text() and path.name != "command.py":
            parts = path.relative_to(FOLDER).with_suffix("").parts
            named = {"gpu_day" if parts[0] == "gpu_day" else ".".join(part for part in parts if part != "__main__")}
        found |= named
    assert len(found) > 25
    assert found - BENCHMARKS.keys() - TOOLS.keys() == set(), "benchmarks/registry.py has to name them"
    assert BENCHMARKS.keys() - found == set(), "they are gone"


@pytest.mark.parametrize("name", BENCHMARKS)
def test_an_entry_is_complete(name: str) -> None:
    benchmark = BENCHMARKS[name]
    assert benchmark.measures and not benchmark.measures.endswith(".")
    assert not (benchmark.quick and benchmark.needs)
    if benchmark.page:
        module, function = benchmark.page.split(":")
        assert callable(getattr(import_module(f"zoetrope.benchmarks.{module}"), function))


@pytest.mark.integration  # they ask git
@pytest.mark.parametrize("name", QUICK)
def test_it_writes_valid_results(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Those that take seconds; `make bench-smoke` runs all."""
    benchmark = BENCHMARKS[name]
    assert benchmark.missing() is None
    out = [] if benchmark.record is None else ["--out", str(tmp_path / name)]
    assert entry(name)([*benchmark.smoke, *out]) in benchmark.passes
    files = check(benchmark, tmp_path, capsys.readouterr().out)
    assert files or benchmark.record is None


@pytest.fixture(scope="module")
def committed() -> dict[str, ResultFile]:
    return {result.path.name: result for result in read_results()}


def test_every_committed_result_fits_its_schema(committed: dict[str, ResultFile]) -> None:
    assert len(committed) > 15
    listed = {path.name for path in RESULTS.glob("*.json")}
    assert {"nano-4step.json", "cached-quality-clips.json"} <= listed - committed.keys()


def test_every_committed_page_is_that_of_its_figures(committed: dict[str, ResultFile]) -> None:
    wrong = []
    for result in committed.values():
        try:
            result.check_page()
        except ResultError as error:
            wrong.append(str(error))
    assert wrong == []


def test_no_committed_file_names_a_folder_of_somebodys_machine(committed: dict[str, ResultFile]) -> None:
    for name, result in committed.items():
        words = result.header.command.split()
        assert [word for word in words if word.startswith(("/", "~"))] == [], name
        assert "--out" in words, f"{name}: the recorded command writes no file"


@pytest.mark.parametrize(
    "field, value",
    [("command", "python other.py"), ("date", "yesterday"), ("commit", "HEAD"), ("changed", "no"), ("machine", {})],
)
def test_a_wrong_header_is_seen(tmp_path: Path, field: str, value: Any) -> None:
    record = json.loads((RESULTS / "adapters.json").read_text())
    record["environment"][field] = value
    (tmp_path / "adapters.json").write_text(json.dumps(record))
    with pytest.raises(ResultError, match=rf"adapters\.json: [\s\S]*{field}"):
        read_results(tmp_path)


def test_wrong_figures_are_seen(tmp_path: Path) -> None:
    record = json.loads((RESULTS / "adapters.json").read_text())
    page = (RESULTS / "adapters.md").read_text()
    put(tmp_path, record, page)
    (result,) = read_results(tmp_path)
    result.check_page()
    for change, said in ((-1.0, "greater than or equal to 0"), (float("nan"), "finite"), ("fast", "valid number")):
        broken = copy.deepcopy(record)
        broken["rows"][0]["plain"]["seconds"] = change
        put(tmp_path, broken, page)
        with pytest.raises(ResultError, match=said):
            read_results(tmp_path)
    record["rows"][0]["plain"]["seconds"] *= 2
    put(tmp_path, record, page)
    (result,) = read_results(tmp_path)
    with pytest.raises(ResultError, match=r"adapters\.md is not the record's page"):
        result.check_page()


def test_files_of_nobody_are_seen(tmp_path: Path) -> None:
    record = json.loads((RESULTS / "adapters.json").read_text())
    record["environment"]["command"] = "python -m zoetrope.benchmarks.nothing --out x"
    put(tmp_path, record, "")
    with pytest.raises(ResultError, match="of no benchmark"):
        read_results(tmp_path)


@pytest.mark.parametrize(
    "text, said",
    [
        ("{", "cannot be read as JSON"),
        ("[" * 100_000, "cannot be read as JSON"),
        ("[]", "must hold a JSON object"),
        ("{}", "command"),
        ('{"environment": 3, "machine": 4}', "valid dictionary"),
        ('{"environment": [], "runs": {"a": 1}}', "valid dictionary"),
    ],
)
def test_a_broken_file_is_named(text: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "broken.json").write_text(text)
    with pytest.raises(ResultError, match=rf"^broken\.json[\s\S]*{said}"):
        read_results(tmp_path)


def put(folder: Path, record: dict[str, Any], page: str) -> None:
    (folder / "adapters.json").write_text(json.dumps(record))
    (folder / "adapters.md").write_text(page)
