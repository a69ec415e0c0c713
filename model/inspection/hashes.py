"""Hash whole files (SHA-256), each once: hashes of large ones are kept in the user's cache. Needs no torch.

A hash stands for a file's path, inode, size and times of change. Weights have tens of gigabytes, so that the first
start with them takes some seconds more; later ones look the hashes up.
"""

from __future__ import annotations

import fcntl
import hashlib
import logging
import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Lock, get_native_id

from zoetrope.model.inspection.files import ModelError

KEPT_BYTES = 16 << 20  # a smaller file is hashed anew by each process
CHUNK_BYTES = 8 << 20
THREADS = 4  # files that are read at a time
NICENESS = 10  # by which these threads are nicer than others
SHA256 = re.compile(r"[0-9a-f]{64}")
log = logging.getLogger("zoetrope.model")

OnHashed = Callable[[int, int], None]


def ignore_hashed(done: int, total: int) -> None:
    """Do nothing: for callers that show no progress."""


def hashes_folder() -> Path:
    """Return the folder in which hashes are kept: ``zoetrope/hashes`` in the user's cache (XDG_CACHE_HOME)."""
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(os.path.expanduser(base)) / "zoetrope" / "hashes"


def hashes_of(paths: Sequence[Path], on_hashed: OnHashed = ignore_hashed) -> list[str]:
    """Return the SHA-256 of each file, in hexadecimal digits.

    Args:
        on_hashed: called with (bytes read, bytes to read in total) while large files are hashed; never if all are
            known.

    Raises:
        ModelError: one cannot be read, or changes meanwhile.
    """
    unknown = _unknown(paths)
    if any(stamp_of(path).size >= KEPT_BYTES for path in unknown):
        with _alone():
            _hash_all(_unknown(unknown), on_hashed)  # another process may have hashed some meanwhile
    else:
        _hash_all(unknown, ignore_hashed)
    return [_known(stamp_of(path)) or _hash(path, lambda _: None) for path in paths]


def read_ahead(paths: Sequence[Path]) -> None:
    """Have the system read files into its cache whose hashes are known, so that they are there when they are loaded:
    others get there while they are hashed. It is a hint, and raises nothing."""
    for path in paths:
        with suppress(OSError, ModelError):
            if sys.platform == "linux" and _known(stamp_of(path)) is not None:
                with path.open("rb") as file:
                    os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_WILLNEED)


def remember(path: Path, digest: str) -> None:
    """Keep the SHA-256 of a file that the caller has just hashed. Raises ModelError if it cannot be read."""
    _remember(stamp_of(path), digest)


@dataclass(frozen=True)
class Stamp:
    """What a file's hash stands for: as long as all of it is the same, so are the file's bytes."""

    path: str
    inode: int
    size: int
    modified: int
    changed: int

    @property
    def entry(self) -> Path:
        """The file in which its hash is kept."""
        return hashes_folder() / hashlib.sha256(repr(self).encode()).hexdigest()


_memory: dict[Stamp, str] = {}  # of this process


def stamp_of(path: Path) -> Stamp:
    """Return what the hash of a file stands for. Raises ModelError if it cannot be read."""
    try:
        place = os.path.realpath(path)
        info = os.stat(place)
    except (OSError, ValueError) as error:
        raise _unreadable(path, error) from None
    return Stamp(place, info.st_ino, info.st_size, info.st_mtime_ns, info.st_ctime_ns)


def _known(stamp: Stamp) -> str | None:
    if stamp not in _memory and stamp.size >= KEPT_BYTES:
        try:
            text = stamp.entry.read_text(encoding="ascii").strip()
        except (OSError, ValueError):
            return None
        if SHA256.fullmatch(text):
            _memory[stamp] = text
    return _memory.get(stamp)


def _unknown(paths: Sequence[Path]) -> list[Path]:
    return [path for path in dict.fromkeys(paths) if _known(stamp_of(path)) is None]


def _hash_all(paths: Sequence[Path], on_hashed: OnHashed) -> None:
    total, done, lock = sum(stamp_of(path).size for path in paths), 0, Lock()

    def read(size: int) -> None:
        nonlocal done
        with lock:
            done += size
            on_hashed(done, total)

    if total >= KEPT_BYTES:
        log.info("hashing %.1f GB of files, once", total / 1e9)
    with ThreadPoolExecutor(THREADS, "hash", _stand_back) as pool:
        list(pool.map(lambda path: _hash(path, read), paths))


def _stand_back() -> None:
    """Let other threads have a core before this one: hashes are wanted last of all that a start does."""
    if sys.platform == "linux":  # where the priority is the thread's own
        thread = get_native_id()
        with suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, thread, min(19, os.getpriority(os.PRIO_PROCESS, thread) + NICENESS))


def _hash(path: Path, on_read: Callable[[int], None]) -> str:
    stamp, digest = stamp_of(path), hashlib.sha256()
    buffer = bytearray(min(CHUNK_BYTES, stamp.size + 1))
    try:
        with path.open("rb", buffering=0) as file:
            left = stamp.size
            while left >= 0 and (size := file.readinto(buffer)):  # a file that grows does not keep it for ever
                digest.update(memoryview(buffer)[:size])
                left -= size
                on_read(size)
    except OSError as error:
        raise _unreadable(path, error) from None
    if stamp_of(path) != stamp:
        raise ModelError(f"{path}: has changed while it was read")
    _remember(stamp, digest.hexdigest())
    return digest.hexdigest()


def _remember(stamp: Stamp, digest: str) -> None:
    _memory[stamp] = digest
    if stamp.size >= KEPT_BYTES:
        _keep(stamp, digest)


def _keep(stamp: Stamp, digest: str) -> None:
    """Write an entry, whole or not at all."""
    entry = stamp.entry
    try:
        entry.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        work = entry.with_name(f".{entry.name}.{os.getpid()}")
        work.write_text(digest + "\n", encoding="ascii")
        work.replace(entry)
    except OSError as error:
        log.warning("hashes of weights cannot be kept in %s: %s; XDG_CACHE_HOME names it", entry.parent, error.strerror)


@contextmanager
def _alone() -> Iterator[None]:
    """Wait until no other process of this user hashes: a gang's ranks read the same files."""
    try:
        hashes_folder().mkdir(mode=0o700, parents=True, exist_ok=True)
        file = (hashes_folder() / "lock").open("w")
    except OSError:  # the warning follows when hashes cannot be kept
        yield
        return
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
        except OSError:  # a file system without locks
            log.debug("hashes: no locks in %s", hashes_folder())
        yield


def _unreadable(path: Path, error: Exception) -> ModelError:
    reason = error.strerror if isinstance(error, OSError) else str(error)
    return ModelError(f"{path}: cannot be read: {reason}")
