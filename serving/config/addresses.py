"""Parse and check HOST:PORT addresses from settings and options."""

from __future__ import annotations

import ipaddress
import re
import socket
from contextlib import closing, suppress


class AddressError(ValueError):
    """An address is malformed; the message names the setting."""


def parse_address(text: str, field: str) -> tuple[str, int]:
    """Split ``127.0.0.1:50051`` or ``[::1]:50051`` into host and port.

    Raises:
        AddressError: ``text`` is not HOST:PORT.
    """
    host, colon, port = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not (colon and host and port.isascii() and port.isdigit() and int(port) <= 65_535):
        raise AddressError(f"{field}: {text!r} must be HOST:PORT with a port from 0 to 65535")
    return host, int(port)


def join_address(host: str, port: int) -> str:
    """Return HOST:PORT, the opposite of `parse_address`."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def is_host(text: str) -> bool:
    """Tell whether text can be a host: an IP address, or a name."""
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return re.fullmatch(r"[A-Za-z0-9_]([A-Za-z0-9_.-]{0,252})", text) is not None
    return True


def bind_problem(text: str, field: str) -> str | None:
    """Explain why no server can listen at an address, or return None. Port 0 (any free port) always works."""
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


def next_address(text: str, field: str, places: int) -> str:
    """Return the address that many ports further; port 0, any free one, stays.

    Raises:
        AddressError: there is no such port.
    """
    host, port = parse_address(text, field)
    if port == 0:
        return text
    address = join_address(host, port + places)
    parse_address(address, field)
    return address


def is_unspecified(text: str, field: str) -> bool:
    """Tell whether the address stands for all of this machine's, so that nobody can call it as it is written."""
    host, _ = parse_address(text, field)
    with suppress(ValueError):
        return ipaddress.ip_address(host).is_unspecified
    return False


def is_loopback(text: str, field: str) -> bool:
    """Tell whether only this machine can reach the address."""
    host, _ = parse_address(text, field)
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
