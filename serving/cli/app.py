"""The `zoetrope` command: its commands put together, and what becomes of their errors."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Annotated

import typer

from serving.cli import generate, keys, machine, media, operations, serve
from serving.cli.plan import plan

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
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
    except BrokenPipeError:  # the reader of our output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:
        if os.environ.get("ZOETROPE_DEBUG"):
            raise
        from serving.cli.errors import explain

        line, code = explain(error)
        print(f"error: {line}", file=sys.stderr)
        return code


def _show_version(wanted: bool) -> None:
    if wanted:
        print(f"zoetrope {_version()}")
        raise typer.Exit


@app.callback()
def options(
    show_version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_show_version, help="Show the version and exit.")
    ] = False,
) -> None:
    """Zoetrope serves the Wan family of video models on your own GPUs."""


serve.register(app)
generate.register(app)
operations.register(app)
app.add_typer(media.app, name="media")
app.add_typer(keys.app, name="keys")
machine.register(app)
app.command()(plan)


def _usage_line(error: typer.TyperException) -> str:
    """What is wrong with the command line, by the name of the option or argument."""
    if isinstance(error, typer.BadParameter) and error.param is not None:
        name = (error.param.name or "").replace("_", "-")
        return " ".join(f"{name}: {error.message or 'is missing'}".split())
    return " ".join(error.format_message().split())


def _version() -> str:
    try:
        return version("zoetrope")
    except PackageNotFoundError:
        return "(not installed)"
