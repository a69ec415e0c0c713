"""Machines that refuse what a media worker would be confined with, and a hostile worker on each of them.

``python -m tests.serving.media.sandbox.environments`` prints, as JSON, by the name of the environment: the layers that
hold, why no worker starts there (in which case it is started all the same, as --unsafe-media does), and what came of
each attack (`tests.serving.media.sandbox.hostile_worker`). It needs root to begin with. With arguments it runs
`zoetrope` with them, by anybody, where the kernel installs no filters.
"""

from __future__ import annotations

import ctypes
import json
import os
import platform
import socket
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tests.serving.media.files import write_picture
from tests.serving.media.sandbox.hostile_worker import TAKES_OVER, attempt
from zoetrope.serving.media.sandbox import worker_process
from zoetrope.serving.media.sandbox.seccomp import (
    ARGUMENT,
    IF_EQUAL,
    LOAD,
    MACHINES,
    NR,
    PR_SET_SECCOMP,
    RETURN,
    SeccompAction,
    install,
    instruction,
    when,
)
from zoetrope.serving.media.sandbox.worker_pool import WorkerPool
from zoetrope.serving.media.sandbox.worker_process import NotConfined

ROOT = Path(__file__).resolve().parents[4]
USER = 54_321
MEMORY_BYTES = 1 << 30
SECRET = "tr0ub4dor"
CLONE_NEWNS = 0x2_0000
MS_BIND, MS_REC, MS_PRIVATE = 0x1000, 0x4000, 0x4_0000
# x86_64, aarch64
UNSHARE, CHROOT, PRCTL, LANDLOCK = (272, 97), (161, 51), (157, 167), (444, 444)
libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True)
class Environment:
    """``namespaces``, ``landlock``, ``filters``: whether the kernel gives them; ``root``: who the service is."""

    name: str
    root: bool
    namespaces: bool = True
    landlock: bool = True
    filters: bool = True


ENVIRONMENTS = (
    Environment("root", root=True),
    Environment("root in a container", root=True, namespaces=False),
    Environment("root in a container, an old kernel", root=True, namespaces=False, landlock=False),
    Environment("a user", root=False),
    Environment("a user in a container", root=False, namespaces=False),
    Environment("a user in a container, an old kernel", root=False, namespaces=False, landlock=False),
    Environment("a user without filters", root=False, namespaces=False, filters=False),
)


def enter(environment: Environment) -> None:
    """Make this process, and all that it starts, be there."""
    if not environment.root:
        os.setgroups([])
        os.setresgid(USER, USER, USER)
        os.setresuid(USER, USER, USER)
        libc.prctl(4, 1, 0, 0, 0)  # dumpable, as a service of that user would be
    libc.prctl(38, 1, 0, 0, 0)  # no_new_privs, for the filter
    here = MACHINES[platform.machine()].column
    refused = [instruction(LOAD, NR)]
    if not environment.namespaces:
        refused += when(UNSHARE[here], [instruction(RETURN, SeccompAction.EPERM)])
        if not environment.root:
            refused += when(CHROOT[here], [instruction(RETURN, SeccompAction.EPERM)])
    if not environment.landlock:
        refused += when(LANDLOCK[here], [instruction(RETURN, SeccompAction.ENOSYS)])
    if not environment.filters:
        option = [instruction(LOAD, ARGUMENT[0]), instruction(IF_EQUAL, PR_SET_SECCOMP, 0, 1)]
        option += [instruction(RETURN, SeccompAction.EPERM), instruction(RETURN, SeccompAction.ALLOW)]
        refused += when(PRCTL[here], option)
    install(b"".join([*refused, instruction(RETURN, SeccompAction.ALLOW)]))


def hostile(environment: Environment | None) -> dict[str, Any]:
    """What a hostile worker does in an environment; None: what the same attacks do without any confinement."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        # Once a root directory is the worker's no more, so is the folder: names are made before.
        if environment is not None:
            os.chown(folder, *[0 if environment.root else USER] * 2)
            enter(environment)
        targets = _targets(folder, stack)
        path = folder / "file"
        path.write_bytes(b"x")
        if environment is None:
            os.chdir(folder)
            with path.open("r+b") as file:
                # Another program would not come back to tell.
                return {"outcomes": attempt(file.fileno(), targets, but=("run a program",))}
        worker_process.MODULE = "tests.serving.media.sandbox.hostile_worker"
        try:
            return _told(folder, path, targets, unsafe=False)
        except NotConfined as error:
            return {**_told(folder, path, targets, unsafe=True), "refused": str(error)}


def _told(folder: Path, path: Path, targets: dict[str, Any], *, unsafe: bool) -> dict[str, Any]:
    """What comes of a file that takes over its worker.

    Raises:
        NotConfined: there is no worker.
    """
    with closing(WorkerPool(1, MEMORY_BYTES, MEMORY_BYTES, 20.0, unsafe=unsafe)) as pool:

        def told(script: dict[str, Any]) -> dict[str, Any]:
            path.write_bytes(TAKES_OVER + json.dumps(script).encode())
            return pool.ask("probe_any", path, "it")

        outcomes = told({"attack": targets})
        files = sorted(file.name for file in folder.iterdir())
        threads = told({"threads": True})["threads"]
        return {
            "refused": None,
            "layers": [asdict(layer) for layer in pool.layers],
            "outcomes": outcomes,
            "files": files,
            "threads": threads,
            "everybody": int(Path("/proc/loadavg").read_text().split()[3].partition("/")[2]),
            "after": pool.ask("probe_any", write_picture(folder / "a.png"), "it")["container"],
        }


def _targets(folder: Path, stack: ExitStack) -> dict[str, Any]:
    """Everything that there is to attack."""
    for name in ("secret", "writable", "victim"):
        (folder / name).write_text(SECRET)
        (folder / name).chmod(0o600)
    victim = subprocess.Popen(["sleep", "600"], env={"PATH": os.defpath, "SECRET": SECRET})
    stack.callback(victim.wait)
    stack.callback(victim.kill)
    abstract = f"zoetrope-test-{os.getpid()}"
    tcp, udp, unix, nameless = (
        stack.enter_context(socket.socket(family, kind))
        for family, kind in (
            (socket.AF_INET, socket.SOCK_STREAM),
            (socket.AF_INET, socket.SOCK_DGRAM),
            (socket.AF_UNIX, socket.SOCK_STREAM),
            (socket.AF_UNIX, socket.SOCK_STREAM),
        )
    )
    tcp.bind(("127.0.0.1", 0))
    udp.bind(("127.0.0.1", 0))
    unix.bind(str(folder / "socket"))
    nameless.bind(b"\0" + abstract.encode())
    for listener in (tcp, unix, nameless):
        listener.listen(16)
    return {
        "secret": str(folder / "secret"),
        "writable": str(folder / "writable"),
        "folder": str(folder),
        "victim": victim.pid,
        "service": os.getpid(),
        "tcp": tcp.getsockname()[1],
        "udp": udp.getsockname()[1],
        "unix": str(folder / "socket"),
        "abstract": abstract,
    }


def open_ways(paths: Iterable[Path]) -> None:
    """Let everybody reach these folders, in a mount namespace of our own, past folders that only root may enter.

    Raises:
        OSError: namespaces are refused.
    """
    closed: dict[Path, list[Path]] = {}
    for path in paths:
        resolved = path.resolve()
        for above in reversed(resolved.parents):
            if not above.stat().st_mode & stat.S_IXOTH:
                closed.setdefault(above, []).append(above / resolved.relative_to(above).parts[0])
                break
    _call(libc.unshare, CLONE_NEWNS)
    _call(libc.mount, b"none", b"/", None, MS_REC | MS_PRIVATE, None)
    for above, below in closed.items():
        held = {path: os.open(path, os.O_PATH) for path in dict.fromkeys(below)}
        _call(libc.mount, b"none", bytes(above), b"tmpfs", 0, b"mode=755")
        for path, descriptor in held.items():
            path.mkdir()
            _call(libc.mount, b"/proc/self/fd/%d" % descriptor, bytes(path), None, MS_BIND | MS_REC, None)
            os.close(descriptor)


def _call(function: Callable[..., int], *arguments: Any) -> None:
    if function(*arguments):
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


def in_a_child(work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What ``work`` returns, or raises, in a process of its own."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            result = work()
        except BaseException as error:
            result = {"error": f"{type(error).__name__}: {error}"}
        os.write(writing, json.dumps(result).encode())
        os._exit(0)
    os.close(writing)
    with open(reading, "rb") as pipe:
        data = pipe.read()
    os.waitpid(child, 0)
    found: dict[str, Any] = json.loads(data)
    return found


def run() -> dict[str, dict[str, Any]]:
    """By environment, and "unconfined"."""
    results = {"unconfined": in_a_child(lambda: hostile(None))}
    try:
        open_ways([Path(sys.base_prefix), Path(sys.prefix), ROOT])
        environments = list(ENVIRONMENTS)
    except OSError:  # nobody but root can start Python then
        environments = [environment for environment in ENVIRONMENTS if environment.root]
    for environment in environments:
        results[environment.name] = in_a_child(lambda environment=environment: hostile(environment))  # type: ignore[misc]
    return results


if __name__ == "__main__":
    if len(sys.argv) > 1:
        enter(Environment("here", root=True, filters=False))
        os.execv(sys.executable, [sys.executable, "-m", "zoetrope.serving.cli", *sys.argv[1:]])
    print(json.dumps(run()))
