"""Options that set the settings of a service, over ZOETROPE_* variables and the defaults."""

from __future__ import annotations

from collections.abc import Container, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from zoetrope.serving.cli.load_options import NONE_GIVEN, ModelLoadOptions
from zoetrope.serving.cli.options import option

if TYPE_CHECKING:
    from zoetrope.serving.config.settings import Settings

DataDirOption = Annotated[Path | None, option("DIR", "Folder for jobs and files.", "~/.local/share/zoetrope")]
DatabaseOption = Annotated[
    str | None, option("URL", "Job database: postgresql://USER:PASSWORD@HOST/DB.", "SQLite in --data-dir")
]

ArtifactStoreOption = Annotated[
    str | None, option("URL", "Store for videos and uploads: s3://BUCKET/PREFIX.", "a folder in --data-dir")
]
SnapshotStoreOption = Annotated[
    str | None, option("URL", "Store for snapshots of running jobs: s3://BUCKET/PREFIX.", "a folder in --data-dir")
]
ManagementOption = Annotated[
    str | None, option("HOST:PORT", "Plain HTTP for probes and metrics: /livez, /readyz, /metrics.", "none")
]
PublicUrlOption = Annotated[
    str | None, option("URL", "URL at which clients reach the HTTP APIs.", "made from the --http address")
]


@dataclass(frozen=True)
class DatabaseOptions:
    """Which service's database a command works on."""

    data_dir: DataDirOption = None
    database: DatabaseOption = None


@dataclass(frozen=True)
class SweeperOptions(DatabaseOptions):
    """The settings of a sweeper."""

    artifact_store: ArtifactStoreOption = None
    snapshot_store: SnapshotStoreOption = None
    management: ManagementOption = None
    public_url: PublicUrlOption = None


@dataclass(frozen=True)
class CheckedOptions:
    """The settings that `zoetrope doctor` checks."""

    model: Annotated[
        Sequence[str],
        option("MODEL", "Preset, model card, checkpoint folder, weight file or repository; repeatable.", "nano"),
    ] = ()
    load: ModelLoadOptions = NONE_GIVEN
    grpc: Annotated[
        str | None, option("HOST:PORT", "Address of the gRPC API; port 0 picks a free one.", "127.0.0.1:50051")
    ] = None
    http: Annotated[
        str | None, option("HOST:PORT", "Address of the HTTP APIs; port 0 picks a free one.", "127.0.0.1:8080")
    ] = None
    host: Annotated[
        str | None, option("HOST", "Host of both addresses, where --grpc or --http does not say it.", "127.0.0.1")
    ] = None
    port: Annotated[
        int | None,
        option("N", "Port of the HTTP APIs, in place of --http; that of gRPC is in --grpc.", "8080", min=0, max=65_535),
    ] = None
    data_dir: DataDirOption = None


@dataclass(frozen=True)
class GatewayOptions(CheckedOptions):
    """The settings of a gateway."""

    served_model_name: Annotated[
        str | None, option("NAME,...", "Other names of the first model; NAME=MODEL for another.", "none")
    ] = None
    allow_origins: Annotated[
        str | None, option("URL,...", "Origins whose web pages may call the HTTP APIs; *: all.", "none")
    ] = None
    database: DatabaseOption = None
    artifact_store: ArtifactStoreOption = None
    tls_cert: Annotated[
        Path | None, option("FILE", "Certificate chain of the service, PEM; turns TLS on.", "no TLS")
    ] = None
    tls_key: Annotated[Path | None, option("FILE", "Private key of --tls-cert, PEM.", "none")] = None
    tls_client_ca: Annotated[
        Path | None, option("FILE", "CA whose client certificates callers must present, PEM.", "none")
    ] = None
    management: ManagementOption = None
    public_url: PublicUrlOption = None
    keys: Annotated[
        str | None,
        option(
            "WHEN",
            "When to ask for API keys: auto, once there is one or others can connect; or required, always.",
            "auto",
        ),
    ] = None
    unsafe_media: Annotated[
        bool | None,
        typer.Option("--unsafe-media", help="Decode clients' files even where the sandbox cannot be set up."),
    ] = None


@dataclass(frozen=True)
class ServeOptions(GatewayOptions):
    """The settings of a whole service."""

    ranks: Annotated[int | None, option("N", "GPUs per engine, where --engines says no size.", "1")] = None
    engines: Annotated[
        str | None, option("N or NxGPUS,...", "Engines, each with a whole model; of several sizes: 2x1,1x4.", "1")
    ] = None
    min_engines: Annotated[int | None, option("N", "Engines kept when there is nothing to do.", "all")] = None
    max_engines: Annotated[int | None, option("N", "Engines when there is much to do.", "as many as --engines")] = None
    snapshot_store: SnapshotStoreOption = None
    decoders: Annotated[int | None, option("N", "Processes that decode and write videos.", "1")] = None
    gateways: Annotated[int | None, option("N", "Gateway processes; all but the first take free ports.", "1")] = None


def _cards(settings: Settings) -> dict[str, tuple[str, ...]]:
    """Return the models with the paths of those that are model cards, for processes that look for them in other
    folders."""
    from zoetrope.model.catalog.card_files import find_card_file
    from zoetrope.model.families import BUNDLED

    files = [None if name in BUNDLED else find_card_file(name, settings.cards) for name in settings.model]
    names = zip(settings.model, files, strict=True)
    return {"model": tuple(name if file is None else str(file.absolute()) for name, file in names)}


def settings_of(options: DatabaseOptions | CheckedOptions | None = None) -> Settings:
    """Resolve the settings: the options that were given, over ZOETROPE_* variables, over the defaults.

    Raises:
        CliError: a value that no service can have; the message names its option or its variable.
    """
    from pydantic import ValidationError

    from zoetrope.model.request.schema_errors import describe
    from zoetrope.serving.cli.errors import bad_input
    from zoetrope.serving.config.forms import problems
    from zoetrope.serving.config.settings import Settings

    fields = {} if options is None else vars(options)
    load = fields.get("load", NONE_GIVEN)
    given = {name: value for name, value in fields.items() if value is not None and value is not load} | load.given()
    if model := given.pop("model", None):
        given["model"] = (model,) if isinstance(model, str) else tuple(model)
    host, port = given.pop("host", None), given.pop("port", None)

    def named(name: str) -> str:
        return name.replace("_", "-") if name in given else f"ZOETROPE_{name.upper()}"

    try:
        settings = Settings(**given)
    except ValidationError as error:
        item = error.errors(include_url=False)[0]
        raise bad_input(named(str(item["loc"][0])), describe(item)) from None
    for name, problem in problems(settings):
        raise bad_input(named(name), problem)
    if settings.compile and settings.quantize != "none":
        problem = f"{settings.quantize!r} cannot be used together with ZOETROPE_COMPILE=true"
        raise bad_input(named("quantize"), problem)
    if settings.compile and settings.cuda_graphs != "never":
        problem = f"{settings.cuda_graphs!r} cannot be used together with ZOETROPE_COMPILE=true"
        raise bad_input(named("cuda_graphs"), problem)
    if "data_dir" in given:  # its cards, as in `zoetrope models add --data-dir`
        settings = settings.model_copy(update={"models_dir": None})
    settings = settings.model_copy(update=_listening(settings, host, port, given) | _cards(settings))
    if (settings.tls_cert is None) != (settings.tls_key is None):
        missing, present = ("tls_key", "tls_cert") if settings.tls_key is None else ("tls_cert", "tls_key")
        field = missing.replace("_", "-") if present in given else f"ZOETROPE_{missing.upper()}"
        raise bad_input(field, "is missing; a certificate and its key belong together")
    if settings.tls_client_ca is not None and settings.tls_cert is None:
        raise bad_input(named("tls_client_ca"), "needs --tls-cert and --tls-key, or their variables")
    return settings


def _listening(settings: Settings, host: str | None, port: int | None, given: Container[str]) -> dict[str, str]:
    """Return the addresses that --host and --port change.

    Raises:
        CliError: ``given`` options say the same, or no host has that name.
    """
    from zoetrope.serving.cli.errors import bad_input
    from zoetrope.serving.config.addresses import is_host, join_address, parse_address

    if port is not None and "http" in given:
        raise bad_input("port", "cannot be used together with --http, which says the port")
    if host is not None and {"grpc", "http"} <= {name for name in ("grpc", "http") if name in given}:
        raise bad_input("host", "cannot be used together with --grpc and --http, which say the host")
    if host is not None and not is_host(host):
        raise bad_input("host", f"{host!r} must be a name or an address, without a port")
    changed = {}
    for name, new_port in (("grpc", None), ("http", port)):
        old_host, old_port = parse_address(getattr(settings, name), name)
        if name not in given:
            changed[name] = join_address(old_host if host is None else host, old_port if new_port is None else new_port)
    return changed
