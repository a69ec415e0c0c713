"""Drop a process's privileges: network, root directory, user, capabilities."""

from __future__ import annotations

import ctypes
import errno
import os
import struct
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Final

CLONE_NEWIPC: Final = 0x0800_0000
CLONE_NEWUSER: Final = 0x1000_0000
CLONE_NEWNET: Final = 0x4000_0000
CAPABILITY_VERSION_3: Final = 0x2008_0522

# Numbers of the capabilities needed to become another user, and to kill a process that has.
CAP_KILL, CAP_SETGID, CAP_SETUID = 5, 6, 7
# First of the ids we use if all ids exist: beyond those of people, systems and containers (systemd.io/UIDS-GIDS:
# unclaimed from 1879048192 on).
FIRST_USER: Final = 2_000_000_000
MAX_PIDS: Final = 1 << 22  # the kernel's limit


@dataclass(frozen=True)
class Rights:
    """The privileges of a process at the start.

    Attributes:
        user: effective user id.
        capabilities: bit set of the effective capabilities.
        users, groups: ids that exist in the user namespace, as (first, count) pairs.
    """

    user: int
    capabilities: int
    users: tuple[tuple[int, int], ...]
    groups: tuple[tuple[int, int], ...]

    @classmethod
    def read(cls) -> Rights:
        """Read the privileges of this process."""
        status = Path("/proc/self/status").read_text().splitlines()
        capabilities = next(line for line in status if line.startswith("CapEff:")).split()[1]
        return cls(os.geteuid(), int(capabilities, 16), _ids("uid_map"), _ids("gid_map"))

    @property
    def can_change_user(self) -> bool:
        """Tell whether the process can become another user."""
        return all(self.capabilities >> number & 1 for number in (CAP_KILL, CAP_SETGID, CAP_SETUID))


def leave_network(rights: Rights) -> str:
    """Move to a network namespace without interfaces.

    If that is not permitted directly, a new user namespace is used, except by a process that can change its user: that
    is worth more, and impossible afterwards.

    Returns:
        A note for `Layer`.

    Raises:
        OSError: the kernel does not permit it.
    """
    try:
        _unshare(CLONE_NEWNET | CLONE_NEWIPC)
    except OSError:
        if rights.can_change_user:
            raise
        _unshare(CLONE_NEWUSER | CLONE_NEWNET | CLONE_NEWIPC)
        return "by a user namespace"
    return ""


def change_root() -> None:
    """Change the root to an empty, deleted directory, in which nothing can be created.

    Raises:
        OSError: the process is not root in its user namespace, or there is no temporary directory.
    """
    path = tempfile.mkdtemp(prefix="zoetrope-")
    try:
        os.chdir(path)
    finally:
        os.rmdir(path)
    os.chroot(".")


def change_user(rights: Rights) -> str:
    """Switch to a user id that no other process has.

    Returns:
        A note for `Layer`, with the id.

    Raises:
        OSError: the process lacks root's privileges, or there is no spare id.
    """
    if not rights.can_change_user:
        raise OSError(errno.EPERM, "only root can become another user")
    user, group = own_id(rights.users, os.getpid()), own_id(rights.groups, os.getpid())
    if user is None or group is None:
        raise OSError(errno.EINVAL, "the user namespace has no spare user id")
    os.setgroups([])
    os.setresgid(group, group, group)
    os.setresuid(user, user, user)
    return f"id {user}"


def own_id(ids: tuple[tuple[int, int], ...], pid: int) -> int | None:
    """Choose an id for a process, different for each process on the machine if there are enough; None if there is none.

    Args:
        ids: existing ids, as (first, count) pairs.
    """
    for first, count in ids:
        if first <= FIRST_USER and first + count >= FIRST_USER + MAX_PIDS:
            return FIRST_USER + pid
    first, count = max(ids, key=lambda pair: pair[1], default=(0, 0))
    # From the upper half, except the last two ids, one of which is customarily nobody's.
    spare = count // 2 - 2
    return first + count - 3 - pid % spare if spare > 0 else None


def drop_capabilities() -> None:
    """Drop all capabilities, root's as well as those gained in a new namespace.

    Raises:
        OSError: the kernel does not permit it.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    _check(libc.capset(struct.pack("Ii", CAPABILITY_VERSION_3, 0), bytes(24)))


def _unshare(flags: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    _check(libc.unshare(flags))


def _check(result: int) -> None:
    if result:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


def _ids(name: str) -> tuple[tuple[int, int], ...]:
    lines = Path("/proc/self", name).read_text().splitlines()
    return tuple((int(first), int(count)) for first, _, count in map(str.split, lines))
