"""What is kept of the logs of a cluster: bounded, and nothing that a client wrote."""

from __future__ import annotations

import logging
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from tests.serving.gateway.harness import ROOT
from zoetrope.serving.config.settings import Settings
from zoetrope.serving.ray_host import cluster_log, session
from zoetrope.serving.ray_host.cluster_log import log_path, rotate
from zoetrope.serving.ray_host.session import KEPT_BYTES, KEPT_SESSIONS, clear_session, new_session, session_note

FAILS = """
import logging
from zoetrope.serving.ray_host import cluster_log
cluster_log.set_up()
log = logging.getLogger("zoetrope.router")
try:
    raise ValueError("a secret prompt")
except ValueError:
    log.exception("job %s failed", "j1")
"""


def ended(settings: Settings, files: dict[str, bytes]) -> None:
    """A cluster that wrote these files, and is gone."""
    logs = Path(new_session(settings)) / "session_2026-11-29" / "logs"
    for name, content in files.items():
        (logs / name).parent.mkdir(parents=True, exist_ok=True)
        (logs / name).write_bytes(content)
    clear_session(settings)


def test_the_ends_of_rays_own_logs_are_kept_and_none_of_those_that_work_on_jobs(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path)
    files = {"raylet.out": b"x" * KEPT_BYTES + b"the end", "gcs_server.err": b"", "worker-1.err": b"a secret prompt"}
    ended(settings, {**files, "serve/controller_7.log": b"started", "serve/replica_zoetrope_Router_1.log": b"a secret"})
    [folder] = settings.logs.iterdir()
    kept = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert kept.keys() == {"raylet.out", "controller_7.log"}
    assert kept["raylet.out"] == (b"x" * KEPT_BYTES + b"the end")[-KEPT_BYTES:]
    assert not session_note(settings).exists()


def test_the_logs_of_the_last_clusters_are_kept(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path)
    for number in range(KEPT_SESSIONS + 2):
        ended(settings, {"raylet.out": str(number).encode()})
    kept = [(folder / "raylet.out").read_text() for folder in sorted(settings.logs.iterdir())]
    assert kept == [str(number) for number in range(2, KEPT_SESSIONS + 2)]


def test_a_note_of_another_place_removes_nothing(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path / "data")
    settings.directory.mkdir()
    (tmp_path / "precious").mkdir()
    session_note(settings).write_text(str(tmp_path / "precious"))
    clear_session(settings)
    assert (tmp_path / "precious").is_dir()


def test_a_log_that_cannot_be_kept_does_not_keep_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(directory: Path, logs: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(session, "_keep_logs", full)
    settings = Settings(data_dir=tmp_path)
    directory = Path(new_session(settings)).parent
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    clear_session(settings)
    assert not directory.exists()


def test_exceptions_are_logged_without_what_they_say(tmp_path: Path) -> None:
    path = log_path(tmp_path)
    environment = {cluster_log.VARIABLE: str(path), "PATH": ""}
    subprocess.run([sys.executable, "-c", FAILS], cwd=ROOT, env=environment, check=True)
    text = path.read_text()
    assert "ERROR" in text and "zoetrope.router: job j1 failed" in text and "ValueError" in text
    assert "secret" not in text


def test_a_large_log_goes_on_in_a_new_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster_log, "LOG_BYTES", 100)
    path = log_path(tmp_path)
    monkeypatch.setenv(cluster_log.VARIABLE, str(path))
    logger = logging.getLogger("zoetrope")
    monkeypatch.setattr(logger, "handlers", [])
    monkeypatch.setattr(logger, "level", logger.level)
    monkeypatch.setattr(logger, "propagate", logger.propagate)
    cluster_log.set_up()
    rotate(tmp_path)
    logger.warning("x" * 60)
    rotate(tmp_path)
    logger.warning("y" * 60)
    assert [("y" in p.read_text()) for p in (path, path.with_suffix(".log.1"))] == [True, False]
    logger.handlers[0].close()
