"""The gRPC server's connections: bounded in number, for each address and each key.

gRPC accepts them by itself, knows no limit but one for all, and tells nobody of those on which no call has come yet.
What it holds can be seen in the process's table of files, and ended from there.
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
MAX_STRANGERS = 256  # of one address, over which no admitted call has come yet
MAX_KNOWN = 500  # of one key, or one address where no keys are asked for
MAX_ALL = 2_000  # beyond which strangers go, wherever they are; gRPC itself takes no more than 3,000
MAX_REFUSED = 50  # calls without a key that is good, until their connection is ended
TABLE = "/proc/self/fd"


@dataclass
class _Peer:
    first_seen: int  # which look it was
    name: str = ""  # under which its callers are counted; "" of a stranger
    refused: int = 0


class Sockets:
    """One per gateway. `run` looks; peers are named as grpc does, ``ipv4:192.0.2.1:50000``."""

    def __init__(self) -> None:
        self._peers: dict[str, _Peer] = {}
        self._look = 0

    def admitted(self, peer: str, name: str) -> None:
        """A call was."""
        self._peer(peer).name = name

    def refused(self, peer: str) -> None:
        """A call was, for want of a key."""
        self._peer(peer).refused += 1

    async def run(self, port: int) -> None:
        """Until cancelled; does nothing where the system has no such table.

        Args:
            port: at which the server listens.
        """
        table = Table(port)
        while os.path.isdir(TABLE):
            peers = await asyncio.to_thread(table.peers)
            gone = self.too_many(peers)
            if gone:
                await asyncio.to_thread(table.end, gone)
            await asyncio.sleep(LOOK_SECONDS)

    async def end_all(self, port: int) -> None:
        """End every connection at a port; none where the system has no such table."""
        if os.path.isdir(TABLE):
            table = Table(port)
            table.end(await asyncio.to_thread(table.peers))

    def too_many(self, peers: list[str]) -> list[str]:
        """Of all there are those that have to go, the oldest first."""
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


class Table:
    """This process's connections that were accepted at a port. Looks at each only once."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._peers: dict[str, str | None] = {}  # of sockets by their number in the system; None of others
        self._files: dict[str, int] = {}  # by peer

    def peers(self) -> list[str]:
        """Of all that there are now."""
        known, files = {}, {}
        for name in os.listdir(TABLE):
            with suppress(OSError):  # it is closed already
                target = os.readlink(f"{TABLE}/{name}")
                if target.startswith("socket:"):
                    peer = known[target] = self._peers[target] if target in self._peers else self._peer_of(int(name))
                    if peer is not None:
                        files[peer] = int(name)
        self._peers, self._files = known, files
        return list(files)

    def end(self, peers: list[str]) -> None:
        """End connections, but leave it to their owner to close them."""
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
    """Its peer's; None where it is no connection at that port."""
    try:
        if connection.family not in (socket.AF_INET, socket.AF_INET6) or connection.getsockname()[1] != port:
            return None
        host, peer_port = connection.getpeername()[:2]
    except OSError:  # it listens
        return None
    host = host.removeprefix("::ffff:")
    return f"ipv6:{quote(f'[{host}]', safe=':')}:{peer_port}" if ":" in host else f"ipv4:{host}:{peer_port}"
