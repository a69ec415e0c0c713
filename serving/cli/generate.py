"""`zoetrope generate`."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Annotated

import typer

from zoetrope.serving.cli.connection import OptionalConnection
from zoetrope.serving.cli.console import stderr
from zoetrope.serving.cli.errors import bad_input
from zoetrope.serving.cli.generate_request import GenerateRequest
from zoetrope.serving.cli.options import QuietOption, add_commands
from zoetrope.serving.cli.progress import ProgressView


def generate(
    request: GenerateRequest,
    connection: OptionalConnection,
    local: Annotated[bool, typer.Option("--local", help="Run the model in this process, without a service.")] = False,
    quiet: QuietOption = False,
) -> None:
    """Make a video or a picture from a prompt, pictures and clips.

    Without --server and --local, a private service is started for this one job. A service also takes, in place of a
    FILE, a name that `zoetrope media list` or `zoetrope jobs` shows.
    """
    if local and connection.server is not None:
        raise bad_input("local", "cannot be used together with --server")
    for field in request.load.given():
        if connection.server is not None and field != "lora":
            raise bad_input(field, "is about a model that is loaded here, and cannot be used together with --server")
    service = None if local else connection.resolved()
    if service is None and (given := request.options.given()):
        raise bad_input(given[0], "needs a service, give --server")
    if not (request.options.detach or request.options.dry_run):
        request.prepare_files()
    with ProgressView(stderr(), quiet=quiet) as view:
        if local:
            from zoetrope.serving.cli.local import generate_locally

            line = generate_locally(request, view)
        elif service is not None:
            from zoetrope.serving.cli.remote import generate_remotely

            line = generate_remotely(request, service, view)
        else:
            from zoetrope.serving.cli.remote import generate_privately

            with tempfile.TemporaryDirectory(prefix="zoetrope-private-") as folder:
                line = generate_privately(request, Path(folder), view)
    print(line)


def register(app: typer.Typer, section: str) -> None:
    add_commands(app, section, generate)
