"""`zoetrope keys`: API keys, in the database of a service."""

from __future__ import annotations

from typing import Annotated

import typer

from zoetrope.serving.cli.console import stderr
from zoetrope.serving.cli.errors import bad_input
from zoetrope.serving.cli.groups import Group
from zoetrope.serving.cli.options import ListingOptions, option, with_options
from zoetrope.serving.cli.settings import DatabaseOptions, settings_of
from zoetrope.serving.cli.stores import opened_stores

MAX_NAME_CHARS = 100
# Fields of KeyLimits -> options.
OPTIONS = {
    "requests_per_second": "rate",
    "concurrent_jobs": "concurrent-jobs",
    "queued_seconds": "queued-seconds",
    "max_priority": "max-priority",
    "result_bytes": "result-bytes",
}
app = typer.Typer(cls=Group, rich_markup_mode=None, help="Create, list and revoke API keys.")


@app.command()
@with_options
def create(
    options: DatabaseOptions,
    name: Annotated[str, typer.Argument(metavar="NAME", help="Name of the key, shown to people.")],
    tenant: Annotated[
        str | None, option("NAME", "Tenant whose jobs the key makes and sees.", "NAME of the key")
    ] = None,
    rate: Annotated[float | None, option("N", "Calls per second, on average.", "no limit")] = None,
    burst: Annotated[int, option("N", "Calls at once on top of --rate.")] = 20,
    concurrent_jobs: Annotated[int | None, option("N", "Unfinished jobs at a time.", "no limit")] = None,
    queued_seconds: Annotated[
        float | None, option("SECONDS", "Total length of the clips in unfinished jobs.", "no limit")
    ] = None,
    models: Annotated[str | None, option("A,B", "Models that the key may use.", "all")] = None,
    max_priority: Annotated[int, option("N", "Highest queue priority, 0-9.")] = 9,
    result_bytes: Annotated[
        int | None, option("BYTES", "Size of all the tenant's results.", "ZOETROPE_MAX_RESULT_BYTES")
    ] = None,
) -> None:
    """Create a key and print its secret, which is shown only this once.

    Jobs that are made without a key belong to the tenant "".
    """
    from zoetrope.serving.jobs.key_table import RESERVED, KeyLimits

    owner = name if tenant is None else tenant
    if owner.startswith(RESERVED):
        raise bad_input("name" if tenant is None else "tenant", f"{owner[:80]!r} begins with {RESERVED!r}")
    for field, text in (("name", name), ("tenant", owner)):
        if len(text) > MAX_NAME_CHARS or not text.isprintable():
            raise bad_input(field, f"{text[:80]!r} has more than {MAX_NAME_CHARS} characters or unprintable ones")
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
    with opened_stores(settings_of(options), make=True) as stores:
        key, secret = stores.keys.create(name, owner, limits)
    stderr().print(f"{key.id} of tenant {owner!r}; its secret is shown only this once:")
    print(secret)


@app.command("list")
@with_options
def list_keys(options: DatabaseOptions, output: ListingOptions) -> None:
    """List keys and their limits."""
    from zoetrope.serving.cli.listing import show
    from zoetrope.serving.cli.tables import keys_listing

    with opened_stores(settings_of(options)) as stores:
        show(keys_listing(stores.keys.list()), output)


@app.command()
@with_options
def revoke(
    options: DatabaseOptions,
    key_id: Annotated[str, typer.Argument(metavar="ID", help="Key, as `zoetrope keys list` shows it.")],
) -> None:
    """Revoke a key for good; services refuse it within two seconds."""

    with opened_stores(settings_of(options)) as stores:
        if not stores.keys.revoke(key_id):
            raise bad_input("id", f"{key_id!r} is not a key, or was revoked before")
    print(f"{key_id} revoked")
