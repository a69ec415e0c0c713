"""The processes that the supervisor keeps alive, played by small scripts."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.serving.gateway.harness import until
from zoetrope.serving.config.process_marks import kill_marked
from zoetrope.serving.config.settings import Settings
from zoetrope.serving.supervisor.children import BACKOFF_SECONDS, MAX_FIRST_STARTS, Child, ChildError, stop_all

READY = "import os, sys, threading, time; print('ready', flush=True)"
BEAT = "while True: os.write(1, b'\\n'); time.sleep(0.05)"
WAIT = "threading.Event().wait()"
DEAF = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)"
ORPHAN = (
    "import subprocess; subprocess.Popen(['sleep', '1000'], start_new_session=True, stdout=subprocess.DEVNULL,"
    " stderr=subprocess.DEVNULL)"
)


@pytest.fixture
def mark() -> Iterator[str]:
    mark = f"test-{os.urandom(8).hex()}/"
    yield mark
    until(lambda: kill_marked(mark))


def child(folder: Path, mark: str, *lines: str, monkeypatch: pytest.MonkeyPatch, silent: float = 3.0) -> Child:
    """Of a module that holds these lines."""
    (folder / "played.py").write_text("\n".join(lines))
    monkeypatch.setenv("PYTHONPATH", str(folder))
    return Child("played", Settings(data_dir=folder, silent_seconds=silent), "player", mark, stop_seconds=0.5)


def poll_until(child: Child, words: str, elapsed: float = 0.1) -> str:
    """What it says of the child, once that has the words in it. Time runs as fast as ``elapsed`` says."""
    return until(lambda: next((m for m in [child.poll(elapsed)] if m is not None and words in m), None)) or ""


def processes(mark: str) -> list[psutil.Process]:
    return [p for p in psutil.process_iter() if mark in environment(p)]


def environment(process: psutil.Process) -> str:
    try:
        return str(process.environ())
    except psutil.Error:
        return ""


def test_nothing_waits_for_one_that_hangs_before_its_first_line(
    tmp_path: Path, mark: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    played = child(tmp_path, mark, "import threading", DEAF, WAIT, monkeypatch=monkeypatch)
    started = time.monotonic()
    played.poll(0.1)
    first = played.pid
    assert played.poll(100.0) is None
    assert time.monotonic() - started < 5, "an import may take long, and nobody waits for it"
    assert poll_until(played, "sent no heartbeat for 180 s; restarting it", 100.0)
    until(lambda: played.poll(0.1) is None and played.process is not None)
    assert played.pid != first and not psutil.pid_exists(first)
    stop_all([played], force=lambda: True)
    until(lambda: processes(mark) == [])


def test_one_that_ended_is_replaced_with_growing_pauses(
    tmp_path: Path, mark: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever its status is, once it has worked: the database may be away when it starts again."""
    log = tmp_path / "starts"
    count = f"import pathlib; log = pathlib.Path({str(log)!r}); log.open('a').write('x')"
    works = f"{count}; first = log.read_text() == 'x'"
    played = child(tmp_path, mark, READY, works, f"{WAIT} if first else sys.exit(2)", monkeypatch=monkeypatch)
    assert played.wait(10) == "ready\n"
    played.poll(0.1)
    os.kill(played.pid, signal.SIGKILL)
    backoff = []
    for status in (-9, 2, 2, 2):
        said = poll_until(played, f"exited with status {status}")
        backoff.append(float(said.partition(" in ")[2].removesuffix(" s") or 0))
    assert backoff == list(BACKOFF_SECONDS[:4])
    played.stop()


def test_one_that_never_worked_and_refuses_its_settings_ends_the_service(
    tmp_path: Path, mark: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    played = child(tmp_path, mark, "raise SystemExit(2)", monkeypatch=monkeypatch)
    with pytest.raises(ChildError, match="the player did not start; its message is above"):
        played.wait(10)


def test_one_that_breaks_down_whenever_it_starts_ends_the_service(
    tmp_path: Path, mark: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    played = child(tmp_path, mark, "raise SystemExit(1)", monkeypatch=monkeypatch)
    said = [poll_until(played, "exited with status 1", 1.0) for _ in range(MAX_FIRST_STARTS - 1)]
    assert len(said) == MAX_FIRST_STARTS - 1
    with pytest.raises(ChildError, match="the player did not start"):
        poll_until(played, "never", 1.0)


def test_a_machine_that_cannot_start_one_now_is_asked_again(
    tmp_path: Path, mark: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    played = child(tmp_path, mark, READY, WAIT, monkeypatch=monkeypatch)
    with monkeypatch.context() as full:
        full.setattr(subprocess, "Popen", lambda *_, **__: os.read(-1, 1))
        said = poll_until(played, "cannot be started")
    assert said == "the player cannot be started ([Errno 9] Bad file descriptor); trying again in 30 s"
    assert played.poll(29.0) is None and played.process is None
    assert played.wait(10) == "ready\n"
    played.stop()


def test_a_stopped_one_is_replaced_and_one_that_stood_still_for_a_moment_is_not(
    tmp_path: Path, mark: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    played = child(tmp_path, mark, READY, BEAT, monkeypatch=monkeypatch, silent=5.0)
    played.wait(10)
    first = played.pid
    os.kill(first, signal.SIGSTOP)
    assert [played.poll(1.0) for _ in range(3)] == [None] * 3
    os.kill(first, signal.SIGCONT)
    until(lambda: played._silent == 0.0)
    assert played.poll(1.0) is None
    os.kill(first, signal.SIGSTOP)
    assert poll_until(played, "sent no heartbeat for 5 s; restarting it", 1.0)
    assert played.wait(10) and played.pid != first
    played.stop()


def test_whatever_one_leaves_behind_is_gone_before_the_next_starts(
    tmp_path: Path, mark: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    played = child(tmp_path, mark, READY, ORPHAN, "print('up', flush=True)", WAIT, monkeypatch=monkeypatch)
    played.wait(10)
    [orphan] = until(lambda: [p for p in processes(mark) if p.name() == "sleep"])
    os.kill(orphan.pid, signal.SIGSTOP)
    os.kill(played.pid, signal.SIGKILL)
    poll_until(played, "exited with status -9")
    until(lambda: played.poll(0.1) is None and played.process is not None)
    assert not orphan.is_running() or orphan.status() == psutil.STATUS_ZOMBIE
    played.stop()
    until(lambda: processes(mark) == [])


def test_what_hides_its_mark_is_known_by_its_session(
    tmp_path: Path, mark: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As Ray's agents do, whose titles lie over their environment."""
    unmarked = ORPHAN.replace("start_new_session=True", "env={'PATH': os.environ['PATH'], 'OF': 'TEST'}")
    played = child(tmp_path, mark, READY, unmarked, "print('up', flush=True)", WAIT, monkeypatch=monkeypatch)
    played.wait(10)
    [orphan] = until(lambda: [p for p in psutil.Process(played.pid).children() if p.name() == "sleep"])
    os.kill(played.pid, signal.SIGKILL)
    poll_until(played, "exited with status -9")
    until(lambda: not orphan.is_running() or orphan.status() == psutil.STATUS_ZOMBIE)
    played.stop()


def test_one_that_ignores_the_signal_is_killed(tmp_path: Path, mark: str, monkeypatch: pytest.MonkeyPatch) -> None:
    played = child(tmp_path, mark, DEAF, READY, WAIT, monkeypatch=monkeypatch)
    played.wait(10)
    started = time.monotonic()
    played.stop()
    assert played.process is None and time.monotonic() - started < 5
    played = child(tmp_path, mark, DEAF, READY, WAIT, monkeypatch=monkeypatch)
    played.stop_seconds = 60.0
    played.wait(10)
    stop_all([played], force=lambda: True)
    assert played.process is None and time.monotonic() - started < 10


def test_an_empty_mark_would_match_everybody() -> None:
    with pytest.raises(ValueError, match="mark must not be empty"):
        kill_marked("")
