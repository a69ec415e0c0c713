"""What the client does, as generators of steps that a driver carries out: one policy for the sync and the async client.

A flow yields a step and is sent its outcome, or has the error thrown into it. `serving.client` and
`serving.client.aio` drive flows; neither decides anything.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias, TypeVar

from serving.client.types import ClientError

CALL_SECONDS = 30.0
RETRY_PAUSE_SECONDS = 0.1
T = TypeVar("T")


@dataclass(frozen=True)
class Unary:
    """A call; its outcome is the answer."""

    method: str  # such as VideoService.CreateVideo
    message: Any
    seconds: float = CALL_SECONDS  # its deadline


@dataclass(frozen=True)
class Send:
    """A call that streams messages to the service; its outcome is the answer. The messages are made in any thread."""

    method: str
    messages: Callable[[], Iterator[Any]]


@dataclass(frozen=True)
class Open:
    """Start a call that the service answers with a stream; ends the one before."""

    method: str
    message: Any


@dataclass(frozen=True)
class Next:
    """The next message of the stream that is open; None at its end."""


@dataclass(frozen=True)
class Sleep:
    """A pause."""

    seconds: float


@dataclass(frozen=True)
class Off:
    """Something that takes a while on the disk or the processor; its outcome is what it returns."""

    run: Callable[[], Any]


@dataclass(frozen=True)
class Emit:
    """Something for the caller of an iterator."""

    item: Any


Step: TypeAlias = Unary | Send | Open | Next | Sleep | Off | Emit
Flow: TypeAlias = Generator[Step, Any, T]


class Patience:
    """Bears with a service that is away or refuses, each for a bounded time from the first failure in a row."""

    def __init__(self, away_seconds: float, refused_seconds: float) -> None:
        """
        Args:
            away_seconds: how long a service may be UNAVAILABLE.
            refused_seconds: how long it may refuse with RESOURCE_EXHAUSTED or UNAVAILABLE and a time for the next try.
        """
        self._away = away_seconds
        self._refused = refused_seconds
        self._since: float | None = None

    def succeeded(self) -> None:
        """It answered, so the time starts anew."""
        self._since = None

    def pause(self, error: ClientError) -> float:
        """The seconds to wait before the next try.

        Raises:
            ClientError: the error, when it is not worth it or the time is over.
        """
        now = time.monotonic()
        self._since = now if self._since is None else self._since
        told = error.retry_seconds
        bears = self._away if error.code == "UNAVAILABLE" else 0.0
        if told is not None and error.code in ("UNAVAILABLE", "RESOURCE_EXHAUSTED"):
            bears = max(bears, self._refused)
        # Those who were told the same time do not come back at the same moment.
        wait = RETRY_PAUSE_SECONDS if told is None else told * random.uniform(1.0, 1.2)
        left = self._since + bears - now
        if left <= 0 or (told is not None and told > left):
            raise error
        return min(wait, left)


def call(method: str, message: Any, patience: Patience, seconds: float = CALL_SECONDS) -> Flow[Any]:
    """A call that is repeated as long as the patience lasts."""
    while True:
        try:
            answer = yield Unary(method, message, seconds)
        except ClientError as error:
            yield Sleep(patience.pause(error))
        else:
            patience.succeeded()
            return answer


def advance(flow: Flow[T], outcome: Any, error: Exception | None) -> tuple[Step | None, T | None]:
    """For drivers: the next step and None, or None and what the flow returned."""
    try:
        return (flow.send(outcome) if error is None else flow.throw(error)), None
    except StopIteration as end:
        return None, end.value
