"""Landlock: forbid a process to open files, use TCP ports, and signal or trace outside processes.

Source: the kernel's Documentation/userspace-api/landlock.rst.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
from typing import Final

# The same numbers on all architectures.
CREATE_RULESET: Final = 444
RESTRICT_SELF: Final = 446
VERSION: Final = 1  # a flag: only return the version

# Access rights by the interface version that introduced them; naming unknown ones is an error.
FILES: Final = {1: 0x1FFF, 2: 0x3FFF, 3: 0x7FFF, 5: 0xFFFF}
TCP_ABI: Final = 4
TCP: Final = 0x3  # bind, connect
SCOPES_ABI: Final = 6
SCOPES: Final = 0x3  # abstract Unix sockets, signals


def version() -> int:
    """Return the version of the kernel's interface.

    Raises:
        OSError: the kernel has no Landlock, or forbids it.
    """
    return _call(CREATE_RULESET, None, 0, VERSION)


def ruleset(abi: int) -> bytes:
    """Pack a struct landlock_ruleset_attr that removes all rights known to an interface version."""
    attributes = struct.pack("=Q", next(rights for least, rights in reversed(FILES.items()) if abi >= least))
    if abi >= TCP_ABI:
        attributes += struct.pack("=Q", TCP)
    if abi >= SCOPES_ABI:
        attributes += struct.pack("=Q", SCOPES)
    return attributes


def restrict_self() -> int:
    """Permanently give up every right that Landlock controls; requires no_new_privs. Open files stay usable.

    Returns:
        The interface version: TCP is covered from TCP_ABI on, signals and abstract sockets from SCOPES_ABI on.

    Raises:
        OSError: the kernel has no Landlock, or refuses.
    """
    abi = version()
    attributes = ruleset(abi)
    descriptor = _call(CREATE_RULESET, attributes, len(attributes), 0)
    try:
        _call(RESTRICT_SELF, descriptor, 0)
    finally:
        os.close(descriptor)
    return abi


def _call(number: int, *arguments: bytes | int | None) -> int:
    libc = ctypes.CDLL(None, use_errno=True)
    passed = [ctypes.c_long(value) if isinstance(value, int) else ctypes.c_char_p(value) for value in arguments]
    result = int(libc.syscall(ctypes.c_long(number), *passed))
    if result < 0:
        code = ctypes.get_errno()
        reason = "the kernel has no Landlock" if code in (errno.ENOSYS, errno.EOPNOTSUPP) else os.strerror(code)
        raise OSError(code, reason)
    return result
