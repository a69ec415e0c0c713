"""Values that the processes of a machine or pod share: files in one folder, which each of them can show to others."""

from __future__ import annotations

import logging
import os
import re
from contextlib import suppress
from pathlib import Path

from prometheus_client import values

DIRECTORY = "ZOETROPE_METRICS_DIR"
THEIRS = "PROMETHEUS_MULTIPROC_DIR"  # where prometheus_client looks; set in our processes only, not in Ray's own
KEPT_FILES = 600  # of processes that have ended, about 64 KiB each on disk; their counts are part of the sums
PROCESS = re.compile(r"_(\d+)\.db")
log = logging.getLogger("zoetrope.metrics")


def directory() -> Path | None:
    """Return the folder; None: each process shows only its own values."""
    place = os.environ.get(DIRECTORY, "")
    return Path(place) if place else None


def start_sharing(default: Path) -> None:
    """Have the processes that this one starts share values, in ``default`` unless the environment names a folder. What
    an earlier service left there is deleted."""
    found = directory() or default
    os.environ[DIRECTORY] = str(found)
    for path in found.glob("*.db"):
        path.unlink(missing_ok=True)


def share_values() -> None:
    """Keep the values of metrics that are made from now on in the folder, if there is one. A killed process loses
    none: what it counted is in the files."""
    found = directory()
    if found is None:
        return
    try:
        found.mkdir(mode=0o700, parents=True, exist_ok=True)
        usable = os.access(found, os.W_OK)
    except OSError:
        usable = False
    if not usable:  # to be seen less is better than not to start
        log.warning("%s: %s cannot be written, so this process tells only its own counts", DIRECTORY, found)
        os.environ[DIRECTORY] = ""
        return
    os.environ[THEIRS] = str(found)
    values.ValueClass = values.MultiProcessValue()  # type: ignore[no-untyped-call]


def forget_oldest(kept: int = KEPT_FILES) -> int:
    """Delete the oldest files of processes that have ended, beyond so many; returns how many files were deleted."""
    found = directory()
    if found is None:
        return 0
    ended = []
    for path in found.glob("*.db"):
        match = PROCESS.search(path.name)
        with suppress(OSError):
            if match is not None and not Path(f"/proc/{match[1]}").exists():
                ended.append((path.stat().st_mtime, path))
    surplus = sorted(ended)[: max(0, len(ended) - kept)]
    for _, path in surplus:
        path.unlink(missing_ok=True)
    return len(surplus)
