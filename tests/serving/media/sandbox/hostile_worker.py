"""A media worker whose decoder can be taken over: a file that begins with `TAKES_OVER` says what it does then.

Not a test: it is started in the place of `serving.media.sandbox.worker` and confined by the same code.
"""

from __future__ import annotations

import _thread
import ctypes
import errno
import json
import mmap
import os
import platform
import resource
import signal
import socket
import struct
import time
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any, NoReturn

from zoetrope.serving.media.sandbox.worker import Operation, main, operations

TAKES_OVER = b"HOSTILE"
PTRACE_ATTACH = 16
PR_SET_DUMPABLE = 4
libc = ctypes.CDLL(None, use_errno=True)
# Calls without a wrapper; by the same number on all machines, or on x86_64.
NUMBERS = {"pidfd_open": 434, "io_uring_setup": 425, "openat2": 437, "pidfd_getfd": 438, "process_madvise": 440}
if platform.machine() == "x86_64":
    NUMBERS |= {
        "add_key": 248,
        "bpf": 321,
        "perf_event_open": 298,
        "userfaultfd": 323,
        "kcmp": 312,
        "x32 getpid": 0x4000_0027,
    }

Targets = Mapping[str, Any]


def call(function: Callable[..., int], *arguments: Any) -> int:
    """
    Raises:
        OSError.
    """
    result = function(*arguments)
    if result == -1:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result


def attacks(own: int, targets: Targets) -> dict[str, Callable[[], object]]:
    """What a worker must not be able to do, each as a call that raises OSError where it fails.

    Args:
        own: the descriptor of its file.
        targets: "secret", "writable": files; "folder"; "victim", "service": processes; "tcp", "udp": ports; "unix",
            "abstract": addresses.
    """
    secret, victim = targets["secret"], targets["victim"]

    def connected(family: int, kind: int, address: Any) -> None:
        with socket.socket(family, kind) as it:
            it.connect(address)

    def bound() -> None:
        with socket.socket() as it:
            it.bind(("127.0.0.1", 0))
            it.listen()

    def written(path: str) -> None:
        with open(path, "r+b") as file:
            file.write(b"x")

    def memory(pid: int) -> None:
        with open(f"/proc/{pid}/mem", "r+b"):
            pass

    def overwritten() -> int:
        piece = ctypes.create_string_buffer(b"x")
        vector = struct.pack("@PN", ctypes.addressof(piece), 1)
        return call(libc.process_vm_writev, victim, vector, 1, vector, 1, 0)  # EFAULT would tell of access, too

    def traced() -> None:
        call(libc.ptrace, PTRACE_ATTACH, victim, None, None)
        os.waitpid(victim, 0)
        call(libc.ptrace, 17, victim, None, None)

    def raised(limit: int) -> None:
        hard = resource.getrlimit(limit)[1]
        if hard == resource.RLIM_INFINITY:
            return
        resource.setrlimit(limit, (hard + 1, hard + 1))

    def mounted() -> None:
        call(libc.mount, b"none", targets["folder"].encode(), b"tmpfs", 0, None)
        call(libc.umount, targets["folder"].encode())

    def forked() -> None:
        child = os.fork()
        if child == 0:
            os._exit(0)
        os.waitpid(child, 0)

    found: dict[str, Callable[[], object]] = {
        "read a file": lambda: Path(secret).read_bytes(),
        "read a file of the system": lambda: Path("/etc/hostname").read_bytes(),
        "read by a relative path": lambda: Path("etc/hostname").read_bytes(),
        "write a file": lambda: written(targets["writable"]),
        "create a file": lambda: os.open(targets["folder"] + "/new", os.O_CREAT | os.O_WRONLY),
        "create a file here": lambda: os.open("new", os.O_CREAT | os.O_WRONLY),
        "create an unnamed file": lambda: os.open(targets["folder"], os.O_TMPFILE | os.O_WRONLY),
        "list a folder": lambda: os.listdir("/"),
        "learn of a file": lambda: os.stat(secret),
        "change a mode": lambda: os.chmod(targets["writable"], 0o666),
        "remove a file": lambda: os.unlink(targets["folder"] + "/victim"),
        "rename a file": lambda: os.rename(targets["writable"], targets["writable"] + "2"),
        "link a file": lambda: os.link(secret, targets["folder"] + "/link"),
        "make a folder": lambda: os.mkdir(targets["folder"] + "/made"),
        "change the folder": lambda: os.chdir("/"),
        "cut its own file": lambda: os.ftruncate(own, 0),
        "lock its own file": lambda: os.lockf(own, os.F_TEST, 0),
        "get anonymous files": lambda: os.memfd_create("x"),
        "get a pipe": os.pipe,
        "open a device": lambda: os.open("/dev/null", os.O_RDWR),
        "connect by TCP": lambda: connected(socket.AF_INET, socket.SOCK_STREAM, ("127.0.0.1", targets["tcp"])),
        "listen": bound,
        "connect by UDP": lambda: connected(socket.AF_INET, socket.SOCK_DGRAM, ("127.0.0.1", targets["udp"])),
        "connect to a Unix socket": lambda: connected(socket.AF_UNIX, socket.SOCK_STREAM, targets["unix"]),
        "connect to an abstract one": lambda: connected(
            socket.AF_UNIX, socket.SOCK_STREAM, b"\0" + targets["abstract"].encode()
        ),
        "open netlink": lambda: connected(socket.AF_NETLINK, socket.SOCK_RAW, (0, 0)),
        "get a pair of sockets": socket.socketpair,
        "signal the service": lambda: os.kill(targets["service"], 0),
        "signal its parent": lambda: os.kill(os.getppid(), 0),
        "kill somebody": lambda: os.kill(victim, signal.SIGCONT),
        "kill everybody": lambda: os.kill(-1, 0),
        "hold somebody": lambda: signal.pidfd_send_signal(os.pidfd_open(victim), signal.SIGCONT),
        "trace somebody": traced,
        "write to somebody's memory": overwritten,
        "open somebody's memory": lambda: memory(victim),
        "open the service's memory": lambda: memory(targets["service"]),
        "read somebody's environment": lambda: Path(f"/proc/{victim}/environ").read_bytes(),
        "read its own environment": lambda: Path("/proc/self/environ").read_bytes(),
        "read the parent's environment": lambda: Path(f"/proc/{os.getppid()}/environ").read_bytes(),
        "change somebody's limits": lambda: resource.prlimit(victim, resource.RLIMIT_CORE, (0, 0)),
        "start a process": forked,
        "be dumped": lambda: call(libc.prctl, PR_SET_DUMPABLE, 1, 0, 0, 0),
        "outlive its parent": lambda: call(libc.prctl, 1, 0, 0, 0, 0),
        "map code": lambda: mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_EXEC),
        "stop its clock": lambda: signal.setitimer(signal.ITIMER_REAL, 0),
        "change its priority": lambda: os.sched_setaffinity(0, {0}),
        "have more memory": lambda: raised(resource.RLIMIT_AS),
        "have more time": lambda: raised(resource.RLIMIT_CPU),
        "have larger files": lambda: raised(resource.RLIMIT_FSIZE),
        "have more files": lambda: raised(resource.RLIMIT_NOFILE),
        "have more processes": lambda: raised(resource.RLIMIT_NPROC),
        "leave a core": lambda: raised(resource.RLIMIT_CORE),
    }
    for name, number in NUMBERS.items():
        found[name] = lambda number=number: call(libc.syscall, number, victim, 0, 0, 0, 0)  # type: ignore[misc]
    # Last, as who succeeds is another one afterwards.
    found |= {
        "mount": mounted,
        "change the root": lambda: os.chroot("/"),
        "become root's group": lambda: os.setgroups([0]),
        "become root": lambda: os.setresuid(0, 0, 0),
        "leave a namespace": lambda: call(libc.unshare, 0x1000_0000),
        "become somebody": lambda: os.setresuid(1, 1, 1),
        "run a program": lambda: os.execv("/bin/true", ["true"]),
    }
    return found


def attempt(own: int, targets: Targets, *, but: Collection[str] = ()) -> dict[str, str]:
    """By attack: "done", or the errno that it failed with.

    Args:
        but: attacks that are left out.
    """
    outcomes = {}
    for name, attack in attacks(own, targets).items():
        if name in but:
            continue
        try:
            attack()
        except (OSError, ValueError) as error:  # resource says ValueError where a limit is beyond what may be set
            number = error.errno if isinstance(error, OSError) else errno.EPERM
            outcomes[name] = errno.errorcode.get(number or 0, str(error))
        else:
            outcomes[name] = "done"
    return outcomes


def start_threads() -> int:
    """As many as there can be; how many that was."""
    lock = _thread.allocate_lock()
    lock.acquire()
    _thread.stack_size(64 << 10)
    count = 0
    try:
        while True:
            _thread.start_new_thread(lock.acquire, ())
            count += 1
    except RuntimeError:
        return count


def take_memory() -> int:
    """As much as there can be, in MiB; MemoryError at the end."""
    taken = []
    while True:
        taken.append(bytearray(16 << 20))


def say(text: bytes) -> NoReturn:
    """Say this in the place of an answer."""
    for descriptor in range(3, 64):
        try:
            os.write(descriptor, text)
        except OSError:
            continue
    os._exit(0)


def take_over(own: int, result: int | None, script: dict[str, Any]) -> dict[str, Any]:
    """Do what a file says.

    Args:
        own, result: descriptors of the file, and of where its result goes.
    """
    match script:
        case {"attack": targets}:
            return attempt(own, targets)
        case {"threads": _}:
            return {"threads": start_threads()}
        case {"memory": _}:
            return {"memory": take_memory()}
        case {"forks": count}:
            return {"forks": [attempted_fork() for _ in range(count)]}
        case {"say": text, "times": times}:
            say(text.encode() * times)
        case {"linger": seconds}:
            end = time.monotonic() + seconds
            signal.signal(signal.SIGALRM, signal.SIG_IGN)
            while time.monotonic() < end:
                time.sleep(0.01)
            return {}
        case {"write": text, "answer": dict(answer)}:
            assert result is not None
            os.pwrite(result, bytes.fromhex(text), 0)
            return answer
        case {"answer": dict(answer)}:
            return answer
    raise ValueError(script)


def attempted_fork() -> str:
    try:
        if os.fork() == 0:
            os._exit(0)
    except OSError as error:
        return errno.errorcode[error.errno or 0]
    return "done"


def vulnerable() -> dict[str, Operation]:
    """The operations of a worker, which such a file takes over."""

    def wrapped(operation: Operation) -> Operation:
        def run(*paths: Any, **options: Any) -> dict[str, Any]:
            content = paths[0].read_bytes()
            if content.startswith(TAKES_OVER):
                descriptors = [path._descriptor for path in paths] + [None]
                return take_over(descriptors[0], descriptors[1], json.loads(content[len(TAKES_OVER) :]))
            return operation(*paths, **options)

        return run

    return {name: wrapped(operation) for name, operation in operations().items()}


if __name__ == "__main__":
    main(vulnerable)
