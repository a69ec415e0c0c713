"""Rights that a process can give up: namespaces, the root directory, its user, capabilities."""

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

# By number: who has these can become another user, and still end the process that has become one.
CAP_KILL, CAP_SETGID, CAP_SETUID = 5, 6, 7
# Where users of our own begin if all ids are there to be taken: beyond those of people, of systems and of containers.
# (systemd.io/UIDS-GIDS: from 1879048192 on nobody claims any.)
FIRST_USER: Final = 2_000_000_000
MAX_PIDS: Final = 1 << 22  # of a kernel


@dataclass(frozen=True)
class Rights:
    """What a process has to begin with.

    Attributes:
        user: its effective id. capabilities: effective ones, a bit each. users, groups: the ids that exist in its user
            namespace, as pairs of first and count.
    """

    user: int
    capabilities: int
    users: tuple[tuple[int, int], ...]
    groups: tuple[tuple[int, int], ...]

    @classmethod
    def read(cls) -> Rights:
        """Read those of this process."""
        status = Path("/proc/self/status").read_text().splitlines()
        capabilities = next(line for line in status if line.startswith("CapEff:")).split()[1]
        return cls(os.geteuid(), int(capabilities, 16), _ids("uid_map"), _ids("gid_map"))

    @property
    def can_change_user(self) -> bool:
        return all(self.capabilities >> number & 1 for number in (CAP_KILL, CAP_SETGID, CAP_SETUID))


def leave_network(rights: Rights) -> str:
    """Move to a network without interfaces. Who is not allowed to gets there by a user namespace of its own, except who
    can become another user, which is worth more and then no longer possible.

    Returns:
        How.

    Raises:
        OSError: the kernel does not allow it.
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
    """Take a directory for the root that is empty and gone, so that nothing can be made in it either.

    Raises:
        OSError: this takes root, of a user namespace at least; or there is no temporary directory.
    """
    path = tempfile.mkdtemp(prefix="zoetrope-")
    try:
        os.chdir(path)
    finally:
        os.rmdir(path)
    os.chroot(".")


def change_user(rights: Rights) -> str:
    """Become a user that nobody else is.

    Returns:
        Which.

    Raises:
        OSError: this takes the rights of root.
    """
    if not rights.can_change_user:
        raise OSError(errno.EPERM, "only root can become another user")
    user, group = own_id(rights.users, os.getpid()), own_id(rights.groups, os.getpid())
    if user is None or group is None:
        raise OSError(errno.EINVAL, "there is one user alone in this user namespace")
    os.setgroups([])
    os.setresgid(group, group, group)
    os.setresuid(user, user, user)
    return f"id {user}"


def own_id(ids: tuple[tuple[int, int], ...], pid: int) -> int | None:
    """Choose an id that a process may take for itself, each process of the machine another one where there are enough.

    Args:
        ids: that exist, as pairs of first and count.
    """
    for first, count in ids:
        if first <= FIRST_USER and first + count >= FIRST_USER + MAX_PIDS:
            return FIRST_USER + pid
    first, count = max(ids, key=lambda pair: pair[1], default=(0, 0))
    # The upper half but for the last two, of which one is nobody's by custom.
    spare = count // 2 - 2
    return first + count - 3 - pid % spare if spare > 0 else None


def drop_capabilities() -> None:
    """Give up all, those of root as well as those that a namespace of our own gave.

    Raises:
        OSError: the kernel does not allow it.
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
