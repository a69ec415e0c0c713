"""Commands that run a service or a part of one, and the settings of all."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated

import typer

from zoetrope.serving.cli.options import JsonOption, ListingOptions, add_commands
from zoetrope.serving.cli.settings import GatewayOptions, ServeOptions, SweeperOptions, settings_of

MORE = "The other settings are ZOETROPE_* variables, which `zoetrope settings` lists."


def serve(
    options: ServeOptions,
    argument: Annotated[
        Sequence[str], typer.Argument(metavar="MODEL...", help="Same as --model.", show_default=False)
    ] = (),
    stop_when_stdin_ends: Annotated[bool, typer.Option("--stop-with-stdin", hidden=True)] = False,
) -> int:
    """Start a service. Prints one line, `ready grpc=... http=...`, once it can serve jobs."""
    settings = settings_of(replace(options, model=models_of(argument, options.model)))
    _warn()
    if stop_when_stdin_ends:
        from zoetrope.serving.config.shutdown import stop_with_stdin

        stop_with_stdin()
    from zoetrope.serving.supervisor.supervisor import serve as run

    return run(settings)


def models_of(arguments: Sequence[str], given: Sequence[str]) -> Sequence[str]:
    """Return the models that the command line names, as its arguments or as --model.

    Raises:
        CliError: it names some in both ways.
    """
    from zoetrope.serving.cli.errors import bad_input

    if arguments and given and tuple(arguments) != tuple(given):
        shown = " and ".join([*map(repr, arguments), *(f"--model {name!r}" for name in given)])
        raise bad_input("model", f"is named twice: {shown}")
    return tuple(given or arguments)


def gateway(options: GatewayOptions) -> int:
    """Start one more gateway for a service that runs elsewhere.

    It works on the service's database and artifact store. Prints one line, `ready grpc=... http=...`, once it answers.
    """
    settings = settings_of(options)
    _warn()
    from zoetrope.serving.gateway.main import serve as run

    return run(settings, supervised=False)


def sweeper(options: SweeperOptions) -> int:
    """Start a sweeper for a service that runs elsewhere.

    It sends webhooks, and deletes what has expired from the service's database and stores. Prints `ready` once it
    works; there may be several.
    """
    settings = settings_of(options)
    _warn()
    from zoetrope.serving.sweeper.main import serve as run

    return run(settings, supervised=False)


def settings(json: JsonOption = False) -> None:
    """List every setting with its value, form and meaning."""
    from zoetrope.serving.cli.listing import show
    from zoetrope.serving.cli.tables import settings_listing

    show(settings_listing(settings_of()), ListingOptions(json))
    _warn()


def register(app: typer.Typer, section: str) -> None:
    add_commands(app, section, serve, gateway, sweeper, epilog=MORE)
    add_commands(app, section, settings)


def _warn() -> None:
    """Say which variables look like settings and are none."""
    from zoetrope.serving.config.variables import unknown_variables

    for line in unknown_variables(os.environ):
        print(f"warning: {line}", file=sys.stderr)
