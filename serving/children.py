"""The processes that the supervisor keeps alive: the host of Ray, gateways and the sweeper."""

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

from serving.marks import MARK, end_marked, end_session
from serving.settings import Settings

LOOK_SECONDS = 0.1
START_SECONDS = 180.0  # for the first sign of life
PAUSES = (0.0, 1.0, 2.0, 4.0, 8.0, 15.0, 30.0)  # before the next one is started, after so many failures in a row
KILL_SECONDS = 5.0
STEADY_SECONDS = 60.0  # of work, after which earlier failures are forgotten
FIRST_TRIES = 5  # of one that has never worked
BAD_SETTINGS = 2  # the status of a process that could not start as it was told to


class ChildError(Exception):
    """A process cannot start; its own message is on stderr."""


@dataclass
class Child:
    """A process that prints a line when it works, empty ones from time to time while it does (`serving.pulse`), and
    ends when its stdin does. Nothing here waits for it: `look`, called over and over, does what is due.

    Attributes:
        module: what it runs. settings: that it is started with; those of a restart hold the addresses of the first
            start. mark: of it and all that it starts, so that whatever it leaves behind is ended before the next one
            starts. stop_seconds: what it gets to end by itself.
        said: its line, once it works. process: None between two of them.
    """

    module: str
    settings: Settings
    name: str
    mark: str
    stop_seconds: float = 8.0
    said: str | None = None
    process: subprocess.Popen[str] | None = None
    _heard: bool = False
    _silent: float = 0.0
    _worked: float = 0.0
    _pause: float = 0.0
    _failures: int = 0
    _worked_once: bool = False

    @property
    def pid(self) -> int:
        """Of the process that there is.

        Raises:
            ChildError: there is none now.
        """
        if self.process is None:
            raise ChildError(f"the {self.name} does not run")
        return self.process.pid

    def look(self, elapsed: float) -> str | None:
        """Start it where it is due, replace it where it has ended or gives no sign of life; says what happened.

        Args:
            elapsed: seconds since the last look, less any that this process was stopped for itself.

        Raises:
            ChildError: it never worked, and refuses its settings or has been tried often enough.
        """
        if self.process is None:
            self._pause -= elapsed
            try:
                if self._pause <= 0 and end_marked(self.mark):
                    self._start()
            except (OSError, RuntimeError) as error:  # no memory, no more processes or files
                self._pause = PAUSES[-1]
                return f"the {self.name} cannot be started now ({error}), trying again in {self._pause:g} s"
            return None
        status = self.process.poll()
        self._silent += elapsed
        limit = self.settings.silent_seconds if self._heard else START_SECONDS
        if status is None and self._silent < limit:
            if self.said is not None:
                self._worked_once = True
                self._worked += elapsed
                if self._worked > STEADY_SECONDS:
                    self._failures = 0
            return None
        self.kill()
        if not self._worked_once and (status == BAD_SETTINGS or self._failures >= FIRST_TRIES - 1):
            raise ChildError(f"the {self.name} did not start; its message is above")
        self._pause = PAUSES[min(self._failures, len(PAUSES) - 1)]
        self._failures += 1
        what = f"gave no sign of life for {limit:g} s" if status is None else f"ended with status {status}"
        return f"the {self.name} {what}, starting another" + (f" in {self._pause:g} s" if self._pause else "")

    def wait(self, seconds: float) -> str:
        """Its line, where there is nothing else to do than wait for it.

        Raises:
            ChildError: it does not start, or not in time.
        """
        end = time.monotonic() + seconds
        while self.said is None:
            if time.monotonic() > end:
                raise ChildError(f"the {self.name} did not start within {seconds:g} s")
            self.look(LOOK_SECONDS)
            time.sleep(LOOK_SECONDS)
        return self.said

    def stop(self) -> None:
        """Ask it to end, and see to it."""
        stop_all([self])

    def kill(self) -> None:
        """At once, with all that it started; `look` starts another one."""
        if self.process is not None:
            self.process.kill()
            end_session(self.process.pid)
            with suppress(subprocess.TimeoutExpired):  # the system does not let go of it: none is started beside it
                self.process.wait(KILL_SECONDS)
        end_marked(self.mark)
        self.process, self.said, self._heard = None, None, False

    def _start(self) -> None:
        self._silent = self._worked = 0.0
        self.process = subprocess.Popen(
            [sys.executable, "-m", self.module],
            stdin=subprocess.PIPE,  # nobody writes to it: it ends with this process, however this process ends
            stdout=subprocess.PIPE,
            env={**os.environ, "ZOETROPE_SETTINGS": self.settings.model_dump_json(), MARK: self.mark},
            text=True,
            start_new_session=True,  # Ctrl-C goes to the supervisor alone, which stops things in order
        )
        threading.Thread(target=self._listen, args=(self.process,), name=self.name, daemon=True).start()

    def _listen(self, process: subprocess.Popen[str]) -> None:
        out: IO[str] = process.stdout  # type: ignore[assignment]
        with out:
            for line in out:
                if self.process is not process:
                    return
                self._heard, self._silent = True, 0.0
                if line.strip() and self.said is None:
                    self.said = line


def stop_all(children: Sequence[Child], hurry: Callable[[], bool] = lambda: False) -> None:
    """Ask all to end at the same time, and see to it: at once as soon as ``hurry`` says so."""
    started = time.monotonic()
    for child in children:
        if child.process is not None:
            child.process.terminate()
    for child in children:
        while child.process is not None and child.process.poll() is None:
            if hurry() or time.monotonic() - started > child.stop_seconds:
                break
            time.sleep(0.02)
        child.kill()
