"""What a process gives up before it touches a file from outside. Linux; standard library only."""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import struct

PR_SET_PDEATHSIG = 1
PR_SET_DUMPABLE = 4
PR_SET_NO_NEW_PRIVS = 38
CLONE_NEWUSER = 0x10000000
CLONE_NEWNET = 0x40000000
CAPABILITY_VERSION_3 = 0x20080522
MAX_CPUS = 4
MAX_FILES = 64
MAX_PROCESSES = 64  # and threads, of a user namespace of our own


def confine(parent: int, hard_memory_bytes: int) -> list[str]:
    """Confine this process for good; for its first moments, while it has one thread.

    * It dies with the thread that started it, gains no privileges, leaves no core dump and cannot be traced.
    * Processors, memory, open files and, where the kernel counts them apart from other processes, threads are limited.
    * Where the kernel lets it, it moves to namespaces of its own: no network, no capabilities.

    Args:
        parent: process id of who started this one.
        hard_memory_bytes: of address space; `limit_request` can go lower.

    Returns:
        What the kernel did not allow, in words; the rest holds without it.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    missing = []
    libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:  # it died before the line above
        os._exit(1)
    if libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0):
        missing.append("no_new_privs")
    if not libc.unshare(CLONE_NEWUSER | CLONE_NEWNET):
        resource.setrlimit(resource.RLIMIT_NPROC, (MAX_PROCESSES, MAX_PROCESSES))
    elif libc.unshare(CLONE_NEWNET):
        missing.append("a network namespace")
    # All capabilities, those of root as well as those that a namespace of our own gave.
    if libc.capset(struct.pack("Ii", CAPABILITY_VERSION_3, 0), bytes(24)):
        missing.append("giving up capabilities")
    libc.prctl(PR_SET_DUMPABLE, 0, 0, 0, 0)
    # Decoders start a thread for each processor that they see, and each takes memory.
    cpus = sorted(os.sched_getaffinity(0))
    first = os.getpid() % len(cpus)
    os.sched_setaffinity(0, (cpus[first:] + cpus[:first])[:MAX_CPUS])
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_NOFILE, (MAX_FILES, MAX_FILES))
    resource.setrlimit(resource.RLIMIT_AS, (hard_memory_bytes, hard_memory_bytes))
    return missing


def limit_request(memory_bytes: int, seconds: float, file_bytes: int) -> None:
    """Limits of the next request: address space, processor time from now on, and the size of files written."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    spent = used.ru_utime + used.ru_stime
    _soft(resource.RLIMIT_CPU, int(spent + seconds) + 1)
    _soft(resource.RLIMIT_AS, memory_bytes)
    _soft(resource.RLIMIT_FSIZE, file_bytes)


def _soft(limit: int, value: int) -> None:
    hard = resource.getrlimit(limit)[1]
    resource.setrlimit(limit, (value if hard == resource.RLIM_INFINITY else min(value, hard), hard))
