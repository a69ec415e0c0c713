"""Listen at the addresses of the settings."""

from __future__ import annotations

import socket

from zoetrope.serving.config.addresses import parse_address
from zoetrope.serving.config.startup_checks import StartError


def listen(address: str, field: str) -> socket.socket:
    """Return a listening socket.

    Raises:
        AddressError: the address is malformed.
        StartError: nobody can listen there; the message names the setting.
    """
    host, port = parse_address(address, field)
    try:
        family, kind, protocol, _, resolved = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, protocol)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(resolved)
            listener.listen()
        except OSError:
            listener.close()
            raise
        return listener
    except OSError as error:
        raise StartError(f"{field}: cannot listen at {address}: {error.strerror}") from None
