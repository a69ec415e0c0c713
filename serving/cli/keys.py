"""`zoetrope keys`: API keys, in the database that a service works on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from serving.cli.options import DatabaseOption, DataDirOption, settings_of, stderr, stdout

if TYPE_CHECKING:
    from pathlib import Path

    from serving.jobs.key_table import KeyTable

MAX_NAME_CHARS = 100
# Fields of KeyLimits -> options.
OPTIONS = {
    "requests_per_second": "rate",
    "concurrent_jobs": "concurrent-jobs",
    "queued_seconds": "queued-seconds",
    "max_priority": "max-priority",
    "result_bytes": "result-bytes",
}
app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Create, list and revoke API keys.")


@app.command()
def create(
    name: Annotated[str, typer.Argument(metavar="NAME", help="For people.")],
    tenant: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Whose jobs it makes and sees; NAME of the key by default."),
    ] = None,
    rate: Annotated[float | None, typer.Option(help="Calls a second, on average.")] = None,
    burst: Annotated[int, typer.Option(help="Calls at once on top of that.")] = 20,
    concurrent_jobs: Annotated[int | None, typer.Option(help="Jobs at a time that are not done.")] = None,
    queued_seconds: Annotated[float | None, typer.Option(help="Seconds of clips in those jobs.")] = None,
    models: Annotated[str | None, typer.Option(metavar="A,B", help="The only models that it may use.")] = None,
    max_priority: Annotated[int, typer.Option(help="The highest priority, 0 to 9.")] = 9,
    result_bytes: Annotated[
        int | None,
        typer.Option(help="Bytes of results that its tenant may keep; ZOETROPE_MAX_RESULT_BYTES by default."),
    ] = None,
    data_dir: DataDirOption = None,
    database: DatabaseOption = None,
) -> None:
    """Make a key and print its secret, which is shown this once.

    Jobs that were made without a key belong to the tenant "".
    """
    from serving.cli.errors import bad_input
    from serving.jobs.key_table import RESERVED, KeyLimits

    owner = name if tenant is None else tenant
    if owner.startswith(RESERVED):
        raise bad_input("name" if tenant is None else "tenant", f"{owner[:80]!r} begins with {RESERVED!r}")
    for field, text in (("name", name), ("tenant", owner)):
        if len(text) > MAX_NAME_CHARS or not text.isprintable():
            raise bad_input(field, f"{text[:80]!r} has more than {MAX_NAME_CHARS} characters or some that do not print")
    if not name.strip():
        raise bad_input("name", "is empty")
    allowed = None if models is None else tuple(part.strip() for part in models.split(","))
    if allowed is not None and not all(allowed):
        raise bad_input("models", f"{models!r} holds an empty name")
    try:
        limits = KeyLimits(
            requests_per_second=rate,
            burst=burst,
            concurrent_jobs=concurrent_jobs,
            queued_seconds=queued_seconds,
            models=allowed,
            max_priority=max_priority,
            result_bytes=result_bytes,
        )
    except ValueError as error:
        field, _, description = str(error).partition(" is ")
        raise bad_input(OPTIONS.get(field, field), description) from None
    with _keys(data_dir, database) as table:
        key, secret = table.create(name, owner, limits)
    stderr().print(f"{key.id} of tenant {owner!r}; its secret is shown this once:")
    print(secret)


@app.command("list")
def list_keys(data_dir: DataDirOption = None, database: DatabaseOption = None) -> None:
    """List keys and their limits."""
    from serving.cli.tables import keys_table

    with _keys(data_dir, database) as table:
        stdout().print(keys_table(table.list()))


@app.command()
def revoke(
    key_id: Annotated[str, typer.Argument(metavar="ID", help="As `zoetrope keys list` shows it.")],
    data_dir: DataDirOption = None,
    database: DatabaseOption = None,
) -> None:
    """End a key for good; services take notice within two seconds."""
    from serving.cli.errors import bad_input

    with _keys(data_dir, database) as table:
        if not table.revoke(key_id):
            raise bad_input("id", f"{key_id!r} is no key, or one that was revoked before")
    print(f"{key_id} revoked")


@contextmanager
def _keys(data_dir: Path | None, database: str | None) -> Iterator[KeyTable]:
    """
    Raises:
        CliError, StoreError: the database cannot be used.
    """
    from serving.cli.errors import bad_input
    from serving.jobs.open import open_stores
    from serving.startup import StartError, make_directory

    settings = settings_of(data_dir=data_dir, database=database)
    try:
        make_directory(settings)
    except StartError as error:
        field, _, reason = str(error).partition(": ")
        raise bad_input(field, reason) from None
    stores = open_stores(settings.database_url)
    try:
        yield stores.keys
    finally:
        stores.close()
