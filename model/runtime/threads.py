"""Share the cores with other processes' threads. Needs no torch: it must run before torch is imported."""

from __future__ import annotations

import os
from collections.abc import MutableMapping

# libgomp reads these once, when torch loads it. By default its idle threads spin for some milliseconds (300,000 turns)
# before they sleep: on busy cores they use up the time slices of the thread that they wait for, and a small model
# becomes five times slower. Sleeping at once makes it up to two times slower on idle cores.
WAITING = {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "20000"}
SMALL_DIM = 512
VARIABLE = "ZOETROPE_THREADS"


def wait_passively(environment: MutableMapping[str, str] = os.environ) -> None:
    """Make idle threads of this process and its children sleep soon, unless the environment says otherwise. Has no
    effect once torch is loaded."""
    if not WAITING.keys() & environment.keys():
        environment.update(WAITING)


def usable_cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def compute_threads(dim: int) -> int:
    """Return the number of threads for a network of width ``dim`` on the CPU.

    ZOETROPE_THREADS, if set. Otherwise one core is left to the rest of a service (router, gateways, encoders, the
    database), and a small network gets one thread: its operations are as short as a hand-over to another core, which
    may be busy.

    Raises:
        ValueError: the variable is not a number of threads.
    """
    told = os.environ.get(VARIABLE, "").strip() or "0"
    if not told.isdecimal():
        raise ValueError(f"{VARIABLE} is {told!r}, give a number of threads, or 0 for as many as suit the model")
    if int(told):
        return int(told)
    return 1 if dim < SMALL_DIM else max(1, usable_cores() - 1)
