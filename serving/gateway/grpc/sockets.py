"""Bound the number of the gRPC server's connections, by address and by key.

gRPC accepts connections itself, has only one limit for all of them, and does not report those without a call. This
module finds them in the process's table of open files, and shuts them down from there.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections import defaultdict
from contextlib import suppress
from dataclasses import dataclass
from urllib.parse import quote

LOOK_SECONDS = 0.5
MAX_STRANGERS = 256  # connections of one address without an authenticated call so far
MAX_KNOWN = 500  # connections of one key; of one address if the service asks for no keys
MAX_ALL = 2_000  # connections beyond which strangers are disconnected; gRPC itself accepts at most 3,000
MAX_REFUSED = 50  # calls without a valid key after which their connection is shut down
TABLE = "/proc/self/fd"


@dataclass
class _Peer:
    first_seen: int  # number of the look
    name: str = ""  # of the caller that its calls count for; empty for a stranger
    refused: int = 0


class Sockets:
    """The connections of one gateway, watched by `run`. Peers have gRPC's names, such as ``ipv4:192.0.2.1:50000``."""

    def __init__(self) -> None:
        self._peers: dict[str, _Peer] = {}
        self._look = 0

    def authenticated(self, peer: str, name: str) -> None:
        """Record that a call of ``name`` came from this peer."""
        self._peer(peer).name = name

    def refused(self, peer: str) -> None:
        """Count a call without a valid key from this peer."""
        self._peer(peer).refused += 1

    async def run(self, port: int) -> None:
        """Shut down surplus connections until cancelled; do nothing without /proc.

        Args:
            port: on which the server listens.
        """
        table = ConnectionTable(port)
        while os.path.isdir(TABLE):
            peers = await asyncio.to_thread(table.peers)
            gone = self.surplus(peers)
            if gone:
                await asyncio.to_thread(table.end, gone)
            await asyncio.sleep(LOOK_SECONDS)

    async def end_all(self, port: int) -> None:
        """Shut down every connection of a port; none without /proc."""
        if os.path.isdir(TABLE):
            table = ConnectionTable(port)
            table.end(await asyncio.to_thread(table.peers))

    def surplus(self, peers: list[str]) -> list[str]:
        """Return the connections to shut down, the oldest first."""
        self._look += 1
        groups: defaultdict[tuple[bool, str], list[str]] = defaultdict(list)
        gone: list[str] = []
        for name in peers:
            peer = self._peer(name)
            if peer.refused >= MAX_REFUSED and not peer.name:
                gone.append(name)
            else:
                groups[peer.name != "", peer.name or name.rpartition(":")[0]].append(name)
        for (known, _), members in groups.items():
            members.sort(key=lambda name: self._peers[name].first_seen)
            gone += members[: max(0, len(members) - (MAX_KNOWN if known else MAX_STRANGERS))]
        strangers = sorted(
            (name for name in peers if not self._peers[name].name and name not in gone),
            key=lambda name: self._peers[name].first_seen,
        )
        gone += strangers[: max(0, len(peers) - len(gone) - MAX_ALL)]
        here = set(peers)
        self._peers = {  # one that called since the look is kept for the next one
            name: peer for name, peer in self._peers.items() if name in here or peer.first_seen == self._look
        }
        return gone

    def _peer(self, name: str) -> _Peer:
        if (found := self._peers.get(name)) is None:
            found = self._peers[name] = _Peer(self._look)
        return found


class ConnectionTable:
    """Find the connections that this process has accepted on a port. Each is examined only once."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._peers: dict[str, str | None] = {}  # of sockets by their number in the system; None of others
        self._files: dict[str, int] = {}  # by peer

    def peers(self) -> list[str]:
        """Return the peers of all open connections."""
        known, files = {}, {}
        for name in os.listdir(TABLE):
            with suppress(OSError):  # already closed
                target = os.readlink(f"{TABLE}/{name}")
                if target.startswith("socket:"):
                    peer = known[target] = self._peers[target] if target in self._peers else self._peer_of(int(name))
                    if peer is not None:
                        files[peer] = int(name)
        self._peers, self._files = known, files
        return list(files)

    def end(self, peers: list[str]) -> None:
        """Shut connections down; their owner closes them."""
        for peer in peers:
            with suppress(OSError), _duplicate(self._files[peer]) as connection:
                if _name(connection, self._port) == peer:  # and not another one that took the file's number
                    connection.shutdown(socket.SHUT_RDWR)

    def _peer_of(self, file: int) -> str | None:
        with _duplicate(file) as connection:
            return _name(connection, self._port)


def _duplicate(file: int) -> socket.socket:
    return socket.socket(fileno=os.dup(file))


def _name(connection: socket.socket, port: int) -> str | None:
    """Return the peer's name; None if the socket is not a connection of that port."""
    try:
        if connection.family not in (socket.AF_INET, socket.AF_INET6) or connection.getsockname()[1] != port:
            return None
        host, peer_port = connection.getpeername()[:2]
    except OSError:  # a listening socket
        return None
    host = host.removeprefix("::ffff:")
    return f"ipv6:{quote(f'[{host}]', safe=':')}:{peer_port}" if ":" in host else f"ipv4:{host}:{peer_port}"
