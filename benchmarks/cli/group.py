"""The group of commands, each of which is loaded when it is asked for."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from contextvars import ContextVar
from typing import Any

import typer

from zoetrope.benchmarks.errors import BenchmarkError
from zoetrope.benchmarks.schema.commands import COMMANDS
from zoetrope.serving.cli.errors import CliError
from zoetrope.serving.cli.groups import HELP_NAMES
from zoetrope.serving.cli.late_commands import LateGroup

_typed: ContextVar[tuple[str, ...]] = ContextVar("typed", default=())


class BenchGroup(LateGroup):
    """Loads a benchmark by its name, and reports what it raises as one line."""

    section = "Benchmarks"

    def places(self) -> Mapping[str, str]:
        return COMMANDS

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        _typed.set(tuple(args))
        return super().parse_args(ctx, args)

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except BenchmarkError as error:
            raise CliError(str(error)) from None


def command_typed() -> str:
    """Return the command line of the benchmark that runs, as its results record it."""
    return shlex.join(["zoetrope", "bench", *_typed.get()])


app = typer.Typer(
    cls=BenchGroup,
    add_completion=False,
    context_settings=HELP_NAMES,
    rich_markup_mode=None,
    help="Measure a service, a model, or what quality costs.",
)


@app.callback()
def _group() -> None:
    """Make typer a group of it."""
