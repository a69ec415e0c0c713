"""Why a service does not answer: what gRPC says of it means little to whoever typed an address."""

from __future__ import annotations

import socket
import ssl
from contextlib import suppress

from zoetrope.serving.config.addresses import parse_address

SECONDS = 2.0
NO_TLS = "it does not speak TLS; leave out https:// and the options of certificates"
NO_TRUST = (
    "its certificate is not trusted, or is not for this name, or it wants one of yours; see --ca and --client-cert"
)
HTTP_REQUEST = b"GET / HTTP/1.1\r\nHost: service\r\nConnection: close\r\n\r\n"
HTTP = "this is an HTTP port; --server takes the gRPC address, which `zoetrope serve` prints (port 50051 by default)"


def why(address: str, *, tls: bool) -> str:
    """Connect to an address that gave no answer over gRPC, and say what is there and what to do.

    Args:
        address: HOST:PORT.
        tls: whether the client speaks TLS.
    """
    host, port = parse_address(address, "server")
    try:
        protocol = _over_tls(host, port)
        if protocol is None and _answers_http(host, port):
            return HTTP
    except ConnectionRefusedError:
        return "nothing listens there; start a service with `zoetrope serve`, or name its gRPC address with --server"
    except socket.gaierror:
        return f"no host is known by the name {host!r}"
    except TimeoutError:
        return f"it does not respond within {SECONDS:g} s; check the address, and firewalls on the way"
    except OSError as error:
        return f"it cannot be reached: {error.strerror or error}"
    if protocol is None:
        return NO_TLS if tls else "something listens there, but it answers no gRPC call"
    if protocol != "h2":
        return HTTP
    return NO_TRUST if tls else "it speaks TLS; prefix the address with https://, and see --ca"


def _over_tls(host: str, port: int) -> str | None:
    """Return what a server agrees to speak over TLS, "" if it does not say; None if it speaks no TLS."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE  # nothing is sent but the question
    context.set_alpn_protocols(["h2", "http/1.1"])
    with socket.create_connection((host, port), SECONDS) as connection:
        try:
            with context.wrap_socket(connection, server_hostname=host) as secured:
                return secured.selected_alpn_protocol() or ""
        except (ssl.SSLError, TimeoutError, ConnectionError):
            return None


def _answers_http(host: str, port: int) -> bool:
    with socket.create_connection((host, port), SECONDS) as connection, suppress(TimeoutError, ConnectionError):
        connection.sendall(HTTP_REQUEST)
        return connection.recv(len(HTTP_REQUEST)).startswith(b"HTTP/1.")
    return False
