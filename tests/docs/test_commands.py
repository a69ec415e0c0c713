"""Commands and code of the documents: each command exists with its options, each piece of Python can be imported."""

from __future__ import annotations

import ast
import importlib
import json
import re
import shlex
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.main import get_command

from tests.docs.pages import ROOT, Snippet, blocks, commands, spans
from zoetrope.benchmarks.schema.commands import COMMANDS as BENCHMARKS
from zoetrope.serving.cli.app import app

COMMANDS = commands()
SPANS = [span for span in spans() if re.match(r"zoetrope [a-z]|python -m |make [a-z]", span.text)]
TARGETS = set(re.findall(r"^([a-z0-9-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
GROUPS = {"keys", "media"}
UNCHECKED = {".", "buf", "curl", "export", "grpcurl", "npx", "openapi-python-client", "pip", "protoc"}  # not ours
UNCHECKED |= {"cd", "kind", "kubectl"}
UNCHECKED |= {"pg_dump", "pg_restore", "psql", "sqlite3"}  # `tests/serving/restore/` runs them


def command_of(words: list[str]) -> tuple[Any, list[str]]:
    """The command of the command line that these words call, and its arguments."""
    command: Any = get_command(app)
    while hasattr(command, "commands"):
        if command.invoke_without_command and words[:1] not in [[name] for name in command.commands]:
            break  # `zoetrope models` does something by itself
        assert words and words[0] in command.commands, f"{words[:1]} is not among {sorted(command.commands)}"
        command, words = command.commands[words[0]], words[1:]
    return command, words


def check_options(words: list[str]) -> None:
    """Every option of a part of a command exists; ``zoetrope media`` names a group."""
    if words[0].startswith("--") or (len(words) == 1 and words[0] in GROUPS):
        return
    command, arguments = command_of(words)
    if words[0] == "bench" and "rest" in {parameter.name for parameter in command.params}:  # it reads them itself
        check_module([BENCHMARKS[words[1]].partition(":")[0].removesuffix(".__main__"), *arguments])
        return
    known = {option for parameter in command.params for option in parameter.opts}
    assert {word for word in arguments if word.startswith("--")} <= known


def check_module(words: list[str]) -> None:
    """A module that can be run, whose code knows the options."""
    module, arguments = words[0], words[1:]
    if module == "pytest":
        assert all((ROOT / word).exists() for word in arguments if word.startswith("tests/"))
        return
    spec = find_spec(module)
    assert spec is not None and spec.origin is not None, f"no module {module}"
    files = list(Path(spec.origin).parent.glob("*.py")) if spec.submodule_search_locations else [Path(spec.origin)]
    source = "\n".join(file.read_text() for file in files)
    for word in arguments:
        if word.startswith("--"):
            name = word.partition("=")[0]
            field = re.escape(name[2:].replace("-", "_"))
            assert f'"{name}"' in source or re.search(rf"\b{field}\b", source), f"{module} has no {name}"


def check(words: list[str]) -> None:
    match words[0]:
        case "zoetrope":
            command, arguments = command_of(words[1:])
            command.make_context("zoetrope", list(arguments))
        case "make":
            assert {word for word in words[1:] if "=" not in word} <= TARGETS
        case "docker" if words[1] == "build":
            options = dict(zip(words[2:-1:2], words[3:-1:2], strict=True))
            stages = re.findall(r"^FROM \S+ AS (\S+)", (ROOT / options["-f"]).read_text(), re.MULTILINE)
            assert options["--target"] in stages
        case "python" | "python3.12" if words[1] == "-m":
            check_module(words[2:])
        case "python" | "bash":
            assert (ROOT / words[1]).is_file()
        case script if script.endswith(".sh"):
            assert (ROOT / script).is_file()
        case other:
            assert other in UNCHECKED, f"nothing here checks {other}"


@pytest.mark.parametrize(("snippet", "words"), COMMANDS, ids=str)
def test_a_command_of_a_block_can_be_called(snippet: Snippet, words: list[str]) -> None:
    check(words)


@pytest.mark.parametrize("span", SPANS, ids=str)
def test_a_command_in_a_sentence_exists(span: Snippet) -> None:
    words = shlex.split(span.text)
    if words[0] == "zoetrope":
        check_options(words[1:])
    else:
        check(words)


@pytest.mark.parametrize(
    "line",
    [
        ["zoetrope", "generate", "x", "--sise", "720p"],
        ["zoetrope", "generate", "x", "--steps", "many"],
        ["zoetrope", "invent"],
        ["zoetrope", "cancel"],
        ["make", "coffee"],
        ["python", "-m", "zoetrope.benchmarks.nothing"],
        ["python", "-m", "zoetrope.model.nano.evaluate", "--cuont", "3"],
        ["python", "examples/missing.py"],
        ["rm", "-rf"],
    ],
)
def test_a_wrong_command_is_seen(line: list[str]) -> None:
    with pytest.raises((AssertionError, typer.TyperException)):
        check(line)


@pytest.mark.parametrize("block", blocks("python"), ids=str)
def test_python_can_be_imported(block: Snippet) -> None:
    for node in ast.walk(ast.parse(block.text)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                importlib.import_module(alias.name)
        elif isinstance(node, ast.ImportFrom):
            module = importlib.import_module(node.module or "")
            missing = [alias.name for alias in node.names if not hasattr(module, alias.name)]
            for name in missing:
                importlib.import_module(f"{node.module}.{name}")


@pytest.mark.parametrize("block", blocks("json"), ids=str)
def test_json_can_be_read(block: Snippet) -> None:
    json.loads(block.text)


def test_the_documents_are_full_of_them() -> None:
    assert len(COMMANDS) > 30 and len(SPANS) > 50 and len(blocks("python")) > 10
