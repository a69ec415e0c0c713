"""When a call is tried again: the one policy of the client."""

from __future__ import annotations

import random
import time
from enum import Enum

from zoetrope.serving.client.types import ClientError

FIRST_PAUSE_SECONDS = 0.1
MAX_PAUSE_SECONDS = 1.0
BRIEF_SECONDS = 1.0  # a gateway that is replaced answers again within it


class Retry(Enum):
    """How long a call is repeated while the service is UNAVAILABLE."""

    NEVER = "never"  # the call may have been carried out, and a second one would do something else
    BRIEFLY = "briefly"  # for `BRIEF_SECONDS`
    UNTIL_RESTARTED = "until restarted"  # for the client's ``retry_seconds``


class Backoff:
    """Decides whether and when to repeat a call; time counts from the first of several failures in a row."""

    def __init__(self, unavailable_seconds: float, refused_seconds: float) -> None:
        """
        Args:
            unavailable_seconds: how long to repeat a call that fails with UNAVAILABLE.
            refused_seconds: how long to repeat one that the service refuses with RESOURCE_EXHAUSTED or UNAVAILABLE
                while naming a time for the next try.
        """
        self._unavailable = unavailable_seconds
        self._refused = refused_seconds
        self.reset()

    def reset(self) -> None:
        """Start anew: the service answered."""
        self._since: float | None = None
        self._next = FIRST_PAUSE_SECONDS

    def pause(self, error: ClientError) -> float:
        """Return the seconds to wait before the next try.

        Pauses grow at random up to `MAX_PAUSE_SECONDS`; a time that the service names is kept, plus up to a fifth of
        it, so that clients told the same do not return at the same moment.

        Raises:
            ClientError: ``error`` itself, if a repetition cannot help or the time is up.
        """
        now = time.monotonic()
        self._since = now if self._since is None else self._since
        named = error.retry_seconds
        allowed = self._unavailable if error.code == "UNAVAILABLE" else 0.0
        if named is not None and error.code in ("UNAVAILABLE", "RESOURCE_EXHAUSTED"):
            allowed = max(allowed, self._refused)
        left = self._since + allowed - now
        if left <= 0 or (named is not None and named > left):
            raise error
        if named is not None:
            return min(named * random.uniform(1.0, 1.2), left)
        pause = self._next
        self._next = random.uniform(FIRST_PAUSE_SECONDS, min(MAX_PAUSE_SECONDS, 3 * pause))
        return min(pause, left)
