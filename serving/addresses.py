"""HOST:PORT, as settings and options give it."""

from __future__ import annotations

import ipaddress
import socket
from contextlib import closing


class AddressError(ValueError):
    """It is no address; the message names the setting."""


def parse_address(text: str, field: str) -> tuple[str, int]:
    """``127.0.0.1:50051`` or ``[::1]:50051``.

    Raises:
        AddressError: it is not HOST:PORT.
    """
    host, colon, port = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not (colon and host and port.isascii() and port.isdigit() and int(port) <= 65_535):
        raise AddressError(f"{field}: {text!r} is not HOST:PORT with a port of 0 to 65535")
    return host, int(port)


def bind_problem(text: str, field: str) -> str | None:
    """Why no server can listen at an address; None when one can. Port 0, any free one, always can."""
    host, port = parse_address(text, field)
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        with closing(socket.socket(family, kind, protocol)) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as error:
        return f"cannot listen at {text}: {error.strerror}"
    return None


def is_loopback(text: str, field: str) -> bool:
    """Only this machine can reach it."""
    host, _ = parse_address(text, field)
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
