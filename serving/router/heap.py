"""Keeps Python's collections of garbage short, however many jobs are in memory."""

from __future__ import annotations

import gc

SETTLED = 1_000  # new jobs after which those that are there count as long-lived


class Heap:
    """What is long-lived is exempt from collections, which would go through all of it again and again, with 100,000
    jobs for half a second, in which no engine gets a plan. It is still freed as soon as nothing refers to it; only what
    refers to itself in a circle stays, until `tidy`."""

    def __init__(self) -> None:
        self._new = 0
        self._exempt = 0

    def put(self, jobs: int = 1) -> None:
        """Learn of new jobs in memory; every so many times, exempt all that is there."""
        self._new += jobs
        if self._new >= SETTLED:
            self._exempt += self._new
            self._new = 0
            gc.freeze()

    def tidy(self, *, always: bool = False) -> None:
        """Look for garbage among everything, if anything was exempted since the last time or ``always``, and exempt
        what stays. It may take a second, so it is for the start and for times in which there is nothing to do."""
        if self._exempt or always:
            self._exempt = self._new = 0
            gc.unfreeze()
            gc.collect()
            gc.freeze()
