"""Connections that are only held: they make room, and no probe is ever turned away."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

import pytest

from tests.serving.gateway.http.test_timeouts import server
from zoetrope.serving.gateway.http.transport import connections
from zoetrope.serving.gateway.http.transport.connections import Connections


@dataclass(eq=False)
class Line:
    idle: bool = True
    dropped: bool = field(default=False)

    def drop(self) -> None:
        self.dropped = True


@pytest.fixture(autouse=True)
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "MAX_STRANGERS", 3)
    monkeypatch.setattr(connections, "MAX_KNOWN", 4)
    monkeypatch.setattr(connections, "MAX_ALL", 6)


def opened(table: Connections, address: str, count: int) -> list[Line]:
    lines = [Line() for _ in range(count)]
    for line in lines:
        table.add(line, address)
    return lines


def test_the_one_that_was_idle_the_longest_goes() -> None:
    table = Connections()
    first, second, third = opened(table, "a", 3)
    first.idle = False
    table.heard(second)
    opened(table, "a", 1)
    assert [line.dropped for line in (first, second, third)] == [False, False, True]
    second.idle = False
    opened(table, "a", 1)
    assert not first.dropped and not second.dropped


def test_whoever_was_admitted_is_not_among_strangers() -> None:
    table = Connections()
    known = opened(table, "a", 3)
    for line in known:
        table.authenticated(line, "key")
    opened(table, "a", 10)
    assert not any(line.dropped for line in known)


def test_of_all_those_who_have_the_most_lose_one() -> None:
    table = Connections()
    known = opened(table, "a", 1) + opened(table, "b", 1)
    for line in known:
        table.authenticated(line, "key")
    crowd = opened(table, "c", 3)
    opened(table, "d", 1)
    opened(table, "e", 1)
    assert [line.dropped for line in (*known, *crowd)] == [False, False, True, False, False]


def test_one_that_ends_is_forgotten() -> None:
    table = Connections()
    for _ in range(20):
        (line,) = opened(table, "a", 1)
        table.remove(line)
        table.remove(line)
        assert not line.dropped


async def test_a_probe_gets_in_beside_any_number_of_idle_ones() -> None:
    async with server() as port:
        idle = [await asyncio.open_connection("127.0.0.1", port) for _ in range(20)]
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 1\r\n\r\n1")
        assert (await asyncio.wait_for(reader.read(4_096), 10)).startswith(b"HTTP/1.1 200")
        ended = [await asyncio.wait_for(_ends(one), 10) for one, _ in idle[:15]]
        assert all(ended)
        for _, other in (*idle, (reader, writer)):
            other.close()


async def _ends(reader: asyncio.StreamReader) -> bool:
    try:
        return await reader.read(1) == b""
    except ConnectionResetError:
        return True
