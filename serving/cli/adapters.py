"""`zoetrope adapters`: adapters that requests may name, in the database and the storage of a service."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from zoetrope.model.inspection.files import ModelError
from zoetrope.serving.cli.errors import bad_input
from zoetrope.serving.cli.groups import Group
from zoetrope.serving.cli.options import FamilyOption, ListingOptions, ModelOption, option, with_options
from zoetrope.serving.cli.settings import ArtifactStoreOption, DatabaseOptions, settings_of
from zoetrope.serving.cli.stores import opened_stores

if TYPE_CHECKING:
    from zoetrope.serving.config.settings import Settings

MAX_NAME_CHARS = 128
app = typer.Typer(cls=Group, rich_markup_mode=None, help="Manage adapters (LoRA) that requests may name.")


@dataclass(frozen=True)
class StoredAdapterOptions(DatabaseOptions):
    """Which service's adapters a command works on, and where their files are."""

    artifact_store: ArtifactStoreOption = None


@dataclass(frozen=True)
class AdapterOptions(StoredAdapterOptions):
    """And for which model they are."""

    model: ModelOption = None
    family: FamilyOption = None


@app.command()
@with_options
def add(
    options: AdapterOptions,
    name: Annotated[str, typer.Argument(metavar="NAME", help="Name that requests use.")],
    files: Annotated[
        list[str],
        typer.Argument(
            metavar="FILE[@SIDE]...",
            help="LoRA, .safetensors; SIDE is high, low or both, for models with two noise experts.",
        ),
    ],
    tenant: Annotated[
        Sequence[str], option("TENANT", "Tenant whose requests may name it; repeatable.", "all tenants")
    ] = (),
) -> None:
    """Register an adapter with a model, once it is checked against it.

    Requests name it in loras; it is applied to their own video only.
    """
    from zoetrope.model.adapters.registration import register
    from zoetrope.model.catalog.presets import open_model
    from zoetrope.serving.jobs.adapter_table import AdapterExists, file_key, new_adapter_id
    from zoetrope.serving.storage.store import open_artifacts

    if not _can_name(name) or set(name) & set(":@,"):
        limits = f"1 to {MAX_NAME_CHARS} printable characters, without : @ , and without spaces around them"
        raise bad_input("name", f"{name[:80]!r} must be {limits}")
    settings = settings_of(options)
    if tenant:
        _check_tenants(settings, tenant)
    card = open_model(_one_model(settings), settings.load)
    most = int(settings.adapter_rank)
    if not settings.adapter_slots:
        raise bad_input("ZOETROPE_ADAPTER_SLOTS", "is 0, so that no request may have an adapter")
    with tempfile.TemporaryDirectory() as folder:
        try:
            made = register(card, files, Path(folder))
        except ModelError as error:
            chosen = "" if options.model else f"; the model is {card.name}, --model names another"
            raise bad_input("file", str(error).removeprefix("file: ") + chosen) from None
        for note in made.notes:
            print(f"warning: {note}", file=sys.stderr)
        if made.rank > most:
            raise bad_input("file", f"has rank {made.rank}, the service's slots {most}; set ZOETROPE_ADAPTER_RANK")
        with opened_stores(settings, make=True) as stores:
            artifacts, adapter_id = open_artifacts(settings.artifacts_url), new_adapter_id()
            key = file_key(adapter_id)
            artifacts.put_file(key, made.path, "application/octet-stream")
            try:
                stores.adapters.add(
                    name,
                    card.name,
                    tuple(tenant) or None,
                    adapter_id=adapter_id,
                    sha256=made.sha256,
                    size_bytes=made.size_bytes,
                    rank=made.rank,
                )
            except BaseException as error:
                artifacts.delete([key])
                if isinstance(error, AdapterExists):
                    raise bad_input("name", str(error)) from None
                raise
    who = ", ".join(repr(one) for one in tenant) or "all tenants"
    print(f"{name} is registered with {card.name} for {who}: rank {made.rank}, {made.size_bytes / 1e6:.1f} MB")


@app.command("list")
@with_options
def list_adapters(options: DatabaseOptions, output: ListingOptions) -> None:
    """List registered adapters and the tenants that may use them."""
    from zoetrope.serving.cli.listing import show
    from zoetrope.serving.cli.tables import adapters_listing

    with opened_stores(settings_of(options)) as stores:
        show(adapters_listing(stores.adapters.list()), output)


@app.command()
@with_options
def remove(
    options: StoredAdapterOptions,
    name: Annotated[str, typer.Argument(metavar="NAME", help="Adapter, as `zoetrope adapters list` shows it.")],
    model: Annotated[
        str | None, option("NAME", "Model whose adapter it is, where several have one of that name.", "the only one")
    ] = None,
) -> None:
    """Remove an adapter for good.

    Jobs that have begun with it end with it; those that have not, or have to resume, fail.
    """
    from zoetrope.serving.storage.store import ArtifactError, open_artifacts

    settings = settings_of(options)
    with opened_stores(settings) as stores:
        registered = sorted(one.model for one in stores.adapters.list() if one.name == name)
        models = [one for one in registered if model in (None, one)]
        if len(models) > 1:
            raise bad_input("model", f"must be given, {name!r} is an adapter of {' and of '.join(models)}")
        removed = stores.adapters.remove(name, models[0]) if models else None
        if removed is None:
            of = f" of {model[:80]!r}, but of {' and of '.join(registered)}" if model and registered else ""
            raise bad_input("name", f"{name[:80]!r} is not an adapter{of}")
    with suppress(ArtifactError):
        open_artifacts(settings.artifacts_url).delete([removed.key])
        print(f"{name} is removed")
        return
    print(f"{name} is removed; its file {removed.key} could not be deleted", file=sys.stderr)


def _can_name(text: str) -> bool:
    return 0 < len(text) <= MAX_NAME_CHARS and text.isprintable() and text == text.strip()


def _check_tenants(settings: Settings, tenants: Sequence[str]) -> None:
    """Raise CliError if a tenant has no key: nobody could use what it is granted."""
    known: set[str] = set()
    if not settings.own_database or settings.database_file.exists():
        with opened_stores(settings) as stores:
            known = {key.owner for key in stores.keys.list() if key.revoked_at is None}
    for tenant in tenants:
        if tenant not in known:
            names = ", ".join(map(repr, sorted(known)))
            has = f"those that have one: {names}" if known else "none has"
            raise bad_input("tenant", f"{tenant[:80]!r} has no API key ({has}); make it with `zoetrope keys create`")


def _one_model(settings: Settings) -> str:
    """Return the model of an adapter.

    Raises:
        CliError: the service has several, and none is named.
    """
    if len(settings.model) > 1:
        raise bad_input("model", f"must name one of {', '.join(settings.model)}: an adapter is one model's")
    return settings.model[0]
