"""Read streams before they are asked for, several at a time."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from queue import SimpleQueue
from typing import Generic, TypeVar

T = TypeVar("T")


def read_ahead(streams: Sequence[Iterator[T]], at_once: int) -> Iterator[Iterator[T]]:
    """Yield the streams in order; while one is read, threads read the ``at_once - 1`` after it, to their ends.

    What they give waits in memory. A stream's exception is raised where the stream would have raised it.
    """
    started: list[_Ahead[T]] = []
    try:
        for number, stream in enumerate(streams):
            for following in streams[max(number + 1, len(started) + 1) : number + at_once]:
                started.append(_Ahead(following))
            yield started[number - 1] if 0 < number <= len(started) else stream
    finally:
        for ahead in started:
            ahead.stop()


class _Ahead(Generic[T]):
    """An iterator that a thread of its own reads ahead."""

    def __init__(self, stream: Iterator[T]) -> None:
        self._queue: SimpleQueue[tuple[T | None, BaseException | None]] = SimpleQueue()
        self._stopped = False
        threading.Thread(target=self._read, args=(stream,), name="read-ahead", daemon=True).start()

    def __iter__(self) -> Iterator[T]:
        return self

    def __next__(self) -> T:
        item, error = self._queue.get()
        if error is not None:
            self._queue.put((None, error))  # for whoever asks again
            raise error
        return item  # type: ignore[return-value]  # only beside an error it is None

    def stop(self) -> None:
        """Let the thread end at its next item."""
        self._stopped = True

    def _read(self, stream: Iterator[T]) -> None:
        try:
            for item in stream:
                self._queue.put((item, None))
                if self._stopped:
                    return
            self._queue.put((None, StopIteration()))
        except BaseException as error:
            self._queue.put((None, error))
