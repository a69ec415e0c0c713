"""Host memory for slabs: page-locked where there is a GPU, so that copies run beside the computation at full speed."""

from __future__ import annotations

import re
import resource
from pathlib import Path

import torch

from zoetrope.model.inspection.files import ModelError
from zoetrope.model.streaming.slab import aligned

GIB = 1 << 30
LARGEST = 16 * GIB  # of one allocation
SHARE = 0.9  # of the free memory that may be page-locked: the rest of the system needs some
CGROUP = Path("/sys/fs/cgroup")
# Limit, use, what it is made of, and there the files that were read, of versions 2 and 1.
LIMITS = (
    ("memory.max", "memory.current", "memory.stat", r"^(?:in)?active_file (\d+)$"),
    (
        "memory/memory.limit_in_bytes",
        "memory/memory.usage_in_bytes",
        "memory/memory.stat",
        r"^total_(?:in)?active_file (\d+)$",
    ),
)


class HostMemory:
    """Slabs in few large allocations.

    torch rounds page-locked allocations up to powers of two, which for slabs one by one could waste almost half: so
    these are powers of two, each with as many slabs as it holds.
    """

    def __init__(self, expected: int, pinned: bool) -> None:
        """``expected``: bytes of all slabs together; more can be taken."""
        self._pinned = pinned
        self._expected = expected
        self._free: list[torch.Tensor] = []
        self.taken = 0
        self.allocated = 0

    def take(self, size: int) -> torch.Tensor:
        """Return a slab ``[size]`` uint8.

        Raises:
            ModelError: the system refuses to lock so much memory.
        """
        size = aligned(size)
        place = next((number for number, part in enumerate(self._free) if len(part) >= size), None)
        if place is None:
            self._free.append(self._allocate(allocation(size, self._expected - self.taken)))
            place = len(self._free) - 1
        part = self._free[place]
        self._free[place] = part[size:]
        self.taken += size
        return part[:size]

    def _allocate(self, size: int) -> torch.Tensor:
        try:
            with torch.inference_mode(False):
                made = torch.empty(size, dtype=torch.uint8, pin_memory=self._pinned)
        except RuntimeError as error:
            reason = " ".join(str(error).split())[:200]
            raise ModelError(
                f"offload: {_gib(size)} GiB of host memory for streamed weights cannot be had, beside "
                f"{_gib(self.allocated)} GiB so far: {reason}{self._locked_limit(size)}"
            ) from None
        self.allocated += size
        return made

    def _locked_limit(self, size: int) -> str:
        """Say how much this process may lock, if that is less; most drivers do not ask."""
        limit = resource.getrlimit(resource.RLIMIT_MEMLOCK)[0]
        if not self._pinned or limit == resource.RLIM_INFINITY or limit >= self.allocated + size:
            return ""
        return f"; this process may lock {limit / GIB:.3g} GiB (RLIMIT_MEMLOCK): raise it with ulimit -l unlimited"


def allocation(size: int, left: int) -> int:
    """Return the bytes to allocate next, a power of two, if a slab of ``size`` is wanted and ``left`` bytes of slabs
    with it."""
    least = 1 << max(0, size - 1).bit_length()
    whole = 1 << max(0, left.bit_length() - 1)
    return max(least, min(whole, LARGEST))


def check_host(need: int, sharers: int = 1) -> None:
    """Check that streamed weights fit into this machine's memory, before any is read.

    Args:
        need: bytes of one rank. sharers: ranks on this machine that need as much each.

    Raises:
        ModelError: they do not.
    """
    free = free_memory()
    if need * sharers <= SHARE * free:
        return
    each = f"{sharers} ranks of {_gib(need)} GiB each" if sharers > 1 else f"{_gib(need)} GiB"
    raise ModelError(
        f"offload: streamed weights need {each} of page-locked host memory, {_gib(free)} GiB are free and at most "
        f"{SHARE:.0%} of that can be locked; --quantize fp8 needs about half"
    )


def free_memory() -> int:
    """Return the bytes of host memory that this process can still take: the machine's, or its container's if fewer.

    A container's use counts the files that it has read, such as weights that were hashed; these make room.
    """
    import psutil  # bare machines lack it, and stream nothing

    free = int(psutil.virtual_memory().available)
    for limit, used, parts, files in LIMITS:
        try:
            left = int((CGROUP / limit).read_text()) - int((CGROUP / used).read_text())
            caches = re.findall(files, (CGROUP / parts).read_text(), re.MULTILINE)
        except (OSError, ValueError):  # no such file, or "max"
            continue
        free = min(free, left + sum(map(int, caches)))
    return max(0, free)


def _gib(size: int) -> str:
    return f"{size / GIB:.1f}"
