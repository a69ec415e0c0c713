"""`zoetrope top`: what the engines of a running service do, and what waits for them."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated

import typer

from zoetrope.serving.cli.connection import Connection, connect
from zoetrope.serving.cli.errors import bad_input
from zoetrope.serving.cli.options import JsonOption, add_commands, option

if TYPE_CHECKING:
    from rich.console import RenderableType

    from zoetrope.serving.client import VideoClient


def top(
    connection: Connection,
    once: Annotated[bool, typer.Option("--once", help="Print it once and exit.")] = False,
    json: JsonOption = False,
    interval: Annotated[float, option("SECONDS", "Time between two looks.", min=0.2)] = 1.0,
) -> None:
    """Show the engines and the queue, until Ctrl-C.

    Of other tenants' jobs you see sums; a service without API keys shows all.
    """
    from zoetrope.serving.cli.console import stdout
    from zoetrope.serving.cli.listing import print_json
    from zoetrope.serving.cli.overview_screen import screen

    if json and not once:
        raise bad_input("json", "needs --once")
    with connect(connection) as client:
        if json:
            print_json(client.engines())
        elif once:
            stdout().print(screen(client.engines()))
        else:
            _follow(client, interval)


def _follow(client: VideoClient, interval: float) -> None:
    """Draw the screen again and again, until Ctrl-C."""
    from rich.live import Live
    from rich.text import Text

    from zoetrope.serving.cli.console import stdout
    from zoetrope.serving.cli.overview_screen import screen
    from zoetrope.serving.client import ClientError

    console = stdout()
    if not console.is_terminal:
        raise bad_input("once", "must be given where the output is no terminal")

    def look() -> RenderableType:
        try:
            return screen(client.engines())
        except ClientError as error:
            if error.code != "UNAVAILABLE":
                raise
            return Text(f"no answer, trying again: {error.message}", style="red")

    try:
        with Live(look(), console=console, screen=True, auto_refresh=False) as live:
            while True:
                time.sleep(interval)
                live.update(look(), refresh=True)
    except KeyboardInterrupt:
        return


def register(app: typer.Typer, section: str) -> None:
    add_commands(app, section, top)
