"""Runs a private service as a child process."""

from __future__ import annotations

import contextlib
import os
import queue
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import IO

import psutil

from zoetrope.model.request.load_options import LoadOptions
from zoetrope.serving.cli.errors import BAD_INPUT, FAILURE, CliError
from zoetrope.serving.cli.load_options import arguments_of
from zoetrope.serving.config.process_marks import POLL_SECONDS, is_alive

READY = re.compile(r"^ready grpc=(\S+) http=(\S+)")
# Settings of a service for others that do not apply to a private one, which asks for no keys, for example.
PUBLIC = (
    "DATABASE",
    "ARTIFACT_STORE",
    "SNAPSHOT_STORE",
    "MIGRATE",
    "MANAGEMENT",
    "GATEWAYS",
    "PUBLIC_URL",
    "TLS_CERT",
    "TLS_KEY",
    "TLS_CLIENT_CA",
    "KEYS",
    "BLOCKED_WORDS",
    "PROMPT_CHECK_URL",
    "OUTPUT_CHECK_URL",
)
STOP_SECONDS = 30.0  # for a service to stop by itself
LINGER_SECONDS = 3.0  # for its processes to end after it


@dataclass(frozen=True)
class Addresses:
    """Where a service answers, HOST:PORT."""

    grpc: str
    http: str


def serve_command(model: str, data_dir: Path, load: LoadOptions | None = None) -> list[str]:
    """Return the command for a service on free ports. ``load``: how it loads the model; None: as the environment
    says."""
    options = ["--model", model, "--grpc", "127.0.0.1:0", "--http", "127.0.0.1:0", "--data-dir", str(data_dir)]
    options += [] if load is None else arguments_of(load)
    return [sys.executable, "-m", "zoetrope.serving.cli", "serve", "--stop-with-stdin", *options]


def private_env() -> dict[str, str]:
    """Return our environment without the settings in `PUBLIC`."""
    public = {f"ZOETROPE_{name}" for name in PUBLIC}
    return {name: value for name, value in os.environ.items() if name.upper() not in public}


class ServiceProcess:
    """A running `serve_command`.

    It leads its own session, so that only we handle a Ctrl-C in the terminal and every process that it starts can be
    found. It stops by itself when this process dies, because it watches its standard input.
    """

    def __init__(self, command: Sequence[str], log: Path, env: Mapping[str, str] | None = None) -> None:
        """Start it. ``log`` receives its standard error; ``env`` is ours by default."""
        self._log = log
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("wb") as errors:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                start_new_session=True,
                env=env,
            )
        self._lines: queue.Queue[str | None] = queue.Queue()
        assert self._process.stdout is not None
        self._reader = threading.Thread(target=_pump, args=(self._process.stdout, self._lines), daemon=True)
        self._reader.start()

    @property
    def pid(self) -> int:
        return self._process.pid

    def wait_ready(self, timeout_seconds: float | None = None) -> Addresses:
        """Block until it can serve jobs.

        Raises:
            CliError: it ended or the time is up; the message ends with the last line of its log.
        """
        deadline = None if timeout_seconds is None else time.monotonic() + timeout_seconds
        while True:
            try:
                line = self._lines.get(timeout=None if deadline is None else max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                raise CliError(f"the service was not ready after {timeout_seconds:g} s, see {self._log}") from None
            if line is None:
                code = self._process.wait()
                reason = self._last_line() or f"exit code {code}"
                if code == BAD_INPUT:
                    raise CliError(reason, BAD_INPUT)
                raise CliError(f"the service did not start: {reason}", FAILURE)
            if match := READY.match(line):
                return Addresses(match[1], match[2])

    def stop(self) -> list[str]:
        """Ask it to stop, wait, and kill what is left.

        Returns:
            The names of processes that had to be killed; empty if it stopped cleanly.
        """
        family = _descendants(self._process.pid)
        names = []
        try:
            self._process.terminate()
            self._process.wait(STOP_SECONDS)
        except (subprocess.TimeoutExpired, KeyboardInterrupt):
            self._process.kill()
            names.append("the service")
        left = {process.pid: process for process in [*family, *_session(self._process.pid)]}
        stubborn = wait_gone(left.values(), LINGER_SECONDS)
        for process in stubborn:
            with contextlib.suppress(psutil.Error):
                names.append(process.name())
                process.kill()
        wait_gone(stubborn, LINGER_SECONDS)
        self._process.wait()
        self._reader.join()
        return names

    def _last_line(self) -> str:
        """Return the last line of its log, without a leading "error: "."""
        lines = self._log.read_text(errors="replace").split("\n")
        return next((line.strip().removeprefix("error: ") for line in reversed(lines) if line.strip()), "")


@contextlib.contextmanager
def private_service(command: Sequence[str], log: Path) -> Iterator[ServiceProcess]:
    """Run a service for the length of a block, which SIGTERM and a closed terminal end as Ctrl-C does."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = {number: signal.signal(number, interrupt) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        service = ServiceProcess(command, log, private_env())
        try:
            yield service
        finally:
            service.stop()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _pump(stream: IO[str], lines: queue.Queue[str | None]) -> None:
    """Keep reading after the ready line, so that the service never blocks on a full pipe; None marks the end."""
    with stream:
        for line in stream:
            lines.put(line.rstrip("\n"))
    lines.put(None)


def wait_gone(processes: Collection[psutil.Process], seconds: float) -> list[psutil.Process]:
    """Wait until processes have ended, and return those that have not within ``seconds``. A zombie has ended.

    It polls: `psutil.wait_procs` opens a pidfd, which on Linux 6.18 fails with ENOENT while a process is ending.
    """
    end = time.monotonic() + seconds
    while (left := [process for process in processes if is_alive(process)]) and time.monotonic() < end:
        time.sleep(POLL_SECONDS)
    return left


def _descendants(pid: int) -> list[psutil.Process]:
    try:
        found: list[psutil.Process] = psutil.Process(pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []
    return found


def _session(leader: int) -> list[psutil.Process]:
    """Return the processes of the session that ``leader`` started, including those whose parent is gone."""
    found = []
    for pid in psutil.pids():
        with contextlib.suppress(OSError, psutil.NoSuchProcess):
            if pid != leader and os.getsid(pid) == leader:
                found.append(psutil.Process(pid))
    return found
