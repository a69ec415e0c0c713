"""`zoetrope media`: files that a service keeps for tasks to name."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from zoetrope.serving.api.names import MEDIA, full_name
from zoetrope.serving.cli.connection import Connection, connect, newest
from zoetrope.serving.cli.console import stderr
from zoetrope.serving.cli.errors import CliError, bad_input, explain
from zoetrope.serving.cli.groups import Group
from zoetrope.serving.cli.options import LimitOption, ListingOptions, QuietOption, option, with_options
from zoetrope.serving.cli.progress import ProgressView

if TYPE_CHECKING:
    from zoetrope.serving.client import MediaFile

app = typer.Typer(cls=Group, rich_markup_mode=None, help="Upload, list and delete pictures, clips, sounds.")


@app.command()
@with_options
def upload(
    connection: Connection,
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", help="Pictures, clips or sounds.")],
    resume: Annotated[str, option("NAME", "Resume an interrupted upload of the same file.", "start a new one")] = "",
    quiet: QuietOption = False,
) -> None:
    """Upload files, and print a name for each.

    `zoetrope generate` takes the name in place of a file.
    """
    if resume and len(files) > 1:
        raise bad_input("resume", f"takes one file, {len(files)} are given")
    with connect(connection) as client, ProgressView(stderr(), quiet=quiet) as view:
        for path in files:
            if not path.is_file():
                raise bad_input("file", f"{str(path)!r} is not a readable file")

            def show(sent: int, total: int, path: Path = path) -> None:
                view.uploading(str(path), sent, total)

            try:
                done = client.upload(path, on_progress=show, resume=full_name(MEDIA, resume) if resume else "")
            except Exception as error:
                line, code = explain(error)
                raise CliError(f"{path}: {line.removeprefix('source: ')}", code) from None
            print(done.name, flush=True)


@app.command("list")
@with_options
def list_media(connection: Connection, output: ListingOptions, limit: LimitOption = 50) -> None:
    """List uploaded files, newest first."""
    from zoetrope.serving.cli.listing import show
    from zoetrope.serving.cli.tables import media_listing

    def page(size: int, token: str) -> tuple[tuple[MediaFile, ...], str]:
        found = client.list_media(size, token)
        return found.media, found.next_page_token

    with connect(connection) as client:
        show(media_listing(newest(limit, page)), output)


@app.command()
@with_options
def delete(
    connection: Connection,
    names: Annotated[list[str], typer.Argument(metavar="NAME...", help="Files, as `zoetrope media list` shows them.")],
) -> None:
    """Delete uploaded files that no unfinished job uses."""
    with connect(connection) as client:
        for name in names:
            client.delete_media(full_name(MEDIA, name))
            print(f"{full_name(MEDIA, name)} deleted", flush=True)
