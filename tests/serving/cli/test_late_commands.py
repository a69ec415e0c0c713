"""Commands of other packages, and commands that are loaded when they are asked for."""

from __future__ import annotations

import argparse
import subprocess
import sys
import types
from collections.abc import Mapping, Sequence
from importlib import metadata

import pytest
import typer
from typer.main import get_command

from tests.serving.gateway.harness import ROOT
from zoetrope.benchmarks.errors import BenchmarkError
from zoetrope.serving.cli.app import app, main
from zoetrope.serving.cli.late_commands import LateCommands, LateGroup, load_command


def count(number: int = 1) -> None:
    """Print a number."""
    print(number)


def broken() -> None:
    """Fail as a benchmark does."""
    raise BenchmarkError("no step was noted")


def parsing(arguments: Sequence[str] | None = None) -> int:
    """Print a word."""
    parser = argparse.ArgumentParser(prog="parsing")
    parser.add_argument("--word", required=True)
    print(parser.parse_args(arguments).word)
    return 3


class Late(LateGroup):
    def places(self) -> Mapping[str, str]:
        return {"count": f"{__name__}:count", "parsing": f"{__name__}:parsing"}


def test_a_function_becomes_a_command(capsys: pytest.CaptureFixture[str]) -> None:
    group = typer.Typer(cls=Late, add_completion=False)
    group.callback()(lambda: None)
    command = get_command(group)
    command(["count", "--number", "3"], standalone_mode=False)
    assert capsys.readouterr().out == "3\n"
    assert command.commands["count"].help == "Print a number."  # type: ignore[attr-defined]


def test_a_main_reads_the_rest_of_the_command_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from zoetrope.benchmarks.schema.commands import COMMANDS

    monkeypatch.setitem(COMMANDS, "parsing", f"{__name__}:parsing")
    assert main(["bench", "parsing", "--word", "this"]) == 3
    assert capsys.readouterr().out == "this\n"
    assert main(["bench", "parsing", "--help"]) == 0
    assert "--word WORD" in capsys.readouterr().out
    assert main(["bench", "parsing"]) == 2 and "--word" in capsys.readouterr().err
    assert main(["bench", "--help"]) == 0
    assert "parsing  Print a word." in capsys.readouterr().out


def test_a_module_is_imported_when_its_command_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    commands = LateCommands({"made": "it"}, lambda: {"late": "late_module_of_a_test:run"}, "Late ones")
    assert list(commands) == ["made", "late"] and len(commands) == 2 and commands["made"] == "it"
    with pytest.raises(ModuleNotFoundError):
        commands["late"]
    module = types.ModuleType("late_module_of_a_test")
    module.run = count  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "late_module_of_a_test", module)
    assert commands["late"].rich_help_panel == "Late ones"
    assert commands.get("none") is None


def test_bench_is_found_by_the_entry_point_of_this_package() -> None:
    """An installation from before the entry point lacks it: `make` installs again when pyproject.toml has changed."""
    points = metadata.distribution("zoetrope").entry_points
    assert [point.name for point in points if point.group == "zoetrope.commands"] == ["bench"]
    assert "bench" in get_command(app).commands  # type: ignore[attr-defined]


def test_without_an_installation_there_are_our_own_commands(monkeypatch: pytest.MonkeyPatch) -> None:
    def lost(name: str) -> None:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "distribution", lost)
    names = list(get_command(app).commands)  # type: ignore[attr-defined]
    assert "serve" in names and "bench" not in names


def test_errors_of_a_benchmark_are_one_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from zoetrope.benchmarks.schema.commands import COMMANDS

    monkeypatch.setitem(COMMANDS, "broken", f"{__name__}:broken")
    assert main(["bench", "broken"]) == 1
    assert capsys.readouterr().err == "error: no step was noted\n"


@pytest.mark.integration
def test_a_group_of_another_package_is_not_imported_for_our_commands() -> None:
    code = (
        "import sys; from zoetrope.serving.cli import main; main(['keys', '--help'])\n"
        "print('zoetrope.benchmarks' in sys.modules, file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr.strip()) == (0, "False")


def test_what_is_no_function_and_no_group_is_an_error() -> None:
    with pytest.raises(AttributeError):
        load_command("count", f"{__name__}:nothing")
