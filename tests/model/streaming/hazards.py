"""Copies with every delay that the interface allows, and a log from which mistakes in their order can be read.

Nothing here sleeps or depends on a clock: a copy that is early runs when it is started, one that is late when it is
waited for, and those of a thread when a seeded coin says so.
"""

from __future__ import annotations

import queue
import random
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Literal

import torch
from torch import nn

from zoetrope.model.network.arrivals import Arrivals

_Job = tuple[threading.Event, threading.Event, torch.Tensor, torch.Tensor]  # due, done, host, slab
Timing = Literal["early", "late", "thread"]
POISON = 0xFF  # four of these bytes are NaN in float32, two in bfloat16, one in e4m3


@dataclass(frozen=True)
class Event:
    """``what``: mark, copy, wait, enter, leave or drain. ``number``: of the mark or copy. ``slab``, ``host``: where a
    copy goes to and comes from. ``after``: the mark that it waits for."""

    what: str
    number: int = -1
    slab: int = 0
    host: int = 0
    after: int | None = None


@dataclass
class HazardCopies:
    """A `model.streaming.copies.SlabCopies` on the CPU."""

    timing: Timing = "late"
    seed: int = 0
    log: list[Event] = field(default_factory=list)
    fails: Callable[[int], bool] = lambda number: False
    _numbers: int = 0
    _due: dict[int, threading.Event] = field(default_factory=dict)
    _done: dict[int, threading.Event] = field(default_factory=dict)
    _queue: queue.Queue[tuple[threading.Event, threading.Event, torch.Tensor, torch.Tensor]] = field(
        default_factory=queue.Queue
    )

    def __post_init__(self) -> None:
        self._coin = random.Random(self.seed)
        threading.Thread(target=self._work, daemon=True).start()

    def mark(self) -> int:
        self._flip()
        return self._note("mark")

    def copy(self, host: torch.Tensor, slab: torch.Tensor, after: Any) -> int:
        self._flip()
        number = self._note("copy", slab=slab.data_ptr(), host=host.data_ptr(), after=after)
        if self.fails(number):
            raise RuntimeError("the copy engine is lost")
        due, done = self._due[number], self._done[number] = threading.Event(), threading.Event()
        self._queue.put((due, done, host, slab))
        if self.timing == "early":
            self._finish(number)
        return number

    def wait(self, copied: Any) -> None:
        self._finish(copied)
        self.log.append(Event("wait", copied))

    def drain(self, seconds: float) -> bool:
        for number in list(self._due):
            self._finish(number)
        self.log.append(Event("drain"))
        return True

    def _finish(self, number: int) -> None:
        """Let all copies up to this one run, and wait for it."""
        for other in [other for other in self._due if other <= number]:
            self._due.pop(other).set()
        assert self._done[number].wait(60)

    def _flip(self) -> None:
        if self.timing == "thread":
            for due in self._due.values():
                if self._coin.random() < 0.5:
                    due.set()

    def _work(self) -> None:
        while True:
            due, done, host, slab = self._queue.get()
            due.wait()
            slab[: len(host)].copy_(host)
            done.set()

    def _note(self, what: str, **fields: Any) -> int:
        self._numbers += 1
        self.log.append(Event(what, self._numbers, **fields))
        return self._numbers


class Watched:
    """Arrivals that log when a layer computes, and poison its memory as soon as it has computed: whoever reads it
    before it was copied again gets NaN."""

    def __init__(self, inner: Arrivals, copies: HazardCopies, streamed: list[nn.Module]) -> None:
        self._inner, self._copies = inner, copies
        self._streamed = set(streamed)
        self.poison = True

    @contextmanager
    def of(self, layer: nn.Module) -> Iterator[None]:
        with self._inner.of(layer):
            if layer not in self._streamed:
                yield
                return
            slab = next(layer.parameters()).untyped_storage()
            self._copies.log.append(Event("enter", id(layer), slab=slab.data_ptr()))
            try:
                yield
            finally:
                self._copies.log.append(Event("leave", id(layer), slab=slab.data_ptr()))
            if self.poison:
                torch.empty(0, dtype=torch.uint8).set_(slab).fill_(POISON)


def hazards(log: list[Event], host_of: dict[int, int]) -> list[str]:
    """Find what could go wrong on a device whose queues run apart. ``host_of``: by layer, where its bytes are.

    A layer reads a slab that another copy was started into, or whose copy nobody waited for; or a copy may overtake the
    computation with what its slab held before.
    """
    found: list[str] = []
    holds: dict[int, Event] = {}
    waited: set[int] = set()
    left: dict[int, int] = {}  # by slab, the first mark after the last layer left it; -1 before there is one
    inside: dict[int, int] = {}
    for event in log:
        if event.what == "copy":
            if inside.get(event.slab):
                found.append(f"copy {event.number} goes to a slab that is being read")
            if left.get(event.slab) and (event.after is None or not 0 < left[event.slab] <= event.after):
                found.append(f"copy {event.number} may overtake the layer that it replaces")
            holds[event.slab] = event
        elif event.what == "wait":
            waited.add(event.number)
        elif event.what == "mark":
            left = {slab: event.number if mark < 0 else mark for slab, mark in left.items()}
        elif event.what == "enter":
            inside[event.slab] = event.number
            copy = holds.get(event.slab)
            if copy is None or copy.host != host_of[event.number]:
                found.append("a layer reads what belongs to another")
            elif copy.number not in waited:
                found.append("a layer does not wait for its copy")
        elif event.what == "leave":
            inside[event.slab] = 0
            left[event.slab] = -1
    return found


def ahead(log: list[Event], host_of: dict[int, int]) -> list[bool]:
    """Tell of each layer that computed whether its copy had been started before the one before it began to."""
    entered = [(place, event) for place, event in enumerate(log) if event.what == "enter"]
    result = []
    for (before, _), (place, event) in pairwise(entered):
        starts = [
            at for at, other in enumerate(log[:place]) if other.what == "copy" and other.host == host_of[event.number]
        ]
        result.append(bool(starts) and starts[-1] < before)
    return result
