"""The processes beside Ray: gateways and the sweeper, kept alive by the supervisor."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import IO

from serving.settings import Settings

STOP_SECONDS = 8.0


class ChildError(Exception):
    """A process did not start; its own message is on stderr."""


@dataclass
class Child:
    """A process that prints one line when it works and ends when its stdin does.

    Attributes:
        module: what it runs. settings: that it is started with; those of a restart hold the addresses of the first
            start. said: its line.
    """

    module: str
    settings: Settings
    name: str
    process: subprocess.Popen[str] = field(init=False)
    said: str = field(init=False)

    def __post_init__(self) -> None:
        self._start()

    def restart_if_dead(self) -> str | None:
        """Start another one in its place where it has ended; says what happened."""
        if self.process.poll() is None:
            return None
        status = self.process.returncode
        self._start()
        return f"the {self.name} ended with status {status}, started another"

    def stop(self) -> None:
        """Ask it to end, and see to it."""
        stop_all([self])

    def _start(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", self.module],
            stdin=subprocess.PIPE,  # nobody writes to it: it ends with this process, however this process ends
            stdout=subprocess.PIPE,
            env={**os.environ, "ZOETROPE_SETTINGS": self.settings.model_dump_json()},
            text=True,
            start_new_session=True,  # Ctrl-C goes to the supervisor alone, which stops things in order
        )
        out: IO[str] = self.process.stdout  # type: ignore[assignment]
        self.said = out.readline()
        if not self.said:
            raise ChildError(f"the {self.name} did not start (status {self.process.wait()}); its message is above")


def start_gateways(settings: Settings) -> list[Child]:
    """The first one at the addresses of the settings, the others at free ports of the same hosts.

    Raises:
        ChildError.
    """
    gateways: list[Child] = []
    try:
        for number in range(settings.gateways):
            wanted = settings if number == 0 else settings.model_copy(update=_free_ports(settings))
            child = Child("serving.gateway.main", wanted, "gateway")
            child.settings = wanted.model_copy(update=json.loads(child.said))  # a restart takes the same ports
            gateways.append(child)
    except BaseException:
        stop_all(gateways)
        raise
    return gateways


def start_sweeper(settings: Settings) -> Child:
    """
    Raises:
        ChildError.
    """
    return Child("serving.sweeper.main", settings, "sweeper")


def stop_all(children: Sequence[Child]) -> None:
    """Ask all to end, and see to it."""
    for child in children:
        child.process.terminate()
    for child in children:
        try:
            child.process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            child.process.kill()


def _free_ports(settings: Settings) -> dict[str, str]:
    return {field: getattr(settings, field).rpartition(":")[0] + ":0" for field in ("grpc", "http")}
