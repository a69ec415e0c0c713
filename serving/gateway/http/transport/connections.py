"""HTTP connections: bounded in number, for each address and each key; the idle ones make room for new ones."""

from __future__ import annotations

from typing import Protocol

MAX_STRANGERS = 256  # of one address, from which no authenticated request has come yet
MAX_KNOWN = 500  # of one key, or of one address if no keys are asked for
MAX_ALL = 3_000
STRANGER, KNOWN = "stranger ", "known "


class OpenConnection(Protocol):
    """A connection."""

    @property
    def idle(self) -> bool:
        """Whether it waits for a request."""
        ...

    def drop(self) -> None:
        """Close it at once."""
        ...


class Connections:
    """Bounds open connections by closing old ones: a probe, or a caller with a key, always gets in."""

    def __init__(self) -> None:
        self._group_of: dict[OpenConnection, str] = {}
        self._groups: dict[str, dict[OpenConnection, None]] = {}  # least recently heard of first

    def add(self, connection: OpenConnection, address: str) -> None:
        if len(self._group_of) >= MAX_ALL:
            # Of strangers, if there are any, and of those with the most.
            self._drop_one(max(self._groups, key=lambda name: (name.startswith(STRANGER), len(self._groups[name]))))
        self._join(connection, STRANGER + address, MAX_STRANGERS)

    def authenticated(self, connection: OpenConnection, name: str) -> None:
        """Count the connection as its caller's, whose name is a key's id or an address."""
        if connection in self._group_of and self._group_of[connection] != (group := KNOWN + name):
            self.remove(connection)
            self._join(connection, group, MAX_KNOWN)

    def heard(self, connection: OpenConnection) -> None:
        """Note that data came over the connection."""
        if (name := self._group_of.get(connection)) is not None:
            group = self._groups[name]
            del group[connection]
            group[connection] = None

    def remove(self, connection: OpenConnection) -> None:
        name = self._group_of.pop(connection, None)
        if name is not None:
            del self._groups[name][connection]
            if not self._groups[name]:
                del self._groups[name]

    def _join(self, connection: OpenConnection, name: str, most: int) -> None:
        if len(self._groups.get(name, ())) >= most:
            self._drop_one(name)
        self._group_of[connection] = name
        self._groups.setdefault(name, {})[connection] = None

    def _drop_one(self, name: str) -> None:
        group = self._groups[name]
        gone = next((one for one in group if one.idle), None) or next(iter(group))
        self.remove(gone)
        gone.drop()
