"""System call filter for a process that decodes an untrusted file; Linux on x86_64 and aarch64.

Source: the kernel's Documentation/userspace-api/seccomp_filter.rst; numbers from asm/unistd_64.h and
asm-generic/unistd.h.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import struct
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

PR_SET_SECCOMP: Final = 22
SECCOMP_MODE_FILTER: Final = 2


class SeccompAction(IntEnum):
    """What the kernel does with a call."""

    KILL = 0x8000_0000  # the whole process
    EPERM = 0x0005_0000 | errno.EPERM  # the call fails
    ENOSYS = 0x0005_0000 | errno.ENOSYS
    ALLOW = 0x7FFF_0000


@dataclass(frozen=True)
class Machine:
    """The kernel's audit number of an architecture, and its column in `CALLS`."""

    audit: int
    column: int


MACHINES: Final = {"x86_64": Machine(0xC000_003E, 0), "aarch64": Machine(0xC000_00B7, 1)}

# Read, write and map open files; memory; clocks; exit. None takes a path, an address or another process's id.
CALLS: Final[dict[str, tuple[int, int]]] = {
    "read": (0, 63),
    "write": (1, 64),
    "readv": (19, 65),
    "writev": (20, 66),
    "pread64": (17, 67),
    "pwrite64": (18, 68),
    "preadv": (295, 69),
    "preadv2": (327, 286),
    "lseek": (8, 62),
    "fstat": (5, 80),
    "close": (3, 57),
    "brk": (12, 214),
    "munmap": (11, 215),
    "mremap": (25, 216),
    "madvise": (28, 233),
    "futex": (202, 98),
    "membarrier": (324, 283),
    "rseq": (334, 293),
    "set_robust_list": (273, 99),
    "rt_sigaction": (13, 134),
    "rt_sigprocmask": (14, 135),
    "rt_sigreturn": (15, 139),
    "sigaltstack": (131, 132),
    "restart_syscall": (219, 128),
    "sched_yield": (24, 124),
    "sched_getaffinity": (204, 123),
    "nanosleep": (35, 101),
    "clock_nanosleep": (230, 115),
    "clock_gettime": (228, 113),
    "clock_getres": (229, 114),
    "gettimeofday": (96, 169),
    "getpid": (39, 172),
    "gettid": (186, 178),
    "getrandom": (318, 278),
    "getrusage": (98, 165),
    "sysinfo": (99, 179),
    "exit": (60, 93),
    "exit_group": (231, 94),
}
MAPPING: Final = {"mmap": (9, 222), "mprotect": (10, 226)}  # allowed without PROT_EXEC
CLONE: Final = (56, 220)  # allowed for threads
CLONE3: Final = (435, 435)  # filters cannot see its flags; libraries fall back to clone
TGKILL: Final = (234, 131)  # allowed within the process, for abort()

PROT_EXEC: Final = 4
# CLONE_VM, _FS, _FILES, _SIGHAND, _THREAD, _SYSVSEM, _SETTLS, _PARENT_SETTID, _CHILD_CLEARTID, _DETACHED
THREAD_FLAGS: Final = 0x7D_0F00
CLONE_THREAD: Final = 0x1_0000

# struct seccomp_data: int nr; u32 arch; u64 instruction_pointer; u64 args[6], little-endian on both machines.
NR: Final = 0
ARCH: Final = 4
ARGUMENT: Final = (16, 24, 32)

LOAD: Final = 0x20  # BPF_LD | BPF_W | BPF_ABS
AND: Final = 0x54  # BPF_ALU | BPF_AND | BPF_K
IF_EQUAL: Final = 0x15  # BPF_JMP | BPF_JEQ | BPF_K
RETURN: Final = 0x06  # BPF_RET | BPF_K


class Unsupported(OSError):
    """There is no filter for this architecture."""


def instruction(code: int, operand: int, then: int = 0, otherwise: int = 0) -> bytes:
    """Pack a struct sock_filter; a comparison skips ``then`` or ``otherwise`` instructions."""
    return struct.pack("=HBBI", code, then, otherwise, operand & 0xFFFF_FFFF)


def program(machine: Machine, pid: int, threads: bool) -> bytes:
    """Assemble the filter in classic BPF.

    Args:
        pid: the process to filter.
        threads: whether it may start threads.
    """
    here = machine.column
    code = [
        instruction(LOAD, ARCH),
        instruction(IF_EQUAL, machine.audit, 1, 0),
        instruction(RETURN, SeccompAction.KILL),  # a 32-bit call, whose numbers mean other calls
        instruction(LOAD, NR),
    ]
    for numbers in CALLS.values():
        code += [instruction(IF_EQUAL, numbers[here], 0, 1), instruction(RETURN, SeccompAction.ALLOW)]
    for numbers in MAPPING.values():
        code += when(numbers[here], [instruction(LOAD, ARGUMENT[2]), instruction(AND, PROT_EXEC), *only_if(0)])
    code += when(TGKILL[here], [instruction(LOAD, ARGUMENT[0]), *only_if(pid)])
    if threads:
        flags = [instruction(LOAD, ARGUMENT[0]), instruction(AND, CLONE_THREAD)]
        flags += [instruction(IF_EQUAL, CLONE_THREAD, 1, 0), instruction(RETURN, SeccompAction.EPERM)]
        flags += [instruction(LOAD, ARGUMENT[0]), instruction(AND, ~THREAD_FLAGS), *only_if(0)]
        code += when(CLONE[here], flags)
        code += when(CLONE3[here], [instruction(RETURN, SeccompAction.ENOSYS)])
    return b"".join([*code, instruction(RETURN, SeccompAction.EPERM)])


def when(number: int, code: list[bytes]) -> list[bytes]:
    """Run ``code``, which must return, for one system call."""
    return [instruction(IF_EQUAL, number, 0, len(code)), *code]


def only_if(value: int) -> list[bytes]:
    """Allow the call if the loaded value is ``value``, else fail it."""
    return [
        instruction(IF_EQUAL, value, 0, 1),
        instruction(RETURN, SeccompAction.ALLOW),
        instruction(RETURN, SeccompAction.EPERM),
    ]


def restrict_calls(threads: bool) -> None:
    """Permanently restrict this process to the calls that `program` allows; requires no_new_privs.

    Raises:
        Unsupported: another architecture. OSError: the kernel refuses.
    """
    machine = MACHINES.get(platform.machine())
    if machine is None:
        raise Unsupported(errno.ENOSYS, f"there is no filter for {platform.machine()}")
    install(program(machine, os.getpid(), threads))


def install(code: bytes) -> None:
    """Permanently install a filter on this process and its descendants.

    Raises:
        OSError: the kernel refuses.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    buffer = ctypes.create_string_buffer(code, len(code))
    # struct sock_fprog: unsigned short len; struct sock_filter *filter
    header = struct.pack("@HP", len(code) // 8, ctypes.addressof(buffer))
    if libc.prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.c_char_p(header), 0, 0):
        code_of = ctypes.get_errno()
        raise OSError(code_of, os.strerror(code_of))
