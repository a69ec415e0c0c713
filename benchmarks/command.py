"""The command line that benchmarks share: parser, recorded command, result files."""

from __future__ import annotations

import argparse
import json
import math
import os
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from zoetrope.benchmarks.schema.commands import COMMANDS

OUT_HELP = "write the figures to OUT.json and a page to OUT.md (the suffix .json is optional)"


def parser(module: str, doc: str | None) -> argparse.ArgumentParser:
    """Return a parser for ``zoetrope bench NAME``, or ``python -m zoetrope.benchmarks.MODULE`` where there is no such
    command, described by the first line of its docstring."""
    return argparse.ArgumentParser(prog=typed(module), description=(doc or "").split("\n")[0])


def typed(module: str) -> str:
    """Return what users type for a benchmark's module."""
    for name, place in COMMANDS.items():
        if place.partition(":")[0].removesuffix(".__main__") == f"zoetrope.benchmarks.{module}":
            return f"zoetrope bench {name}"
    return f"python -m zoetrope.benchmarks.{module}"


def at_least(least: int) -> Callable[[str], int]:
    """Return an argparse type for integers of at least ``least``."""

    def parse(text: str) -> int:
        value = int(text)
        if value < least:
            raise argparse.ArgumentTypeError(f"must be at least {least}, not {value}")
        return value

    parse.__name__ = "int"  # for argparse's own messages
    return parse


def command_line(module: str, arguments: Sequence[str] | None) -> str:
    """Return the shell command of a run. ``arguments`` are those of its ``main``; None stands for the process's."""
    given = sys.argv[1:] if arguments is None else arguments
    return shlex.join(["python", "-m", f"zoetrope.benchmarks.{module}", *given])


def write_results(out: Path | None, record: Mapping[str, Any], page: str | None = None, indent: int = 2) -> None:
    """Write ``OUT.json`` and, if there is a page, ``OUT.md``; nothing if ``out`` is None. See OUT_HELP."""
    if out is None:
        return
    stem = out.with_suffix("") if out.suffix == ".json" else out
    write_json(stem.with_name(f"{stem.name}.json"), record, indent)
    if page is not None:
        stem.with_name(f"{stem.name}.md").write_text(page)


def write_json(path: Path, value: Mapping[str, Any], indent: int | None = 1) -> None:
    """Write a JSON file atomically, creating its folder if necessary; in one line without an ``indent``. A number that
    is none becomes null: JSON has no word for it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_suffix(f".{os.getpid()}.tmp")
    scratch.write_text(json.dumps(_without_nan(value), indent=indent, allow_nan=False) + "\n")
    scratch.replace(path)


def _without_nan(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _without_nan(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_without_nan(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
