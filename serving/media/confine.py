"""What a process gives up, in layers, before it touches a file from outside. Linux; standard library only.

Layers do not rely on each other, and most machines lack some: containers refuse namespaces, old kernels Landlock, and
only root can hand out user ids. `FLOOR` is what has to hold for files from outside to be decoded at all.

There are two processes. The one that `Confinement.enter` works on never sees such a file. It has its child do that,
one for each file, which `Confinement.enter_request` takes the rest from: system calls, and a claim to more than the
request's memory and time. A child that is led astray can reach neither it nor the next.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import resource
import signal
import socket
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from serving.media import landlock
from serving.media.privileges import Rights, change_root, change_user, drop_capabilities, leave_network
from serving.media.seccomp import restrict_calls

PR_SET_PDEATHSIG: Final = 1
PR_SET_DUMPABLE: Final = 4
PR_SET_NO_NEW_PRIVS: Final = 38
MAX_CPUS: Final = 4
MAX_FILES: Final = 64
MAX_TASKS: Final = 64  # processes and threads of one worker


@dataclass(frozen=True)
class Layer:
    """One thing that keeps a worker in, and whether it holds here. ``note``: how, or why not."""

    name: str
    holds: bool
    note: str = ""

    def __str__(self) -> str:
        return f"{self.name} ({self.note})" if self.note else self.name


NO_NEW_PRIVILEGES: Final = "no new privileges"
CALLS: Final = "system call filter"
CAPABILITIES: Final = "no capabilities"
LIMITS: Final = "hard limits"
LANDLOCK: Final = "Landlock"
LANDLOCK_TCP: Final = "Landlock for TCP"
LANDLOCK_SCOPES: Final = "Landlock for signals"
EMPTY_ROOT: Final = "empty root directory"
NAMESPACES: Final = "network namespace"
OWN_USER: Final = "user of its own"

# All of the first, and one of the second: what keeps files away if the filter should have a hole.
FLOOR: Final = ((NO_NEW_PRIVILEGES, CALLS, CAPABILITIES, LIMITS), (LANDLOCK, EMPTY_ROOT))


def lacking(layers: Collection[Layer]) -> list[str]:
    """Name what the floor asks for and is not there, in words; where that is nothing, files can be decoded."""
    holding = {layer.name for layer in layers if layer.holds}
    every, either = FLOOR
    lacks = [str(layer) for layer in layers if layer.name in every and not layer.holds]
    lacks += [name for name in every if name not in {layer.name for layer in layers}]
    if not holding & set(either):
        lacks.append(" and ".join(str(layer) for layer in layers if layer.name in either) or " and ".join(either))
    return lacks


@dataclass(frozen=True)
class Limits:
    """Of one request.

    Attributes:
        memory_bytes: of address space. seconds: of wall time and of processor time. file_bytes: that may be written.
    """

    memory_bytes: int
    seconds: float
    file_bytes: int


class Confinement:
    """Of this process and its children."""

    def __init__(self) -> None:
        self.layers: list[Layer] = []
        self._counted_apart = False  # processes and threads, from those of others
        self._exempt = os.geteuid() == 0  # the kernel does not limit the processes of root
        self._load = -1

    def enter(self, parent: int, hard_memory_bytes: int) -> None:
        """Confine this process for good, while it has one thread; `layers` says what came of it.

        Args:
            parent: process id of who started this one and whose death is to end it.
            hard_memory_bytes: of address space; no request can have more.
        """
        self._load = os.open("/proc/loadavg", os.O_RDONLY | os.O_CLOEXEC)
        with contextlib.suppress(OSError):  # where memory runs out, it shall end a worker
            Path("/proc/self/oom_score_adj").write_text("1000")
        rights = Rights.read()
        self._layer(NO_NEW_PRIVILEGES, lambda: _prctl(PR_SET_NO_NEW_PRIVS, 1))
        self._layer(NAMESPACES, lambda: leave_network(rights))
        self._layer(EMPTY_ROOT, change_root)
        if self._layer(OWN_USER, lambda: change_user(rights)):
            self._exempt = False
        self._landlock()
        self._layer(CAPABILITIES, drop_capabilities)
        self._layer(LIMITS, lambda: self._limit(hard_memory_bytes))
        _prctl(PR_SET_DUMPABLE, 0)
        die_with(parent)
        self._layer(CALLS, self._try_filter)

    def stand_by(self, parent: int, keep: int) -> None:
        """Prepare this process, a child of a confined one, for a file to come.

        Args:
            keep: the one descriptor that stays open, beside the standard ones.
        """
        die_with(parent)
        for descriptor in {*range(3, MAX_FILES)} - {keep, self._load}:
            with contextlib.suppress(OSError):
                os.close(descriptor)

    def enter_request(self, limits: Limits) -> None:
        """Confine this process, which stood by, for its file.

        Raises:
            OSError: the kernel does not do what it did at the start. No file may be looked at then.
        """
        tasks, threads = self._tasks()
        os.close(self._load)
        _lower(resource.RLIMIT_NPROC, tasks)
        _lower(resource.RLIMIT_AS, limits.memory_bytes)
        _lower(resource.RLIMIT_FSIZE, limits.file_bytes)
        seconds = int(limits.seconds) + 1
        _lower(resource.RLIMIT_CPU, seconds, seconds + 1)  # SIGXCPU at the first, SIGKILL at the second
        signal.setitimer(signal.ITIMER_REAL, limits.seconds)
        if any(layer.name == CALLS and layer.holds for layer in self.layers):
            restrict_calls(threads)

    def _layer(self, name: str, step: Callable[[], str | None]) -> bool:
        try:
            note = step()
        except OSError as error:
            self.layers.append(Layer(name, False, error.strerror or str(error)))
            return False
        self.layers.append(Layer(name, True, note or ""))
        return True

    def _landlock(self) -> None:
        try:
            abi = landlock.restrict_self()
        except OSError as error:
            names = (LANDLOCK, LANDLOCK_TCP, LANDLOCK_SCOPES)
            self.layers += [Layer(name, False, error.strerror or str(error)) for name in names]
            return
        self.layers.append(Layer(LANDLOCK, True, f"version {abi}"))
        for name, least in ((LANDLOCK_TCP, landlock.TCP_ABI), (LANDLOCK_SCOPES, landlock.SCOPES_ABI)):
            self.layers.append(Layer(name, abi >= least, "" if abi >= least else f"needs version {least}"))

    def _limit(self, hard_memory_bytes: int) -> str:
        # Decoders start a thread for each processor that they see, and each takes memory.
        cpus = sorted(os.sched_getaffinity(0))
        first = os.getpid() % len(cpus)
        os.sched_setaffinity(0, (cpus[first:] + cpus[:first])[:MAX_CPUS])
        for limit in (resource.RLIMIT_CORE, resource.RLIMIT_MEMLOCK, resource.RLIMIT_MSGQUEUE):
            _lower(limit, 0)
        _lower(resource.RLIMIT_NOFILE, MAX_FILES)
        _lower(resource.RLIMIT_AS, hard_memory_bytes)
        self._counted_apart = not self._exempt and self._is_counted_apart()
        if self._exempt:
            return "no threads, which the kernel does not limit for root"
        return "threads counted apart" if self._counted_apart else "threads counted with those of the same user"

    def _is_counted_apart(self) -> bool:
        """Find out whether the kernel counts this process apart from who started it, so that there may be two."""
        soft, hard = resource.getrlimit(resource.RLIMIT_NPROC)
        resource.setrlimit(resource.RLIMIT_NPROC, (2 if hard == resource.RLIM_INFINITY else min(2, hard), hard))
        try:
            return _child(lambda: True)
        except OSError:
            return False
        finally:
            resource.setrlimit(resource.RLIMIT_NPROC, (soft, hard))

    def _tasks(self) -> tuple[int, bool]:
        """Say how many processes and threads there may be of this user, and whether this process may start threads."""
        if self._exempt:
            return 0, False
        if self._counted_apart:
            return MAX_TASKS, True
        # As many as there are on the whole machine ("... RUNNING/ALL LAST"), which is at least as many as this user
        # has: with that many more, a process that starts threads without end takes no other's place.
        fields = os.pread(self._load, 100, 0).split()
        everybody = int(fields[3].partition(b"/")[2]) if len(fields) == 5 else 0
        return everybody + MAX_TASKS, everybody > 0

    def _try_filter(self) -> None:
        """Try the filter on a child.

        Raises:
            OSError: there is no filter, or it lets through what it should not.
        """
        threads, parent = self._tasks()[1], os.getpid()
        reading, writing = os.pipe()

        def attempt() -> bool:
            try:
                restrict_calls(threads)
            except OSError as error:
                os.write(writing, (error.strerror or "").encode())
                return False
            forbidden: list[Callable[[], object]] = [socket.socket, os.fork]
            forbidden += [lambda: os.open("/", os.O_RDONLY), lambda: os.kill(parent, 0)]
            return all(map(_refused, forbidden))

        try:
            held = _child(attempt)
        finally:
            os.close(writing)
            with open(reading, "rb") as pipe:
                reason = pipe.read().decode()
        if not held:
            raise OSError(errno.EPERM, reason or "it lets calls through")


def die_with(parent: int) -> None:
    """End this process when the thread that started it ends. Changes of the user undo this."""
    _prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it ended before
        os._exit(1)


def _prctl(option: int, value: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(option, ctypes.c_ulong(value), *[ctypes.c_ulong(0)] * 3):
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


def _lower(limit: int, soft: int, hard: int | None = None) -> None:
    """Set a limit so that it cannot be raised again; ``hard`` is ``soft`` by default, and never above what it was."""
    ceiling = resource.getrlimit(limit)[1]
    hard = soft if hard is None else hard
    if ceiling != resource.RLIM_INFINITY:
        soft, hard = min(soft, ceiling), min(hard, ceiling)
    resource.setrlimit(limit, (soft, hard))


def _child(check: Callable[[], bool]) -> bool:
    """Run ``check`` in a process of its own; its result."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            status = 0 if check() else 1
        finally:
            os._exit(status)
    return os.waitpid(pid, 0)[1] == 0


def _refused(attempt: Callable[[], object]) -> bool:
    try:
        attempt()
    except PermissionError:
        return True
    return False
