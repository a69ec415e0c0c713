"""Keep memory that was freed for the next step, on a CPU."""

from __future__ import annotations

import ctypes
import os

# Of glibc's mallopt: how much free memory at the end of the heap is kept, and from which size on an allocation gets a
# mapping of its own, which goes back when it is freed.
KEPT, MAPPED = 256 << 20, 32 << 20
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
VARIABLES = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES")


def keep_freed_memory() -> bool:
    """Have the C library keep up to `KEPT` bytes that this process frees, instead of giving them back to the system and
    taking as many anew in the next layer: every page of those costs a fault.

    Returns:
        Whether it does: not where one of `VARIABLES` says otherwise, nor in a C library that is not glibc.
    """
    if any(name in os.environ for name in VARIABLES):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return False
    return bool(mallopt(_MMAP_THRESHOLD, MAPPED)) and bool(mallopt(_TRIM_THRESHOLD, KEPT))
