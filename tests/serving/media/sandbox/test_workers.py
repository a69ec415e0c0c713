"""The processes that look at files from outside: how they end, what is left of them, and what they may use."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
from PIL import Image

from tests.serving.media.files import examine, slow_picture, write_picture
from zoetrope.serving.media import MediaError
from zoetrope.serving.media.sandbox import sandbox as sandboxes
from zoetrope.serving.media.sandbox.confine import lacking
from zoetrope.serving.media.sandbox.sandbox import MEMORY_BYTES, Sandbox
from zoetrope.serving.media.sandbox.worker_pool import WorkerPool
from zoetrope.serving.media.sandbox.worker_process import RequestKilled

ROOT = Path(__file__).resolve().parents[4]


def until(condition: Callable[[], bool], seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it does not happen"
        time.sleep(0.01)


def workers() -> list[psutil.Process]:
    return [
        child for child in psutil.Process().children() if "zoetrope.serving.media.sandbox.worker" in child.cmdline()
    ]


def looking_at_files(worker: psutil.Process) -> list[psutil.Process]:
    """The children of a worker that have a file: they are the ones whose time is limited."""
    found = []
    for child in worker.children():
        with suppress(FileNotFoundError, ProcessLookupError):
            limits = Path(f"/proc/{child.pid}/limits").read_text().splitlines()
            if not any(line.startswith("Max cpu time") and "unlimited" in line for line in limits):
                found.append(child)
    return found


def first(find: Callable[[], list[psutil.Process]]) -> psutil.Process:
    """What is found, as soon as there is anything."""
    found: list[psutil.Process] = []

    def some() -> bool:
        found[:] = find()
        return bool(found)

    until(some)
    return found[0]


def test_a_file_that_takes_too_long_is_given_up_and_the_next_one_served(tmp_path: Path) -> None:
    path = slow_picture(tmp_path / "slow.webp")
    sandbox = Sandbox(seconds=0.3)
    try:
        before = {worker.pid for worker in workers()}
        with pytest.raises(MediaError, match=r"^the file took longer than 0\.3 s to examine$"):
            examine(sandbox, path)
        mine = {worker.pid for worker in workers()} - before
        assert examine(sandbox, write_picture(tmp_path / "a.png")).info["container"] == "png"
        assert {worker.pid for worker in workers()} - before == mine, "what ended is the child"
    finally:
        sandbox.close()


def test_a_file_that_takes_too_much_memory_is_refused(tmp_path: Path) -> None:
    Image.new("L", (7_900, 7_900)).convert("RGB").save(tmp_path / "big.png", compress_level=1)  # 187 MB of pixels
    sandbox = Sandbox(memory_bytes=350 << 20)
    try:
        for _ in range(2):
            with pytest.raises(MediaError, match=r"^the file took more than 350 MiB of memory to examine$"):
                examine(sandbox, tmp_path / "big.png")
            assert examine(sandbox, write_picture(tmp_path / "a.png")).info["container"] == "png"
    finally:
        sandbox.close()


def test_a_crash_is_the_files_fault_and_the_next_one_served(tmp_path: Path) -> None:
    path, picture = slow_picture(tmp_path / "slow.webp"), write_picture(tmp_path / "a.png")
    others = {worker.pid for worker in workers()}
    sandbox = Sandbox()
    try:
        with ThreadPoolExecutor(1) as thread:
            waiting = thread.submit(examine, sandbox, path)
            worker = first(lambda: [worker for worker in workers() if worker.pid not in others])
            first(lambda: looking_at_files(worker)).send_signal(signal.SIGSEGV)
            with pytest.raises(MediaError, match=r"^the file cannot be read: its decoder crashed \(SIGSEGV\)$"):
                waiting.result()
        assert examine(sandbox, picture).info["container"] == "png"
        assert worker.is_running()
    finally:
        sandbox.close()
    assert {worker.pid for worker in workers()} <= others


def test_a_dead_worker_is_our_fault_and_replaced(tmp_path: Path) -> None:
    path, picture = slow_picture(tmp_path / "slow.webp"), write_picture(tmp_path / "a.png")
    others = {worker.pid for worker in workers()}
    sandbox = Sandbox()
    try:
        with ThreadPoolExecutor(1) as thread:
            waiting = thread.submit(examine, sandbox, path)
            worker = first(lambda: [worker for worker in workers() if worker.pid not in others])
            first(lambda: looking_at_files(worker))
            worker.kill()
            with pytest.raises(OSError, match="a media worker exited: SIGKILL"):
                waiting.result()
        assert examine(sandbox, picture).info["container"] == "png"
    finally:
        sandbox.close()


def test_who_is_killed_is_not_at_fault(tmp_path: Path) -> None:
    path, picture = slow_picture(tmp_path / "slow.webp"), write_picture(tmp_path / "a.png")
    others = {worker.pid for worker in workers()}
    sandbox = Sandbox()
    try:
        with ThreadPoolExecutor(1) as thread:
            waiting = thread.submit(examine, sandbox, path)
            worker = first(lambda: [worker for worker in workers() if worker.pid not in others])
            first(lambda: looking_at_files(worker)).kill()
            with pytest.raises(RequestKilled, match=r"^the process that examined the file was killed$"):
                waiting.result()
        assert examine(sandbox, picture).info["container"] == "png"
        assert worker.is_running()
    finally:
        sandbox.close()


def test_children_that_die_waiting_are_replaced(tmp_path: Path) -> None:
    picture = write_picture(tmp_path / "a.png")
    others = {worker.pid for worker in workers()}
    sandbox = Sandbox()
    try:
        examine(sandbox, picture)
        [worker] = [worker for worker in workers() if worker.pid not in others]
        waiting = worker.children()
        for child in waiting:
            child.kill()
        until(lambda: not any(child.is_running() for child in waiting))
        for _ in range(3):
            assert examine(sandbox, picture).info["container"] == "png"
    finally:
        sandbox.close()


def visible(proc: Path, name: str) -> Any:
    """What /proc tells of a process; None: not to this user."""
    try:
        if name == "fd":
            return sorted(os.readlink(link) for link in (proc / name).iterdir())
        return (proc / name).read_bytes() if name == "environ" else os.readlink(proc / name)
    except PermissionError:
        return None


def test_workers_hold_what_they_promise(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "tr0ub4dor")
    path = slow_picture(tmp_path / "slow.webp")
    others = {worker.pid for worker in workers()}
    sandbox = Sandbox()
    try:
        with ThreadPoolExecutor(1) as thread:
            waiting = thread.submit(examine, sandbox, path)
            worker = first(lambda: [worker for worker in workers() if worker.pid not in others])
            child = first(lambda: looking_at_files(worker))
            proc = Path(f"/proc/{child.pid}")
            limits = proc.joinpath("limits").read_text()
            status = dict(line.split(":\t", 1) for line in proc.joinpath("status").read_text().splitlines())
            seen = {name: visible(proc, name) for name in ("environ", "ns/net", "root", "fd")}
            cpus = child.cpu_affinity()
            waiting.result()
    finally:
        sandbox.close()
    found = {line[:26].strip(): line[26:].split()[:2] for line in limits.splitlines()[1:]}
    assert found["Max open files"] == ["64", "64"] and found["Max core file size"] == ["0", "0"]
    assert found["Max address space"] == [str(MEMORY_BYTES)] * 2 and found["Max file size"] == ["0", "0"]
    assert found["Max cpu time"] == ["31", "32"] and found["Max processes"] != ["unlimited"] * 2
    assert len(cpus) == min(4, len(os.sched_getaffinity(0)))
    assert status["NoNewPrivs"] == "1"
    assert all(int(status[name], 16) == 0 for name in ("CapEff", "CapPrm", "CapInh", "CapAmb"))
    holding = {layer.name for layer in sandbox.layers if layer.holds}
    assert lacking(sandbox.layers) == []
    if "dedicated user" in holding:
        assert "0" not in {*status["Uid"].split(), *status["Gid"].split()} and not status["Groups"].split()
    if seen["environ"] is not None:  # hidden from everybody but root, which is fine
        assert b"tr0ub4dor" not in seen["environ"] and b"PYTHONPATH" in seen["environ"]
        nothing, file, answer = seen["fd"][:3], seen["fd"][3:-1], seen["fd"][-1]
        assert nothing == [os.devnull] * 3 and file == [str(path)] and answer.startswith("pipe:")
        if "network namespace" in holding:
            assert seen["ns/net"] != os.readlink("/proc/self/ns/net")
        if "empty root directory" in holding:
            assert "deleted" in seen["root"]


def test_a_closed_sandbox_ends_what_is_in_progress(tmp_path: Path) -> None:
    path = slow_picture(tmp_path / "slow.webp")
    others = {worker.pid for worker in workers()}
    sandbox = Sandbox()
    with ThreadPoolExecutor(1) as thread:
        waiting = thread.submit(examine, sandbox, path)
        worker = first(lambda: [worker for worker in workers() if worker.pid not in others])
        child = first(lambda: looking_at_files(worker))
        sandbox.close()
        with pytest.raises(OSError, match="exited: SIGKILL"):
            waiting.result()
    until(lambda: not child.is_running() or child.status() == psutil.STATUS_ZOMBIE)
    assert {worker.pid for worker in workers()} <= others


PARENT = """
import os, signal, sys
from pathlib import Path
import psutil
from zoetrope.serving.media.sandbox.sandbox import Sandbox
Sandbox().read_picture(Path(sys.argv[1]))
print([child.pid for child in psutil.Process().children()][0], flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_workers_die_with_their_parent(tmp_path: Path) -> None:
    picture = write_picture(tmp_path / "a.png")
    done = subprocess.run(
        [sys.executable, "-c", PARENT, str(picture)], cwd=ROOT, capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    until(lambda: not psutil.pid_exists(int(done.stdout)))


# Whose file comes when.


@contextmanager
def pool(workers: int) -> Iterator[WorkerPool]:
    """Of threads alone: processes would start with the first file."""
    made = WorkerPool(workers, MEMORY_BYTES, MEMORY_BYTES, 30.0)
    try:
        yield made
    finally:
        made.close()


def held(made: WorkerPool, tenant: str, *, small: bool = False) -> Callable[[], None]:
    """Occupy a thread; returns how to let go of it."""
    begun, release = threading.Event(), threading.Event()

    def hold(_: WorkerPool) -> None:
        begun.set()
        assert release.wait(20)

    made.submit(hold, tenant=tenant, small=small)
    assert begun.wait(20)
    return release.set


def test_tenants_take_turns_at_a_worker() -> None:
    done: list[str] = []
    with pool(1) as made:
        release = held(made, "a")
        waiting = [made.submit(lambda _, name=name: done.append(name), tenant=name[0]) for name in ("a1", "a2", "b1")]
        release()
        wait(waiting)
    assert done == ["b1", "a1", "a2"]


def test_one_of_several_workers_is_kept_for_small_files() -> None:
    with pool(2) as made:
        release = held(made, "a")
        waiting = [made.submit(lambda _: None, tenant="a") for _ in range(9)]
        assert made.submit(lambda _: "small", tenant="b", small=True).result(20) == "small"
        assert not any(one.done() for one in waiting)
        release()
        wait(waiting)
        releases = [held(made, "a", small=True) for _ in range(2)]  # both take small ones
        for let_go in releases:
            let_go()


def test_a_pool_that_closes_cancels_what_waits() -> None:
    with pool(1) as made:
        release = held(made, "a")
        waiting = made.submit(lambda _: None)
        threading.Timer(0.05, release).start()
    assert waiting.cancelled()
    with pytest.raises(RuntimeError, match="closed"):
        made.submit(lambda _: None)


async def test_large_files_of_one_tenant_do_not_hold_up_small_ones_of_another(tmp_path: Path) -> None:
    slow, picture = slow_picture(tmp_path / "slow.webp"), write_picture(tmp_path / "a.png")
    sandbox = Sandbox(2)
    try:
        large = [asyncio.create_task(sandbox.examine(slow, tenant="a")) for _ in range(12)]
        small = [asyncio.create_task(sandbox.examine(picture, tenant=tenant)) for tenant in ("a", "b", "b")]
        await asyncio.wait(large, return_when=asyncio.FIRST_COMPLETED)
        assert [(await one).mime_type for one in small] == ["image/png"] * 3
        assert sum(one.done() for one in large) <= 2
    finally:
        await asyncio.to_thread(sandbox.close)
        for one in large:
            one.cancel()
        await asyncio.gather(*large, return_exceptions=True)


async def test_what_turns_out_to_take_long_waits_with_the_large_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file may lie about its size, or be slow for its size."""
    monkeypatch.setattr(sandboxes, "SMALL_PIXELS", 10**9)
    monkeypatch.setattr(sandboxes, "SMALL_SECONDS", 0.4)
    sandbox = Sandbox(2)
    try:
        assert (await sandbox.examine(slow_picture(tmp_path / "slow.webp"))).info["width"] == 8_000
    finally:
        await asyncio.to_thread(sandbox.close)
