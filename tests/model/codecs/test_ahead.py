"""Streams that are read ahead: in order, so many at a time, with their exceptions."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from zoetrope.model.codecs.ahead import read_ahead

LONG = 20.0  # seconds; only a failure waits


@pytest.mark.parametrize("at_once", [1, 2, 3, 9])
def test_items_come_in_order(at_once: int) -> None:
    streams = [iter(range(number, number + 5)) for number in range(6)]
    found = [list(stream) for stream in read_ahead(streams, at_once)]
    assert found == [list(range(number, number + 5)) for number in range(6)]


def test_so_many_are_read_at_a_time() -> None:
    begun = [threading.Event() for _ in range(4)]

    def stream(number: int) -> Iterator[int]:
        begun[number].set()
        yield number

    found = read_ahead([stream(number) for number in range(4)], 2)
    first = next(found)
    assert begun[1].wait(LONG), "beside the first, which nobody has asked yet"
    assert not begun[0].is_set() and not begun[2].is_set()
    assert list(first) == [0]
    assert list(next(found)) == [1] and begun[2].wait(LONG) and not begun[3].is_set()


def test_an_exception_comes_where_it_belongs() -> None:
    def broken() -> Iterator[int]:
        yield 1
        raise ValueError("broken")

    found = read_ahead([iter([0]), broken()], 2)
    assert list(next(found)) == [0]
    second = next(found)
    assert next(second) == 1
    for _ in range(2):
        with pytest.raises(ValueError, match="broken"):
            next(second)


def test_abandoned_streams_end() -> None:
    closed, go = threading.Event(), threading.Event()

    def endless() -> Iterator[int]:
        try:
            while True:
                go.wait(LONG)
                yield 1
        finally:
            closed.set()

    found = read_ahead([iter([0]), endless()], 2)
    next(found)
    found.close()  # type: ignore[attr-defined]  # a generator
    go.set()
    assert closed.wait(LONG)
