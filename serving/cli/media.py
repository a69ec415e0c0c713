"""`zoetrope media`: files that a service keeps for tasks to name."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from serving.api.names import MEDIA, full_name
from serving.cli.connection import Connection, connect, connecting
from serving.cli.options import stderr, stdout

PAGE_SIZE = 100
app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Upload, list and delete pictures, clips, sounds.")


@app.command()
@connecting()
def upload(
    connection: Connection,
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", help="Pictures, clips or sounds.")],
    resume: Annotated[
        str, typer.Option(metavar="NAME", help="Go on with an upload of the same file that was broken off.")
    ] = "",
) -> None:
    """Upload files; prints a name for each, which `zoetrope generate` takes in place of a file."""
    from serving.cli.errors import bad_input, explain
    from serving.cli.progress import ProgressView

    if resume and len(files) > 1:
        raise bad_input("resume", f"goes with one file, {len(files)} are given")
    with connect(connection) as client, ProgressView(stderr()) as view:
        for path in files:
            if not path.is_file():
                raise bad_input("file", f"{str(path)!r} is no file that can be read")

            def show(sent: int, total: int, path: Path = path) -> None:
                view.uploading(str(path), sent, total)

            try:
                done = client.upload(path, on_progress=show, resume=full_name(MEDIA, resume) if resume else "")
            except Exception as error:
                line, code = explain(error)
                from serving.cli.errors import CliError

                raise CliError(f"{path}: {line.removeprefix('source: ')}", code) from None
            print(done.name, flush=True)


@app.command("list")
@connecting()
def list_media(
    connection: Connection,
    limit: Annotated[int, typer.Option(min=1, help="How many at most, the newest first.")] = 50,
) -> None:
    """List uploaded files."""
    from serving.cli.tables import media_table
    from serving.client import MediaFile

    found: list[MediaFile] = []
    token = ""
    with connect(connection) as client:
        while len(found) < limit:
            page = client.list_media(min(PAGE_SIZE, limit - len(found)), token)
            found += page.media
            token = page.next_page_token
            if not token:
                break
    stdout().print(media_table(found))


@app.command()
@connecting()
def delete(
    connection: Connection,
    names: Annotated[list[str], typer.Argument(metavar="NAME...", help="As `zoetrope media list` shows them.")],
) -> None:
    """Delete uploaded files that no unfinished job uses."""
    with connect(connection) as client:
        for name in names:
            client.delete_media(full_name(MEDIA, name))
            print(f"{full_name(MEDIA, name)} deleted", flush=True)
