"""Threads read ahead, in order, within a bound, and an error comes when its turn has come."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from functools import partial

import pytest

from zoetrope.model.checkpoints.read_ahead import Reading, read_ahead


@pytest.mark.parametrize("threads", [0, 1, 4])
def test_everything_comes_in_order(threads: int) -> None:
    wanted = (Reading(1, partial(int, number), anywhere=number % 3 > 0) for number in range(50))
    assert list(read_ahead(wanted, threads)) == list(range(50))


def test_what_is_bound_to_a_thread_is_read_there() -> None:
    here = threading.get_ident()
    wanted = [Reading(1, threading.get_ident, anywhere=number % 2 > 0) for number in range(10)]
    found = list(read_ahead(wanted, 2))
    assert set(found[::2]) == {here}
    assert here not in found[1::2]


def test_no_more_is_on_its_way_than_there_is_room_for() -> None:
    started: list[int] = []

    def wanted() -> Iterator[Reading[int]]:
        for number in range(20):
            started.append(number)
            yield Reading(10, partial(int, number))

    reading = read_ahead(wanted(), 3, room=40)
    for number in range(20):
        assert next(reading) == number
        assert len(started) <= number + 4 + 1  # what is held, and the one that waits for room
    assert list(reading) == []


def test_one_larger_than_the_room_is_read_alone() -> None:
    assert list(read_ahead([Reading(100, lambda: "large"), Reading(1, lambda: "small")], 2, room=10)) == [
        "large",
        "small",
    ]


def test_an_error_comes_in_its_turn_and_ends_the_rest() -> None:
    def fail() -> int:
        raise OSError("it ends within weight")

    reading = read_ahead([Reading(1, lambda: 1), Reading(1, fail), Reading(1, lambda: 3)], 2)
    assert next(reading) == 1
    with pytest.raises(OSError, match="ends within weight"):
        next(reading)
    assert list(reading) == []


def test_who_stops_taking_leaves_no_thread_behind() -> None:
    before = threading.active_count()
    reading = read_ahead((Reading(1, lambda: 1) for _ in range(100)), 4)
    next(reading)
    reading.close()
    assert threading.active_count() == before
