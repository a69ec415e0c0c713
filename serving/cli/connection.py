"""How a command reaches a service: the options for that, taken as one value."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from serving.client import Tls, VideoClient

DEFAULT_SERVER = "127.0.0.1:50051"
SECURE = "https://"

OptionalServer = Annotated[
    str | None,
    typer.Option(metavar="HOST:PORT", help="A running service, also from ZOETROPE_SERVER; https:// in front for TLS."),
]
Server = Annotated[
    str,
    typer.Option(
        metavar="HOST:PORT",
        envvar="ZOETROPE_SERVER",
        help="The service's gRPC address; https:// in front for TLS.",
    ),
]
OPTIONS: dict[str, Any] = {
    "api_key": Annotated[
        str | None, typer.Option(metavar="KEY", envvar="ZOETROPE_API_KEY", help="Made by `zoetrope keys create`.")
    ],
    "ca": Annotated[
        Path | None,
        typer.Option(metavar="FILE", envvar="ZOETROPE_CA", help="Whose certificate the service shows, PEM; TLS."),
    ],
    "client_cert": Annotated[
        Path | None,
        typer.Option(metavar="FILE", envvar="ZOETROPE_CLIENT_CERT", help="Certificate to show to the service, PEM."),
    ],
    "client_key": Annotated[
        Path | None, typer.Option(metavar="FILE", envvar="ZOETROPE_CLIENT_KEY", help="Its private key, PEM.")
    ],
}


@dataclass(frozen=True)
class Connection:
    """Where a service is and who asks. ``server`` is None where none was given."""

    server: str | None
    api_key: str | None = None
    ca: Path | None = None
    client_cert: Path | None = None
    client_key: Path | None = None

    @property
    def address(self) -> str:
        return (self.server or "").removeprefix(SECURE)

    def tls(self) -> Tls | None:
        from serving.client import Tls

        files = (self.ca, self.client_cert, self.client_key)
        secure = (self.server or "").startswith(SECURE) or any(file is not None for file in files)
        return Tls(*files) if secure else None


def connecting(*, optional: bool = False) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Give a command with a parameter ``connection`` the options that make one.

    Args:
        optional: the command has something to do without a service; then ZOETROPE_SERVER is its own to read.
    """

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        def run(*arguments: Any, **values: Any) -> Any:
            taken = {name: values.pop(name) for name in ("server", *OPTIONS)}
            return command(*arguments, connection=Connection(**taken), **values)

        kind = inspect.Parameter.KEYWORD_ONLY
        parameters = [
            parameter.replace(kind=kind)
            for parameter in inspect.signature(command, eval_str=True).parameters.values()
            if parameter.name != "connection"
        ]
        server = OptionalServer if optional else Server
        default = None if optional else DEFAULT_SERVER
        parameters.append(inspect.Parameter("server", kind, default=default, annotation=server))
        parameters += [inspect.Parameter(name, kind, default=None, annotation=a) for name, a in OPTIONS.items()]
        run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        run.__name__, run.__doc__ = command.__name__, command.__doc__
        return run

    return decorate


@contextmanager
def connect(connection: Connection, patience: float = 0.0) -> Iterator[VideoClient]:
    """A client of a service that answers now; its patient calls would wait for one that is not there.

    Raises:
        AddressError, ClientError: it is no address, or nothing answers there.
    """
    from serving.addresses import parse_address
    from serving.client import VideoClient

    parse_address(connection.address, "server")
    tls = connection.tls()
    with VideoClient(connection.address, api_key=connection.api_key or "", tls=tls, patience=patience) as client:
        client.models()
        yield client
