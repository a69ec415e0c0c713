"""The group of commands, each of which is loaded when it is asked for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import typer

from zoetrope.benchmarks.errors import BenchmarkError
from zoetrope.serving.cli.errors import CliError
from zoetrope.serving.cli.groups import HELP_NAMES
from zoetrope.serving.cli.late_commands import LateGroup

# Command -> MODULE:FUNCTION: a function with typer's options, or a `main(arguments)` that parses the rest by itself.
# The help loads the module, which therefore imports nothing heavy until its function runs.
COMMANDS: dict[str, str] = {
    "quality": "zoetrope.benchmarks.quality.__main__:main",
    "peers": "zoetrope.benchmarks.peers.__main__:main",
    "report": "zoetrope.benchmarks.report:main",
    "smoke": "zoetrope.benchmarks.smoke:main",
}


class BenchGroup(LateGroup):
    """Loads a benchmark by its name, and reports what it raises as one line."""

    section = "Benchmarks"

    def places(self) -> Mapping[str, str]:
        return COMMANDS

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except BenchmarkError as error:
            raise CliError(str(error)) from None


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
