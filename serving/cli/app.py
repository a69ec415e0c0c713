"""The `zoetrope` command: registers its commands and reports their errors."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Sequence
from typing import Annotated

import typer

from zoetrope import __version__
from zoetrope.serving.cli import (
    adapters,
    calibrate,
    doctor,
    generate,
    jobs,
    k8s,
    keys,
    media,
    migrate,
    models,
    plan,
    prepare,
    pull,
    serve,
    top,
    upcycle,
)
from zoetrope.serving.cli.groups import HELP_NAMES
from zoetrope.serving.cli.late_commands import RootGroup

# What typer says of a value, and how we say it.
SAID = (
    (r", unable to parse .*", ""),
    (r"^Input should be ", "must be "),
    (r"a valid (?=[aeiou])", "an "),
    (r"a valid ", "a "),
    (r"greater than or equal to", "at least"),
    (r"less than or equal to", "at most"),
)
MORE = "`zoetrope COMMAND --help` tells more of a command."
app = typer.Typer(
    cls=RootGroup,
    context_settings=HELP_NAMES,
    epilog=MORE,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command.

    Returns:
        The exit code: 0, 2 for bad input, 130 when interrupted, else 1. Errors are one line on standard error.
    """
    try:
        code = app(args=arguments, prog_name="zoetrope", standalone_mode=False)
        sys.stdout.flush()
        return code if isinstance(code, int) else 0
    except typer.TyperException as error:
        print(f"error: {_usage_line(error)}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # the reader of our output has left
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:
        if os.environ.get("ZOETROPE_DEBUG"):
            raise
        from zoetrope.serving.cli.errors import explain

        line, code = explain(error)
        print(f"error: {line}", file=sys.stderr)
        return code


def _show_version(wanted: bool) -> None:
    if wanted:
        print(f"zoetrope {__version__}")
        raise typer.Exit


@app.callback()
def options(
    show_version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_show_version, help="Show the version and exit.")
    ] = False,
) -> None:
    """Zoetrope serves the Wan family of video models on your own GPUs."""


# In the order of `zoetrope --help`.
for module in (serve, migrate, top, doctor):
    module.register(app, "Service")
for module in (generate, jobs):
    module.register(app, "Jobs")
for module in (models, pull, plan, calibrate, upcycle, prepare):
    module.register(app, "Models")
app.add_typer(media.app, name="media", rich_help_panel="Files and keys")
app.add_typer(keys.app, name="keys", rich_help_panel="Files and keys")
app.add_typer(k8s.app, name="k8s", rich_help_panel="Service")
app.add_typer(adapters.app, name="adapters", rich_help_panel="Models")


def _usage_line(error: typer.TyperException) -> str:
    """Say what is wrong with the command line, by the name of the option or argument."""
    if isinstance(error, typer.BadParameter) and error.param is not None:
        name = (error.param.name or "").replace("_", "-")
        said = error.message or "is missing"
        for words, ours in SAID:
            said = re.sub(words, ours, said)
        return " ".join(f"{name}: {said}".split())
    return " ".join(error.format_message().split())
