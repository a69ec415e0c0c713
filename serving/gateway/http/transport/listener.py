"""Accept HTTP connections: while the event loop has no time to spare, few of an unknown address."""

from __future__ import annotations

import os
import socket
import time
from typing import Any

from zoetrope.serving.gateway.auth.authenticator import TokenBucket
from zoetrope.serving.gateway.limits.pace import Pace

RATE, BURST = 20.0, 40.0  # connections of an address, in a second and at once, that are let in then
LOOKS = 64  # at connections, before the event loop goes on with what is there
MAX_ADDRESSES = 10_000


class PacedListener(socket.socket):
    """A listening socket. Turning a connection away costs a hundredth of answering one; open ones stay."""

    pace: Pace
    _buckets: dict[str, TokenBucket]

    @classmethod
    def of(cls, listener: socket.socket, pace: Pace) -> PacedListener:
        """Take a listening socket over."""
        family, kind, protocol = listener.family, listener.type, listener.proto
        paced = cls(family, kind, protocol, fileno=listener.detach())
        paced.pace, paced._buckets = pace, {}
        return paced

    def accept(self) -> tuple[socket.socket, Any]:
        """Return the next connection that is let in.

        Raises:
            BlockingIOError: none is there, or too many had to be turned away.
        """
        for _ in range(LOOKS):
            fd, address = self._accept()  # type: ignore[attr-defined]  # so does the method that this stands for
            if self._lets_in(address):
                return socket.socket(self.family, self.type, self.proto, fileno=fd), address
            os.close(fd)
        raise BlockingIOError

    def _lets_in(self, address: Any) -> bool:
        if not self.pace.saturated:
            self._buckets.clear()
            return True
        if self.pace.knows(str(address[0])):
            return True
        if len(self._buckets) >= MAX_ADDRESSES:
            self._buckets.clear()
        now = time.monotonic()
        bucket = self._buckets.setdefault(str(address[0]), TokenBucket(RATE, BURST, now))
        return bucket.acquire(now) == 0.0
