"""How a command reaches a service."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

from zoetrope.serving.cli.options import option

if TYPE_CHECKING:
    from zoetrope.serving.client import Tls, VideoClient

SERVER = "ZOETROPE_SERVER"
SECURE, PLAIN = "https://", "http://"
PAGE_SIZE = 100
T = TypeVar("T")


@dataclass(frozen=True)
class Connection:
    """Where a service is and who calls."""

    server: Annotated[
        str | None, option("HOST:PORT", "Address of the service's gRPC API; prefix https:// for TLS.", envvar=SERVER)
    ] = "127.0.0.1:50051"
    api_key: Annotated[
        str | None, option("KEY", "API key, as `zoetrope keys create` prints it.", "none", envvar="ZOETROPE_API_KEY")
    ] = None
    ca: Annotated[
        Path | None,
        option("FILE", "CA certificates to trust, PEM; turns TLS on.", "the system's", envvar="ZOETROPE_CA"),
    ] = None
    client_cert: Annotated[
        Path | None, option("FILE", "Client certificate for mutual TLS, PEM.", "none", envvar="ZOETROPE_CLIENT_CERT")
    ] = None
    client_key: Annotated[
        Path | None, option("FILE", "Private key of --client-cert, PEM.", "none", envvar="ZOETROPE_CLIENT_KEY")
    ] = None

    @property
    def address(self) -> str:
        return (self.server or "").removeprefix(SECURE).removeprefix(PLAIN).removesuffix("/")

    def tls(self) -> Tls | None:
        from zoetrope.serving.client import Tls

        files = (self.ca, self.client_cert, self.client_key)
        secure = (self.server or "").startswith(SECURE) or any(file is not None for file in files)
        return Tls(*files) if secure else None


@dataclass(frozen=True)
class OptionalConnection(Connection):
    """Of a command that also works without a service; ``server`` is None if none was given on the command line."""

    server: Annotated[
        str | None,
        option(
            "HOST:PORT", f"Address of a service's gRPC API, also from {SERVER}; prefix https:// for TLS.", "no service"
        ),
    ] = None

    def resolved(self) -> Connection | None:
        """Return the connection to the service of the command line or the environment, or None."""
        server = self.server or os.environ.get(SERVER)
        return replace(self, server=server) if server else None


@contextmanager
def connect(connection: Connection, patience: float = 0.0) -> Iterator[VideoClient]:
    """Open a client of a service that answers now: its calls would wait long for one that is down.

    Raises:
        AddressError, ClientError, CliError: the address is none, or no service answers there.
    """
    from zoetrope.serving.client import ClientError, VideoClient
    from zoetrope.serving.config.addresses import parse_address

    address, tls = connection.address, connection.tls()
    parse_address(address, "server")
    with VideoClient(address, api_key=connection.api_key or "", tls=tls, patience=patience) as client:
        try:
            client.models()
            yield client
        except ClientError as error:
            if error.message.startswith(f"no answer from {address}"):
                from zoetrope.serving.cli.errors import CliError
                from zoetrope.serving.cli.unreachable import why

                raise CliError(f"no answer from {address}: {why(address, tls=tls is not None)}") from None
            raise


def newest(limit: int, page: Callable[[int, str], tuple[Sequence[T], str]]) -> list[T]:
    """Fetch at most ``limit`` items of a list.

    Args:
        page: takes a page's size and token; returns its items and the token of the next page.
    """
    found: list[T] = []
    token = ""
    while len(found) < limit:
        items, token = page(min(PAGE_SIZE, limit - len(found)), token)
        found += items
        if not token:
            break
    return found
