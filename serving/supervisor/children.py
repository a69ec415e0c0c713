"""One supervised process: the Ray host, a gateway or the sweeper."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import IO

from zoetrope.serving.config.process_marks import MARK, kill_marked, kill_session
from zoetrope.serving.config.settings import Settings

POLL_SECONDS = 0.1
START_SECONDS = 180.0  # allowed until the first line of output
BACKOFF_SECONDS = (0.0, 1.0, 2.0, 4.0, 8.0, 15.0, 30.0)  # before a restart, by the number of consecutive failures
KILL_SECONDS = 5.0
STEADY_SECONDS = 60.0  # of uptime, after which earlier failures are forgotten
MAX_FIRST_STARTS = 5  # attempts to start a process that has never been ready
BAD_SETTINGS = 2  # exit status of a process that refuses its settings


class ChildError(Exception):
    """A process cannot start; its own message is on stderr."""


@dataclass
class Child:
    """A supervised process. It prints a line when it is ready, then heartbeats (`serving.config.heartbeat`), and exits
    when its stdin closes. Nothing here blocks on it: `poll`, called repeatedly, does what is due.

    Attributes:
        module: the Python module to run.
        settings: passed to the process; a restart reuses the addresses of the first start.
        mark: marks the process and its descendants, so that leftovers are killed before a restart.
        stop_seconds: time to exit by itself after SIGTERM.
        ready_line: the line that it printed when ready; None before.
        process: None between two starts.
    """

    module: str
    settings: Settings
    name: str
    mark: str
    stop_seconds: float = 8.0
    ready_line: str | None = None
    process: subprocess.Popen[str] | None = None
    _has_output: bool = False
    _silent: float = 0.0
    _uptime: float = 0.0
    _backoff: float = 0.0
    _failures: int = 0
    _was_ready: bool = False

    @property
    def pid(self) -> int:
        """Return the process id.

        Raises:
            ChildError: the process is not running.
        """
        if self.process is None:
            raise ChildError(f"the {self.name} is not running")
        return self.process.pid

    def poll(self, elapsed: float) -> str | None:
        """Start the process if it is due, or kill it if it has exited or sends no heartbeats; `poll` restarts it later.

        Args:
            elapsed: seconds since the last call, not counting time in which this process itself was stopped.

        Returns:
            A message for the log if something happened.

        Raises:
            ChildError: it was never ready, and refuses its settings or has failed MAX_FIRST_STARTS times.
        """
        if self.process is None:
            self._backoff -= elapsed
            try:
                if self._backoff <= 0 and kill_marked(self.mark):
                    self._start()
            except (OSError, RuntimeError) as error:  # out of memory, processes or file descriptors
                self._backoff = BACKOFF_SECONDS[-1]
                return f"the {self.name} cannot be started ({error}); trying again in {self._backoff:g} s"
            return None
        status = self.process.poll()
        self._silent += elapsed
        limit = self.settings.silent_seconds if self._has_output else START_SECONDS
        if status is None and self._silent < limit:
            if self.ready_line is not None:
                self._was_ready = True
                self._uptime += elapsed
                if self._uptime > STEADY_SECONDS:
                    self._failures = 0
            return None
        self.kill()
        if not self._was_ready and (status == BAD_SETTINGS or self._failures >= MAX_FIRST_STARTS - 1):
            raise ChildError(f"the {self.name} did not start; its message is above")
        self._backoff = BACKOFF_SECONDS[min(self._failures, len(BACKOFF_SECONDS) - 1)]
        self._failures += 1
        what = f"sent no heartbeat for {limit:g} s" if status is None else f"exited with status {status}"
        return f"the {self.name} {what}; restarting it" + (f" in {self._backoff:g} s" if self._backoff else "")

    def wait(self, seconds: float) -> str:
        """Poll until the process is ready, and return its ready line.

        Raises:
            ChildError: it does not start, or not within ``seconds``.
        """
        end = time.monotonic() + seconds
        while self.ready_line is None:
            if time.monotonic() > end:
                raise ChildError(f"the {self.name} did not start within {seconds:g} s")
            self.poll(POLL_SECONDS)
            time.sleep(POLL_SECONDS)
        return self.ready_line

    def stop(self) -> None:
        """Terminate the process, and kill it if it does not exit in time."""
        stop_all([self])

    def kill(self) -> None:
        """Kill the process and its descendants at once; `poll` starts another one."""
        if self.process is not None:
            self.process.kill()
            kill_session(self.process.pid)
            with suppress(subprocess.TimeoutExpired):  # stuck in the kernel: `kill_marked` prevents a second one
                self.process.wait(KILL_SECONDS)
        kill_marked(self.mark)
        self.process, self.ready_line, self._has_output = None, None, False

    def _start(self) -> None:
        self._silent = self._uptime = 0.0
        self.process = subprocess.Popen(
            [sys.executable, "-m", self.module],
            stdin=subprocess.PIPE,  # never written to; closes when this process ends, however it ends
            stdout=subprocess.PIPE,
            env={**os.environ, "ZOETROPE_SETTINGS": self.settings.as_json(), MARK: self.mark},
            text=True,
            start_new_session=True,  # Ctrl-C reaches only the supervisor, which stops things in order
        )
        threading.Thread(target=self._listen, args=(self.process,), name=self.name, daemon=True).start()

    def _listen(self, process: subprocess.Popen[str]) -> None:
        out: IO[str] = process.stdout  # type: ignore[assignment]
        with out:
            for line in out:
                if self.process is not process:
                    return
                self._has_output, self._silent = True, 0.0
                if line.strip() and self.ready_line is None:
                    self.ready_line = line


def stop_all(children: Sequence[Child], force: Callable[[], bool] = lambda: False) -> None:
    """Terminate all at once; kill those that do not exit in time, or all as soon as ``force`` returns True."""
    started = time.monotonic()
    for child in children:
        if child.process is not None:
            child.process.terminate()
    for child in children:
        while child.process is not None and child.process.poll() is None:
            if force() or time.monotonic() - started > child.stop_seconds:
                break
            time.sleep(0.02)
        child.kill()
