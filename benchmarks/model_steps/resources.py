"""What a run takes of the machine: time and memory."""

from __future__ import annotations

import ctypes
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import torch

T = TypeVar("T")
STATUS, RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")
PEAK_ONLY = "5"  # to RESET: the peak starts again at what is used now


def clock(device: torch.device) -> float:
    """Return the time in seconds: once a GPU is idle, or the processor's of this process, all threads together."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        return time.perf_counter()
    return time.process_time()


def timed(device: torch.device, run: Callable[[], T]) -> tuple[float, T]:
    """Return the seconds of a call, and its result."""
    start = clock(device)
    result = run()
    return clock(device) - start, result


def working_bytes(device: torch.device, run: Callable[[], object]) -> int | None:
    """Return how many more bytes a call needs at its peak than are in use before it; None where that is not known.

    Of a GPU, what torch allocates; of a CPU, memory of this process, once what it had freed is given back.
    """
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        run()
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device) - before
    try:
        ctypes.CDLL(None).malloc_trim(0)
        RESET.write_text(PEAK_ONLY)
        before = _kib("VmRSS")
        run()
        return 1024 * max(0, _kib("VmHWM") - before)
    except (AttributeError, OSError, LookupError):  # another C library, or no Linux
        return None


def _kib(field: str) -> int:
    """Return a field of this process's status. Raises LookupError."""
    for line in STATUS.read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1])
    raise LookupError(field)
