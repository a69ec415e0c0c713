"""The supervisor with real gateways and a real sweeper; a small script stands in for the host of Ray."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sqlite3
import stat
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest

from tests.serving.gateway.harness import until
from zoetrope.serving.cli.service import Addresses, ServiceProcess
from zoetrope.serving.client import VideoClient
from zoetrope.serving.config.process_marks import MARK

WORKS = """
import os, sys, time
print("ready", flush=True)
while True:
    os.write(1, b"\\n")
    time.sleep(0.1)
"""
HANGS = "import signal, threading; signal.signal(signal.SIGTERM, signal.SIG_IGN); threading.Event().wait()"
SERVE = (
    "import sys; from zoetrope.serving.supervisor.supervisor import serve\n"
    "from zoetrope.serving.config.settings import Settings"
)


class Service:
    """A service whose host of Ray runs ``host``."""

    addresses: Addresses  # once it is ready

    def __init__(self, folder: Path, host: str = WORKS, addresses: Addresses | None = None, **settings: str) -> None:
        self.folder, self.data, self.log = folder, folder / "data", folder / "log"
        (folder / "played_host.py").write_text(host)
        bound = addresses or Addresses("127.0.0.1:0", "127.0.0.1:0")
        given = {"data_dir": str(self.data), "grpc": bound.grpc, "http": bound.http, **settings}
        environment = {**os.environ, **{f"ZOETROPE_{name.upper()}": value for name, value in given.items()}}
        environment["PYTHONPATH"] = os.pathsep.join([str(folder), *os.environ.get("PYTHONPATH", "").split(os.pathsep)])
        command = [sys.executable, "-c", f"{SERVE}; sys.exit(serve(Settings(), 'played_host'))"]
        self.process = ServiceProcess(command, self.log, environment)

    def find(self, words: str) -> psutil.Process | None:
        with contextlib.suppress(psutil.Error):
            for child in psutil.Process(self.process.pid).children():
                if words in " ".join(child.cmdline()):
                    return child
        return None

    def started(self, words: str) -> psutil.Process:
        found = until(lambda: self.find(words), 30)
        assert found is not None
        return found

    def said(self, words: str, seconds: float = 30) -> None:
        until(lambda: words in self.log.read_text(), seconds)

    def left(self) -> list[psutil.Process]:
        """What carries the service's mark and lives."""
        mark = (self.data / "lock").read_text()
        assert mark
        return [p for p in psutil.process_iter() if mark in marks(p)]

    def ends(self, seconds: float) -> None:
        """By itself, and leaves nothing behind."""
        psutil.Process(self.process.pid).wait(seconds) if psutil.pid_exists(self.process.pid) else None
        assert self.left() == []
        assert self.process.stop() == []


def marks(process: psutil.Process) -> str:
    try:
        return str(process.environ().get(MARK, ""))
    except psutil.Error:
        return ""


@contextlib.contextmanager
def locked(database: Path) -> Iterator[None]:
    """Nobody else can write meanwhile."""
    with contextlib.closing(sqlite3.connect(database, isolation_level=None)) as connection:
        connection.execute("BEGIN EXCLUSIVE")
        yield
        connection.execute("ROLLBACK")


def two_ports() -> str:
    """An address whose port is free, as is the next one."""
    while True:
        with socket.create_server(("127.0.0.1", 0)) as first, contextlib.suppress(OSError):
            port = first.getsockname()[1]
            with socket.create_server(("127.0.0.1", port + 1)):
                return f"127.0.0.1:{port}"


@pytest.fixture(scope="module")
def management() -> str:
    return two_ports()


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory, management: str) -> Iterator[Service]:
    running = Service(tmp_path_factory.mktemp("service"), silent_seconds="3", management=management)
    running.addresses = running.process.wait_ready(60)
    yield running
    os.kill(running.process.pid, signal.SIGTERM)
    running.ends(20)
    assert "Traceback" not in running.log.read_text()


def test_the_data_directory_is_private(service: Service) -> None:
    assert stat.S_IMODE(service.data.stat().st_mode) == 0o700


def test_the_gateway_and_the_sweeper_have_management_ports(service: Service, management: str) -> None:
    host, port = management.split(":")
    for number, metric in ((int(port), "zoetrope_jobs"), (int(port) + 1, "zoetrope_sweeps_total")):
        base = f"http://{host}:{number}"
        assert httpx.get(f"{base}/readyz").text == httpx.get(f"{base}/livez").text == "ok\n"
        assert metric in httpx.get(f"{base}/metrics").text


@pytest.mark.parametrize("name", ["zoetrope.serving.gateway.main", "zoetrope.serving.sweeper.main", "played_host"])
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP])
def test_a_child_that_dies_or_stands_still_is_replaced(service: Service, name: str, how: signal.Signals) -> None:
    first = service.started(name)
    first.send_signal(how)
    until(lambda: (found := service.find(name)) is not None and found.pid != first.pid, 30)
    assert not first.is_running()
    with VideoClient(service.addresses.grpc) as client:
        assert client.get(client.create(prompt="x")).state == "queued"


@pytest.mark.long
def test_a_gateway_that_dies_while_the_database_is_busy_comes_back(service: Service) -> None:
    with locked(service.data / "jobs.db"):
        service.started("zoetrope.serving.gateway.main").kill()
        service.said("the gateway exited with status 2; restarting it", 60)
        assert service.find("played_host") is not None, "nothing else ends with it"
    with VideoClient(service.addresses.grpc) as client:
        assert client.get(client.create(prompt="x")).state == "queued"


@pytest.mark.parametrize("signals", [pytest.param(1, marks=pytest.mark.long), 2])
def test_a_host_that_hangs_does_not_keep_the_service_from_stopping(tmp_path: Path, signals: int) -> None:
    """The gateways are there meanwhile, and end with it."""
    running = Service(tmp_path, HANGS)
    running.started("played_host")
    running.started("zoetrope.serving.sweeper.main")
    os.kill(running.process.pid, signal.SIGTERM)
    running.said("stopping")
    if signals == 2:
        os.kill(running.process.pid, signal.SIGTERM)
    else:
        until(lambda: running.find("zoetrope.serving.gateway.main") is None)
        host = running.find("played_host")
        assert host is not None, "it gets the time that engines may take"
        host.kill()
    running.ends(10)


def test_signals_end_a_service_that_waits_for_its_database(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    with locked(tmp_path / "data" / "jobs.db"):
        running = Service(tmp_path)
        until(lambda: (tmp_path / "data" / "lock").exists() and (tmp_path / "data" / "lock").read_text(), 30)
        os.kill(running.process.pid, signal.SIGTERM)
        running.ends(5)


@pytest.mark.long
def test_a_killed_supervisor_is_followed_by_another_at_once(tmp_path: Path) -> None:
    """On the same ports; what the first one left is gone, though it stands still."""
    first = Service(tmp_path)
    addresses = first.process.wait_ready(60)
    left = first.left()
    assert len(left) == 3
    for process in left:
        process.suspend()
    os.kill(first.process.pid, signal.SIGKILL)
    second = Service(tmp_path, addresses=addresses)
    assert second.process.wait_ready(60) == addresses
    assert not any(p.is_running() and p.status() != psutil.STATUS_ZOMBIE for p in left)
    os.kill(second.process.pid, signal.SIGTERM)
    second.ends(20)
    first.process.stop()


def test_a_port_that_is_taken_ends_the_service(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        running = Service(tmp_path, addresses=Addresses(address, "127.0.0.1:0"))
        with pytest.raises(Exception, match=f"^grpc: cannot listen at {address}: Address already in use"):
            running.process.wait_ready(60)
    running.ends(10)
