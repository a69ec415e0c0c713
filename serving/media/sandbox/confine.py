"""Confine a process in independent layers before it reads an untrusted file. Linux; standard library only.

Most machines lack some layers: containers forbid namespaces, old kernels have no Landlock, and only root can change the
user. `FLOOR` lists what must hold for untrusted files to be decoded at all.

`Confinement.enter` confines the worker, which never reads such a file. For each file, the worker forks a child;
`Confinement.enter_request` further limits its system calls, memory and time. A child that a file takes over can reach
neither the worker nor the next child.
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

from zoetrope.serving.media.sandbox import landlock
from zoetrope.serving.media.sandbox.privileges import Rights, change_root, change_user, drop_capabilities, leave_network
from zoetrope.serving.media.sandbox.seccomp import restrict_calls

PR_SET_PDEATHSIG: Final = 1
PR_SET_DUMPABLE: Final = 4
PR_SET_NO_NEW_PRIVS: Final = 38
MAX_CPUS: Final = 4
MAX_FILES: Final = 64
MAX_TASKS: Final = 64  # processes and threads of one worker


@dataclass(frozen=True)
class Layer:
    """A layer of confinement and whether it holds on this machine. ``note``: how, or why not."""

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
OWN_USER: Final = "dedicated user"

# All of the first and one of the second group, which blocks access to files should the filter have a hole.
FLOOR: Final = ((NO_NEW_PRIVILEGES, CALLS, CAPABILITIES, LIMITS), (LANDLOCK, EMPTY_ROOT))


def lacking(layers: Collection[Layer]) -> list[str]:
    """Describe which layers of the floor are missing; if none are, untrusted files can be decoded."""
    holding = {layer.name for layer in layers if layer.holds}
    every, either = FLOOR
    lacks = [str(layer) for layer in layers if layer.name in every and not layer.holds]
    lacks += [name for name in every if name not in {layer.name for layer in layers}]
    if not holding & set(either):
        lacks.append(" and ".join(str(layer) for layer in layers if layer.name in either) or " and ".join(either))
    return lacks


@dataclass(frozen=True)
class ResourceLimits:
    """Limits of one request.

    Attributes:
        memory_bytes: address space.
        seconds: wall time and processor time.
        file_bytes: maximum size of the result.
    """

    memory_bytes: int
    seconds: float
    file_bytes: int


class Confinement:
    """The confinement of this process and its children."""

    def __init__(self) -> None:
        self.layers: list[Layer] = []
        self._counted_apart = False  # whether the kernel counts our processes and threads separately
        self._exempt = os.geteuid() == 0  # the kernel does not limit the number of root's processes
        self._load = -1

    def enter(self, parent: int, hard_memory_bytes: int) -> None:
        """Confine this process permanently; it must have a single thread. Sets `layers`.

        Args:
            parent: process id of the parent, whose death kills this process.
            hard_memory_bytes: maximum address space of any request.
        """
        self._load = os.open("/proc/loadavg", os.O_RDONLY | os.O_CLOEXEC)
        with contextlib.suppress(OSError):  # if memory runs out, kill a worker first
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
        """Prepare this process, a child of a confined one, to wait for a file.

        Args:
            keep: the only descriptor that stays open besides the standard ones.
        """
        die_with(parent)
        for descriptor in {*range(3, MAX_FILES)} - {keep, self._load}:
            with contextlib.suppress(OSError):
                os.close(descriptor)

    def enter_request(self, limits: ResourceLimits) -> None:
        """Apply the limits of a request to this process, which stood by.

        Raises:
            OSError: the kernel refuses what it allowed at the start; then no file may be read.
        """
        tasks, threads = self._tasks()
        os.close(self._load)
        _lower(resource.RLIMIT_NPROC, tasks)
        _lower(resource.RLIMIT_AS, limits.memory_bytes)
        _lower(resource.RLIMIT_FSIZE, limits.file_bytes)
        seconds = int(limits.seconds) + 1
        _lower(resource.RLIMIT_CPU, seconds, seconds + 1)  # SIGXCPU at the soft, SIGKILL at the hard limit
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
        # Decoders start a thread per visible processor, and each takes memory.
        cpus = sorted(os.sched_getaffinity(0))
        first = os.getpid() % len(cpus)
        os.sched_setaffinity(0, (cpus[first:] + cpus[:first])[:MAX_CPUS])
        for limit in (resource.RLIMIT_CORE, resource.RLIMIT_MEMLOCK, resource.RLIMIT_MSGQUEUE):
            _lower(limit, 0)
        _lower(resource.RLIMIT_NOFILE, MAX_FILES)
        _lower(resource.RLIMIT_AS, hard_memory_bytes)
        self._counted_apart = not self._exempt and self._is_counted_apart()
        if self._exempt:
            return "no threads: the kernel does not limit them for root"
        return "threads counted separately" if self._counted_apart else "threads counted with the user's others"

    def _is_counted_apart(self) -> bool:
        """Find out whether the kernel counts this process apart from its parent: whether it can fork under a limit of
        2."""
        soft, hard = resource.getrlimit(resource.RLIMIT_NPROC)
        resource.setrlimit(resource.RLIMIT_NPROC, (2 if hard == resource.RLIM_INFINITY else min(2, hard), hard))
        try:
            return _in_child(lambda: True)
        except OSError:
            return False
        finally:
            resource.setrlimit(resource.RLIMIT_NPROC, (soft, hard))

    def _tasks(self) -> tuple[int, bool]:
        """Return the limit on this user's processes and threads, and whether this process may start threads."""
        if self._exempt:
            return 0, False
        if self._counted_apart:
            return MAX_TASKS, True
        # The number on the whole machine (/proc/loadavg: "... RUNNING/ALL LAST") is an upper bound of this user's. With
        # MAX_TASKS more, a process that starts threads endlessly cannot use up those of others.
        fields = os.pread(self._load, 100, 0).split()
        on_machine = int(fields[3].partition(b"/")[2]) if len(fields) == 5 else 0
        return on_machine + MAX_TASKS, on_machine > 0

    def _try_filter(self) -> None:
        """Test the filter in a child.

        Raises:
            OSError: the filter cannot be installed, or lets forbidden calls through.
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
            held = _in_child(attempt)
        finally:
            os.close(writing)
            with open(reading, "rb") as pipe:
                reason = pipe.read().decode()
        if not held:
            raise OSError(errno.EPERM, reason or "it does not block forbidden calls")


def die_with(parent: int) -> None:
    """Kill this process when the thread that started it ends. A change of user undoes this."""
    _prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it has already ended
        os._exit(1)


def _prctl(option: int, value: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(option, ctypes.c_ulong(value), *[ctypes.c_ulong(0)] * 3):
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


def _lower(limit: int, soft: int, hard: int | None = None) -> None:
    """Lower a limit permanently. ``hard`` defaults to ``soft`` and never exceeds the current hard limit."""
    ceiling = resource.getrlimit(limit)[1]
    hard = soft if hard is None else hard
    if ceiling != resource.RLIM_INFINITY:
        soft, hard = min(soft, ceiling), min(hard, ceiling)
    resource.setrlimit(limit, (soft, hard))


def _in_child(check: Callable[[], bool]) -> bool:
    """Run ``check`` in a forked process; returns its result."""
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
