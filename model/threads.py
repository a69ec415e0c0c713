"""How a process's threads share the cores with others. Needs no torch, for it has to come before it."""

from __future__ import annotations

import os
from collections.abc import MutableMapping

# libgomp reads these once, when torch loads it. By default its idle threads spin for some milliseconds (300,000 turns)
# before they sleep: on cores that others want too, they use up the time slices that the thread they wait for needs, and
# a small model becomes five times slower. Sleeping at once makes it up to twice slower where nobody else is there.
WAITING = {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "20000"}
SMALL_DIM = 512
VARIABLE = "ZOETROPE_THREADS"


def wait_passively(environment: MutableMapping[str, str] = os.environ) -> None:
    """Have idle threads of this process and of those that it starts sleep soon, unless the environment says how they
    wait. Without effect on a process that has loaded torch already."""
    if not WAITING.keys() & environment.keys():
        environment.update(WAITING)


def usable_cores() -> int:
    """Cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def compute_threads(dim: int) -> int:
    """Threads of a process that computes on the CPU with a network of width ``dim``.

    What ZOETROPE_THREADS says, if it is set. Otherwise one core is left to the rest of a service (router, gateways,
    encoders, the database), and a small network has one thread: its operations are as short as the way to another core
    and back, which takes forever where that core is busy.

    Raises:
        ValueError: the variable is no number of threads.
    """
    told = os.environ.get(VARIABLE, "").strip() or "0"
    if not told.isdecimal():
        raise ValueError(f"{VARIABLE} is {told!r}, give a number of threads, or 0 for as many as suit the model")
    if int(told):
        return int(told)
    return 1 if dim < SMALL_DIM else max(1, usable_cores() - 1)
