"""The service that a soak attacks: its processes by name, and how it is started again."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar
from urllib.request import urlopen

import psutil

from zoetrope.benchmarks.serving_load.process_kinds import KINDS, named
from zoetrope.serving.cli.service import wait_gone

T = TypeVar("T")

READY_SECONDS = 180.0
STOP_SECONDS = 60.0
READY = re.compile(r"^ready (.*)$", re.MULTILINE)


def until(condition: Callable[[], T], seconds: float, what: str) -> T:
    """What the condition gives once it is true."""
    end = time.monotonic() + seconds
    while not (value := condition()):
        if time.monotonic() > end:
            raise AssertionError(f"not within {seconds:g} s: {what}")
        time.sleep(0.05)
    return value


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def over(process: psutil.Process) -> bool:
    """It has ended, though nobody may have looked."""
    try:
        return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


@dataclass(frozen=True)
class Addresses:
    """Of one gateway, HOST:PORT."""

    grpc: str
    http: str


class Service:
    """`zoetrope serve` on one data directory, at ports of its own that every start takes again."""

    def __init__(self, directory: Path, settings: Mapping[str, str]) -> None:
        """``settings``: ZOETROPE_* variables and others, beside those of this process."""
        self._said, self._log = directory / "said", directory / "log"
        grpc, http = (f"127.0.0.1:{free_port()}" for _ in range(2))
        self._env = {**os.environ, **settings, "ZOETROPE_GRPC": grpc, "ZOETROPE_HTTP": http}
        self._met: dict[psutil.Process, None] = {}
        self.gateways: list[Addresses] = []
        self.starts = 0

    def start(self) -> None:
        """Start it and wait until it says that it is ready."""
        command = [sys.executable, "-m", "zoetrope.serving.cli", "serve", "--stop-with-stdin"]
        with self._said.open("wb") as out, self._log.open("ab") as log:
            self.process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=out, stderr=log, env=self._env, start_new_session=True
            )
        self.starts += 1

        def said() -> str:
            line = READY.search(self._said.read_text())
            if line is None and self.process.poll() is not None:
                told = self._log.read_text(errors="replace")[-2_000:]
                raise AssertionError(f"it ended with status {self.process.returncode} instead of starting:\n{told}")
            return line[1] if line is not None else ""

        words = [word.partition("=")[2] for word in until(said, READY_SECONDS, "the service starts").split()]
        self.gateways = [Addresses(*pair) for pair in zip(words[::2], words[1::2], strict=True)]

    def ended(self) -> int | None:
        """The status of the supervisor, if it has ended."""
        return self.process.poll()

    def stop(self) -> int:
        """Stop as an operator does; the status."""
        self.family()
        self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"it did not stop within {STOP_SECONDS:g} s of SIGTERM") from None

    def kill_supervisor(self) -> None:
        self.family()
        self.process.kill()
        self.process.wait()

    def kill_all(self) -> None:
        """End every process that this service ever had."""
        self.family()
        self.process.kill()
        self.process.wait()
        for process in self.left():
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        wait_gone(self._met, 10)

    def family(self) -> list[psutil.Process]:
        """All processes below the supervisor."""
        try:
            found: list[psutil.Process] = psutil.Process(self.process.pid).children(recursive=True)
        except psutil.NoSuchProcess:
            return []
        self._met.update(dict.fromkeys(found))
        return found

    def find(self, kind: str) -> list[psutil.Process]:
        """Its processes of one of `KINDS`, or the supervisor."""
        if kind == "supervisor":
            return [psutil.Process(self.process.pid)]
        return named(self.family(), KINDS[kind])

    def left(self) -> list[psutil.Process]:
        """Processes of this service, of any start, that are alive."""
        return [process for process in self._met if not over(process)]

    def answers(self) -> bool:
        """Every gateway says that a job would be served."""
        return bool(self.gateways) and all(_answers(f"http://{g.http}/readyz") for g in self.gateways)


def _answers(url: str) -> bool:
    try:
        urlopen(url, timeout=5).close()
    except OSError:
        return False
    return True
