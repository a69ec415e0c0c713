"""`zoetrope migrate`: what a database needs before processes of a service use it."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from zoetrope.serving.cli.errors import FAILURE, CliError, bad_input
from zoetrope.serving.cli.options import add_commands, option
from zoetrope.serving.cli.settings import DatabaseOptions, settings_of

if TYPE_CHECKING:
    from zoetrope.serving.config.settings import Settings
    from zoetrope.serving.jobs.open import Stores

FIRST_KEY = ("bootstrap", "default")  # its name and tenant
POLL_SECONDS = 1.0


def migrate(
    options: DatabaseOptions,
    bootstrap_key: Annotated[
        Path | None,
        option(
            "FILE", "Secret of the first API key, made where there was never one.", "ZOETROPE_BOOTSTRAP_KEY, or none"
        ),
    ] = None,
    wait: Annotated[
        float | None, option("SECONDS", "Change nothing; wait until another one has migrated.", "no", min=0)
    ] = None,
    restored: Annotated[
        bool, typer.Option("--restored", help="The database was restored from a backup: make it safe to go on with.")
    ] = False,
) -> None:
    """Create or update the tables of a job database.

    Every process of a service does so when it starts, unless ZOETROPE_MIGRATE=never. In Kubernetes a Job does, and
    others wait with --wait until the tables are there, and an API key if other machines can connect.
    """
    settings = settings_of(options)
    if wait is not None:
        if restored or bootstrap_key is not None:
            raise bad_input("wait", "changes nothing: leave out --restored and --bootstrap-key")
        _wait(settings, wait)
        return
    from contextlib import closing

    from zoetrope.serving.config.startup_checks import StartError, make_directory
    from zoetrope.serving.jobs.db.migrations import MIGRATIONS
    from zoetrope.serving.jobs.open import open_stores

    secret = _secret(bootstrap_key or settings.bootstrap_key)
    try:
        make_directory(settings)
    except StartError as error:
        field, _, reason = str(error).partition(": ")
        raise bad_input(field, reason) from None
    with closing(open_stores(settings.database_url)) as stores:
        print(f"the tables have schema version {len(MIGRATIONS)}")
        if restored:
            queued, running = stores.jobs.after_restore()
            print(f"{queued} queued jobs got new epochs; {running} that ran will resume")
        if secret is not None:
            _make_key(stores, secret)


def _secret(file: Path | None) -> str | None:
    """Read a secret. Raises CliError where the file cannot be read."""
    if file is None:
        return None
    try:
        return file.read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not text"
        raise bad_input("bootstrap-key", f"{file} cannot be read: {reason}") from None


def _make_key(stores: Stores, secret: str) -> None:
    name, tenant = FIRST_KEY
    try:
        key = stores.keys.create_first(name, tenant, secret)
    except ValueError as error:
        raise bad_input("bootstrap-key", str(error)) from None
    if key is not None:
        print(f"made the first key, {key.id}, of tenant {tenant!r}")
    elif stores.keys.find(secret) is None:
        print("warning: bootstrap-key: it was not made, for there are or were other keys", file=sys.stderr)


def _wait(settings: Settings, seconds: float) -> None:
    """Wait until a service could start on the database.

    Raises:
        CliError: it could not within ``seconds``; with the last reason.
    """
    end, told = time.monotonic() + seconds, ""
    while problem := _problem(settings):
        if problem != told:
            print(f"waiting: {problem}", file=sys.stderr, flush=True)
            told = problem
        if time.monotonic() > end:
            raise CliError(f"not ready after {seconds:g} s: {problem}", FAILURE)
        time.sleep(POLL_SECONDS)


def _problem(settings: Settings) -> str:
    """Return what keeps a service from starting on the database; "" for nothing."""
    from contextlib import closing

    from zoetrope.serving.config.startup_checks import StartError, check_keys
    from zoetrope.serving.jobs.db.errors import StoreError
    from zoetrope.serving.jobs.open import open_stores

    try:
        with closing(open_stores(settings.database_url, migrate=False)) as stores:
            check_keys(settings, stores)
    except (StoreError, StartError) as error:
        return str(error)
    return ""


def register(app: typer.Typer, section: str) -> None:
    add_commands(app, section, migrate)
