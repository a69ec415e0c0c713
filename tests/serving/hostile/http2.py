"""Just enough of HTTP/2 to send a server of gRPC what no client of gRPC would: messages that never end, above all."""

from __future__ import annotations

import asyncio
import contextlib
import struct
from collections.abc import Sequence

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RESET, SETTINGS, PING, GOAWAY, WINDOW = 0, 1, 3, 4, 6, 7, 8
END_STREAM, END_HEADERS, ACK = 1, 4, 1
INITIAL_WINDOW = 4
FRAME = 16_384


class Connection:
    """Keeps to what the server lets it send, and reads answers away."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, window: int = 65_535) -> None:
        """
        Args:
            window: that the server gets for each stream.
        """
        self._reader = reader
        self._writer = writer
        self._next = 1
        self._initial = 65_535
        self._windows = {0: 65_535}
        self._room = asyncio.Event()
        self.ended: set[int] = set()  # streams that the server has ended
        self.tasks: list[asyncio.Task[None]] = []  # that send
        self._task = asyncio.create_task(self._read())
        writer.write(PREFACE + frame(SETTINGS, 0, 0, struct.pack(">HI", INITIAL_WINDOW, window)))

    def open(self, path: str, key: str | None = None) -> int:
        """Begin a call; its stream."""
        stream, self._next = self._next, self._next + 2
        self._windows[stream] = self._initial
        headers = [(":method", "POST"), (":scheme", "http"), (":path", path), (":authority", "x"), ("te", "trailers")]
        headers += [("content-type", "application/grpc")]
        headers += [("authorization", f"Bearer {key}")] if key else []
        self._writer.write(frame(HEADERS, END_HEADERS, stream, pack(headers)))
        return stream

    async def send(self, stream: int, data: bytes, *, end: bool = False) -> None:
        """As fast as the server lets it; returns early where the server has ended the stream."""
        while data and stream not in self.ended:
            room = min(self._windows[0], self._windows[stream], FRAME, len(data))
            if room <= 0:
                self._room.clear()
                await self._room.wait()
                continue
            piece, data = data[:room], data[room:]
            self._windows[0] -= room
            self._windows[stream] -= room
            self._writer.write(frame(DATA, END_STREAM if end and not data else 0, stream, piece))
            await self._writer.drain()

    @property
    def closed(self) -> bool:
        return self._task.done()

    async def wait_closed(self) -> None:
        await asyncio.wait([self._task])

    async def until_ended(self, streams: Sequence[int]) -> None:
        """Until the server has ended these."""
        while not self.ended.issuperset(streams):
            self._room.clear()
            await self._room.wait()

    def close(self) -> None:
        for task in (self._task, *self.tasks):
            task.cancel()
        self._writer.close()

    async def _read(self) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            while True:
                head = await self._reader.readexactly(9)
                size, kind, flags = int.from_bytes(head[:3], "big"), head[3], head[4]
                stream = int.from_bytes(head[5:], "big") & 0x7FFFFFFF
                body = await self._reader.readexactly(size)
                self._take(kind, flags, stream, body)
        self.ended.update(self._windows)
        self._room.set()

    def _take(self, kind: int, flags: int, stream: int, body: bytes) -> None:
        if kind == SETTINGS and not flags & ACK:
            for at in range(0, len(body), 6):
                name, value = struct.unpack_from(">HI", body, at)
                if name == INITIAL_WINDOW:
                    grown, self._initial = value - self._initial, value
                    for one in self._windows.keys() - {0}:
                        self._windows[one] += grown
            self._writer.write(frame(SETTINGS, ACK, 0, b""))
        elif kind == PING and not flags & ACK:
            self._writer.write(frame(PING, ACK, 0, body))
        elif kind == WINDOW:
            self._windows[stream] = self._windows.get(stream, 0) + int.from_bytes(body, "big")
        elif kind == RESET or (kind in (HEADERS, DATA) and flags & END_STREAM):
            self.ended.add(stream)
        self._room.set()


def frame(kind: int, flags: int, stream: int, body: bytes) -> bytes:
    return len(body).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + body


def pack(headers: Sequence[tuple[str, str]]) -> bytes:
    """HPACK without a table: every header as it is."""
    return b"".join(b"\0" + _text(name) + _text(value) for name, value in headers)


def message(data: bytes, size: int | None = None) -> bytes:
    """With gRPC's prefix, which may announce more than there is."""
    return b"\0" + (len(data) if size is None else size).to_bytes(4, "big") + data


def _text(value: str) -> bytes:
    data = value.encode()
    assert len(data) < 127
    return bytes([len(data)]) + data


async def connect(address: str, window: int = 65_535) -> Connection:
    host, _, port = address.rpartition(":")
    return Connection(*await asyncio.open_connection(host, int(port)), window)
