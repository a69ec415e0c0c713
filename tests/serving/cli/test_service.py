"""A service of one's own: started, waited for, and gone afterwards, whatever happens. Small scripts stand in for it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from tests.serving.gateway.harness import ROOT, until
from zoetrope.serving.cli import service as service_module
from zoetrope.serving.cli.errors import CliError
from zoetrope.serving.cli.service import Addresses, ServiceProcess, private_service, serve_command

READY = "print('hello', flush=True); print('ready grpc=127.0.0.1:1 http=127.0.0.1:2', flush=True)"
WAIT = "import threading; threading.Event().wait()"
DEAF = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)"


def script(*lines: str) -> list[str]:
    return [sys.executable, "-c", "\n".join(lines)]


def running(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def test_ready_and_stopped(tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    note = f"import os, pathlib; pathlib.Path({str(pid)!r}).write_text(str(os.getpid()))"
    service = ServiceProcess(script(note, READY, WAIT), tmp_path / "log")
    assert service.wait_ready(30) == Addresses("127.0.0.1:1", "127.0.0.1:2")
    assert service.stop() == []
    assert not running(int(pid.read_text()))
    assert service.stop() == [], "stopping twice does no harm"


@pytest.mark.parametrize(
    ("code", "message", "exit_code"),
    [
        ("import sys; print('error: model: x', file=sys.stderr); sys.exit(2)", "model: x", 2),
        ("import sys; print('one\\n\\nboom\\n', file=sys.stderr)", "the service did not start: boom", 1),
        ("", "the service did not start: exit code 0", 1),
    ],
    ids=["bad input", "failure", "silence"],
)
def test_a_service_that_does_not_start(code: str, message: str, exit_code: int, tmp_path: Path) -> None:
    service = ServiceProcess(script(code), tmp_path / "log")
    with pytest.raises(CliError) as caught:
        service.wait_ready(30)
    assert (str(caught.value), caught.value.exit_code) == (message, exit_code)
    assert service.stop() == []


def test_a_service_that_takes_too_long(tmp_path: Path) -> None:
    service = ServiceProcess(script(WAIT), tmp_path / "log")
    with pytest.raises(CliError, match=r"was not ready after 0\.1 s"):
        service.wait_ready(0.1)
    assert service.stop() == []


def test_orphans_are_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two that ignore SIGTERM: a child that the service leaves behind, and one whose parent is gone already."""
    monkeypatch.setattr(service_module, "LINGER_SECONDS", 0.2)
    child = f"{DEAF}; print('deaf', flush=True); {WAIT}"
    start = f"subprocess.Popen([sys.executable, '-c', {child!r}], stdout=subprocess.PIPE)"
    pids = tmp_path / "pids"
    code = [
        "import os, pathlib, subprocess, sys",
        f"child = {start}; child.stdout.readline()",
        "if (middle := os.fork()) == 0:",
        f"    orphan = {start}; orphan.stdout.readline()",
        f"    pathlib.Path({str(pids)!r}).write_text(f'{{child.pid}} {{orphan.pid}}')",
        "    os._exit(0)",
        "os.waitpid(middle, 0)",
    ]
    service = ServiceProcess(script(*code, READY, WAIT), tmp_path / "log")
    service.wait_ready(30)
    left = [int(pid) for pid in pids.read_text().split()]
    assert all(map(running, left))
    assert len(service.stop()) == 2
    assert not any(map(running, left))


def test_a_service_that_ignores_the_signal_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service_module, "STOP_SECONDS", 0.2)
    service = ServiceProcess(script(DEAF, READY, WAIT), tmp_path / "log")
    service.wait_ready(30)
    assert service.stop() == ["the service"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_signals_end_the_block(number: signal.Signals, tmp_path: Path) -> None:
    before = signal.getsignal(number)
    seen: list[ServiceProcess] = []

    def block() -> None:
        with private_service(script(READY, WAIT), tmp_path / "log") as service:
            seen.append(service)
            service.wait_ready(30)
            os.kill(os.getpid(), number)
            until(lambda: False)

    with pytest.raises(KeyboardInterrupt):
        block()
    assert signal.getsignal(number) is before
    with pytest.raises(CliError, match="did not start"):
        seen[0].wait_ready(30)


def test_the_service_ends_with_its_parent(tmp_path: Path) -> None:
    """Even when the parent is killed and can clean up nothing."""
    pid = tmp_path / "pid"
    note = f"import os, pathlib; pathlib.Path({str(pid)!r}).write_text(str(os.getpid()))"
    service = script(
        note, "from zoetrope.serving.config.shutdown import stop_with_stdin; stop_with_stdin()", READY, WAIT
    )
    parent = [
        "import pathlib; from zoetrope.serving.cli.service import ServiceProcess",
        f"service = ServiceProcess({service!r}, pathlib.Path({str(tmp_path / 'log')!r}))",
        "service.wait_ready(30); print('up', flush=True)",
        WAIT,
    ]
    process = subprocess.Popen(script(*parent), cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "up\n"
    child = int(pid.read_text())
    assert running(child)
    process.kill()
    process.communicate()
    until(lambda: not running(child))


def test_command() -> None:
    """What the parts above run is understood by the command line."""
    command = serve_command("nano", Path("here"))
    assert command[:4] == [sys.executable, "-m", "zoetrope.serving.cli", "serve"]
    done = subprocess.run([*command, "--help"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
