"""Opens the database of a service, for commands that work on it without the service."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from zoetrope.serving.cli.errors import bad_input

if TYPE_CHECKING:
    from zoetrope.serving.config.settings import Settings
    from zoetrope.serving.jobs.open import Stores


@contextmanager
def opened_stores(settings: Settings, *, make: bool = False) -> Iterator[Stores]:
    """Open a service's tables, and ``make`` a database in a data folder that has none.

    Raises:
        CliError, StoreError: the database cannot be used.
    """
    from zoetrope.serving.config.startup_checks import StartError, make_directory
    from zoetrope.serving.jobs.open import open_stores

    missing = settings.own_database and not settings.database_file.exists()
    if missing and not make:
        raise bad_input("data-dir", f"{settings.directory} has no database: no service or key was ever made there")
    try:
        make_directory(settings)
    except StartError as error:
        field, _, reason = str(error).partition(": ")
        raise bad_input(field, reason) from None
    if missing:
        print(f"making a database in {settings.directory}", file=sys.stderr)
    stores = open_stores(settings.database_url, migrate=settings.may_migrate)
    try:
        yield stores
    finally:
        stores.close()
