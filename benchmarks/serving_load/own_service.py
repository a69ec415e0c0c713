"""A service that the benchmark starts itself, whose processes it may kill, and whose engine notes every step."""

from __future__ import annotations

import contextlib
import json
import socket
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path

import psutil

from zoetrope.benchmarks.errors import BenchmarkError
from zoetrope.benchmarks.packed_throughput.host import MODULE, STEPS_FILE
from zoetrope.benchmarks.serving_load import process_kinds
from zoetrope.benchmarks.serving_load.noted_steps import NotedSteps, noted_steps
from zoetrope.serving.cli.errors import CliError
from zoetrope.serving.cli.service import ServiceProcess, private_env, wait_gone
from zoetrope.serving.config.settings import Settings
from zoetrope.serving.jobs.open import open_stores

READY_SECONDS = 900.0
VICTIM_SECONDS = 60.0  # for a process of a kind to be there
GONE_SECONDS = 30.0  # for a killed one to be gone
KINDS = {**process_kinds.KINDS, "host": MODULE}


class OwnService:
    """A service on free ports, which a restart takes again."""

    def __init__(self, model: str, folder: Path, settings: Mapping[str, str]) -> None:
        """
        Args:
            folder: an empty one, for its data and log.
            settings: ZOETROPE_* variables without their prefix, beside those of this process.
        """
        self._model, self._folder = model, folder
        self._env = {**private_env(), **{f"ZOETROPE_{name}": value for name, value in settings.items()}}
        self.grpc, self.http = (f"127.0.0.1:{port}" for port in _free_ports(2))
        self._process: ServiceProcess | None = None

    def start(self) -> None:
        """Start it, and wait until it can serve jobs.

        Raises:
            BenchmarkError: it does not start; the message ends with the last line of its log.
        """
        self._folder.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", MODULE, str(self._data), self._model, self.grpc, self.http]
        self._process = ServiceProcess(command, self._folder / "log", self._env)
        try:
            self._process.wait_ready(READY_SECONDS)
        except CliError as error:
            self.stop()
            raise BenchmarkError(f"start: {error}") from None

    def stop(self) -> None:
        if self._process is not None:
            self._process.stop()
            self._process = None

    def restart(self) -> float:
        """Stop and start it; returns how long that took."""
        started = time.monotonic()
        self.stop()
        self.start()
        return time.monotonic() - started

    def kill(self, kind: str) -> list[int]:
        """Kill all processes of one of `KINDS`, and wait until they are gone.

        Raises:
            BenchmarkError: there is none for a minute.
        """
        end = time.monotonic() + VICTIM_SECONDS
        while not (victims := self._find(kind)):
            if time.monotonic() > end:
                raise BenchmarkError(f"fault: no {kind} has run for {VICTIM_SECONDS:g} s")
            time.sleep(0.1)
        for victim in victims:
            with contextlib.suppress(psutil.NoSuchProcess):
                victim.kill()
        wait_gone(victims, GONE_SECONDS)
        return [victim.pid for victim in victims]

    def keys(self, tenants: Sequence[str]) -> dict[str, str]:
        """Create an API key for each tenant."""
        with closing(open_stores(Settings(data_dir=self._data).database_url)) as stores:
            return {tenant: stores.keys.create(tenant, tenant)[1] for tenant in tenants}

    def steps_taken(self) -> dict[str, NotedSteps]:
        """Return the steps that each job has taken so far, by its id."""
        path = self._data / STEPS_FILE
        lines = []
        for line in path.read_text().splitlines() if path.exists() else ():
            with contextlib.suppress(json.JSONDecodeError):  # the last line of a leader that was killed
                lines.append(json.loads(line))
        return noted_steps(lines)

    @property
    def _data(self) -> Path:
        return self._folder / "data"

    def _find(self, kind: str) -> list[psutil.Process]:
        if self._process is None:
            return []
        try:
            family = psutil.Process(self._process.pid).children(recursive=True)
        except psutil.NoSuchProcess:
            return []
        return process_kinds.named(family, KINDS[kind])


def _free_ports(count: int) -> list[int]:
    """Return ports that nobody listens on now, all different."""
    with contextlib.ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [int(probe.getsockname()[1]) for probe in probes]
