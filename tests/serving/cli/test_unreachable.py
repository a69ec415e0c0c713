"""Addresses at which no service answers: the command says in words of ours what is there, and what to do."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from tests.serving.certificates import Authority
from tests.serving.gateway.harness import Service
from zoetrope.serving.cli import main
from zoetrope.serving.cli.unreachable import HTTP, why


@contextmanager
def tls_server(folder: Path, *protocols: str) -> Iterator[str]:
    """The address of a server that shakes hands over TLS and hangs up."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*Authority(folder, "ours").sign("service"))
    context.set_alpn_protocols(list(protocols))
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer() -> None:
            connection, _ = listener.accept()
            with connection, suppress(OSError), context.wrap_socket(connection, server_side=True) as secured:
                secured.recv(1)

        thread = threading.Thread(target=answer)
        thread.start()
        yield f"127.0.0.1:{listener.getsockname()[1]}"
        thread.join(10)


@pytest.mark.parametrize("prefix", ["", "http://"])
def test_the_http_port_of_a_service(prefix: str, service: Service, capsys: pytest.CaptureFixture[str]) -> None:
    address = service.http.removeprefix("http://")
    assert main(["jobs", "--server", prefix + address]) == 1
    assert capsys.readouterr().err == f"error: no answer from {address}: {HTTP}\n"


def test_a_service_without_tls(service: Service, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["jobs", "--server", f"https://{service.target}"]) == 1
    line = capsys.readouterr().err
    assert line.startswith(f"error: no answer from {service.target}: it does not speak TLS; leave out https://")
    assert main(["jobs", "--server", f"http://{service.target}/", "--quiet"]) == 0


def test_nothing_listens(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = f"127.0.0.1:{listener.getsockname()[1]}"
    assert main(["models", "--server", address]) == 1
    line = (
        f"error: no answer from {address}: nothing listens there; start a service with `zoetrope serve`, or name its "
    )
    assert capsys.readouterr().err.startswith(line)


def test_what_speaks_tls(tmp_path: Path) -> None:
    with tls_server(tmp_path, "h2") as address:
        assert why(address, tls=False).startswith("it speaks TLS; prefix the address with https://")
    with tls_server(tmp_path, "h2") as address:
        assert why(address, tls=True).startswith("its certificate is not trusted")
    with tls_server(tmp_path, "http/1.1") as address:
        assert why(address, tls=True) == HTTP


def test_other_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*_: object) -> None:
        raise socket.gaierror("unknown")

    def silent(*_: object) -> None:
        raise TimeoutError

    monkeypatch.setattr(socket, "create_connection", unknown)
    assert why("nowhere.invalid:1", tls=False) == "no host is known by the name 'nowhere.invalid'"
    monkeypatch.setattr(socket, "create_connection", silent)
    assert why("10.255.255.1:1", tls=False).startswith("it does not respond within 2 s")
