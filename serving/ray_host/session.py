"""The folder that a Ray cluster leaves on disk: where it is, and which logs are kept from it."""

from __future__ import annotations

import os
import shutil
import tempfile
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

from zoetrope.serving.config.settings import Settings

PREFIX = "zoetrope-ray-"
INNER = "r"
# Logs of Ray's own processes and of Serve's controller. Logs of the processes that work on jobs may contain prompts;
# those processes write to `serving.ray_host.cluster_log` instead.
KEPT = ("gcs_server.*", "raylet.*", "python-core-driver-*.log", "serve/controller_*.log", "dashboard_agent.log")
KEPT_BYTES = 1 << 20  # from the end of each file
KEPT_SESSIONS = 5


def session_note(settings: Settings) -> Path:
    """Return the file that records the session folder, so that the next service can remove what a killed one left."""
    return settings.directory / "ray-session"


def new_session(settings: Settings) -> str:
    """Create a place for a cluster's folder and return its path.

    It is outside the data directory because socket paths must stay under 107 bytes, and inside a private folder because
    Ray makes its own folder accessible to everyone.
    """
    directory = tempfile.mkdtemp(prefix=PREFIX)
    try:
        session_note(settings).write_text(directory)
    except OSError:
        os.rmdir(directory)
        raise
    return f"{directory}/{INNER}"


def clear_session(settings: Settings) -> None:
    """Remove the folder of a cluster that has ended, keeping the ends of its logs."""
    note = session_note(settings)
    if not note.exists():
        return
    directory = Path(note.read_text())
    if str(directory).startswith(str(Path(tempfile.gettempdir()) / PREFIX)):
        with suppress(OSError):  # disk full: starting the service matters more than the logs
            _keep_logs(directory / INNER, settings.logs)
        shutil.rmtree(directory, ignore_errors=True)
    note.unlink(missing_ok=True)


def _keep_logs(directory: Path, logs: Path) -> None:
    found = [path for pattern in KEPT for path in directory.glob(f"session_2*/logs/{pattern}") if path.stat().st_size]
    if not found:
        return
    kept = logs / f"ray-{datetime.now(UTC):%Y%m%dT%H%M%S.%f}"
    kept.mkdir(parents=True, exist_ok=True)
    for path in found:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - KEPT_BYTES), os.SEEK_SET)
            (kept / path.name).write_bytes(file.read(KEPT_BYTES))
    for old in sorted(logs.glob("ray-*"))[:-KEPT_SESSIONS]:
        shutil.rmtree(old, ignore_errors=True)
