"""Which of gRPC's connections have to go, and where they are found."""

from __future__ import annotations

import contextlib
import os
import socket

import pytest

from zoetrope.serving.gateway.grpc import sockets
from zoetrope.serving.gateway.grpc.sockets import ConnectionTable, Sockets

STRANGERS = [f"ipv4:192.0.2.1:{port}" for port in range(10)]


@pytest.fixture(autouse=True)
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sockets, "MAX_STRANGERS", 5)
    monkeypatch.setattr(sockets, "MAX_KNOWN", 6)
    monkeypatch.setattr(sockets, "MAX_ALL", 12)


def test_strangers_of_one_address_make_room_the_oldest_first() -> None:
    table = Sockets()
    assert table.surplus(STRANGERS[:3]) == []
    assert table.surplus(STRANGERS[:8]) == STRANGERS[:3]
    assert table.surplus(STRANGERS[3:8]) == []


def test_those_that_were_admitted_are_counted_by_their_name() -> None:
    table = Sockets()
    for peer in STRANGERS[:6]:
        table.authenticated(peer, "key")
    assert table.surplus(STRANGERS[:6]) == []
    assert table.surplus([*STRANGERS[:6], "ipv4:192.0.2.2:1"]) == []
    table.authenticated(STRANGERS[6], "key")
    assert len(table.surplus(STRANGERS[:7])) == 1


def test_those_that_are_refused_again_and_again() -> None:
    table = Sockets()
    for _ in range(sockets.MAX_REFUSED):
        assert table.surplus(STRANGERS[:1]) == []
        table.refused(STRANGERS[0])
    assert table.surplus(STRANGERS[:1]) == STRANGERS[:1]
    table.authenticated(STRANGERS[0], "key")
    assert table.surplus(STRANGERS[:1]) == []


def test_of_too_many_addresses_strangers_go() -> None:
    table = Sockets()
    for peer in STRANGERS[:6]:
        table.authenticated(peer, "key")
    crowd = [f"ipv4:192.0.2.{number}:1" for number in range(10, 20)]
    assert table.surplus([*STRANGERS[:6], *crowd]) == crowd[:4]


@pytest.mark.parametrize(
    ("family", "host", "name"),
    [(socket.AF_INET, "127.0.0.1", "ipv4:127.0.0.1"), (socket.AF_INET6, "::1", "ipv6:%5B::1%5D")],
)
def test_accepted_connections_are_found_and_ended(family: socket.AddressFamily, host: str, name: str) -> None:
    with contextlib.ExitStack() as stack:
        try:
            listener = stack.enter_context(socket.create_server((host, 0), family=family))
        except OSError:
            pytest.skip("this machine has no such address")
        port = listener.getsockname()[1]
        client = stack.enter_context(socket.create_connection((host, port)))
        accepted = stack.enter_context(listener.accept()[0])
        before = len(os.listdir(sockets.TABLE))
        table = ConnectionTable(port)
        peers = [f"{name}:{client.getsockname()[1]}"]
        assert table.peers() == table.peers() == peers
        table.end(peers)
        assert client.recv(1) == b"" and accepted.recv(1) == b""
        assert len(os.listdir(sockets.TABLE)) == before
        accepted.close()
        assert table.peers() == []
