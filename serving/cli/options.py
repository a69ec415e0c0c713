"""Options that several commands share, the settings that they make, and where output goes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

if TYPE_CHECKING:
    from serving.settings import Settings

ModelOption = Annotated[str | None, typer.Option(metavar="NAME_OR_DIR", help="A preset or a checkpoint folder.")]
FamilyOption = Annotated[
    str | None,
    typer.Option(metavar="NAME", envvar="ZOETROPE_FAMILY", help="The preset that a folder holds, if it does not say."),
]
GrpcOption = Annotated[str | None, typer.Option(metavar="HOST:PORT", help="gRPC address; port 0 picks a free one.")]
HttpOption = Annotated[str | None, typer.Option(metavar="HOST:PORT", help="HTTP address; port 0 picks a free one.")]
DataDirOption = Annotated[Path | None, typer.Option(metavar="DIR", help="Where jobs and files are kept.")]
DatabaseOption = Annotated[
    str | None, typer.Option(metavar="URL", help="postgresql://...; else a SQLite file in the data folder.")
]
ArtifactStoreOption = Annotated[
    str | None, typer.Option(metavar="URL", help="s3://BUCKET/PREFIX; else a folder of the data folder.")
]
PublicUrlOption = Annotated[
    str | None, typer.Option(metavar="URL", help="How clients reach the HTTP side, where that is not its address.")
]
TlsCertOption = Annotated[Path | None, typer.Option(metavar="FILE", help="Certificate chain, PEM.")]
TlsKeyOption = Annotated[Path | None, typer.Option(metavar="FILE", help="Its private key, PEM.")]
TlsClientCaOption = Annotated[
    Path | None, typer.Option(metavar="FILE", help="Whose certificates clients have to show, PEM.")
]
KeysOption = Annotated[
    str | None, typer.Option(metavar="WHEN", help="auto: ask for API keys once there is one; required: always.")
]
UnsafeMediaOption = Annotated[
    bool | None,
    typer.Option("--unsafe-media", help="Decode media even where the processes that do it cannot be confined."),
]
LabelOption = Annotated[list[str] | None, typer.Option(metavar="KEY=VALUE", help="To find the job by; repeatable.")]
NameArgument = Annotated[str, typer.Argument(metavar="NAME", help="The job, as `zoetrope jobs` lists it.")]


def settings_of(**options: Any) -> Settings:
    """What was given on the command line, over ZOETROPE_* variables, over the defaults.

    Raises:
        CliError, AddressError: a value that no service can have.
    """
    from pydantic import ValidationError

    from serving.addresses import parse_address
    from serving.cli.errors import bad_input
    from serving.settings import Settings

    try:
        settings = Settings(**{name: value for name, value in options.items() if value is not None})
    except ValidationError as error:
        item = error.errors(include_url=False)[0]
        field = ".".join(map(str, item["loc"])).replace("_", "-")
        raise bad_input(field, f"{item['input']!r}: {item['msg'].lower()}") from None
    for field in ("grpc", "http"):
        parse_address(getattr(settings, field), field)
    if (settings.tls_cert is None) != (settings.tls_key is None):
        missing = "tls-key" if settings.tls_key is None else "tls-cert"
        raise bad_input(missing, "is missing; a certificate and its key belong together")
    if settings.tls_client_ca is not None and settings.tls_cert is None:
        raise bad_input("tls-client-ca", "needs --tls-cert and --tls-key")
    return settings


def labels_of(given: list[str] | None) -> dict[str, str]:
    """``KEY=VALUE`` each.

    Raises:
        CliError: one is not.
    """
    from serving.cli.errors import bad_input

    labels = {}
    for text in given or ():
        key, equals, value = text.partition("=")
        if not (key and equals):
            raise bad_input("label", f"{text!r} is not KEY=VALUE")
        labels[key] = value
    return labels


def stderr() -> Console:
    return Console(stderr=True, highlight=False)


def stdout() -> Console:
    """Tables keep their columns whole where the output is not a terminal."""
    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=400)
