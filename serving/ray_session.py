"""What a Ray cluster leaves on the disk: its folder, and of that what is worth keeping."""

from __future__ import annotations

import os
import shutil
import tempfile
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

from serving.settings import Settings

PREFIX = "zoetrope-ray-"
INNER = "r"
# Of Ray's own processes and of Serve's controller. What those write that work on jobs may hold prompts: see
# `serving.cluster_log` for them.
KEPT = ("gcs_server.*", "raylet.*", "python-core-driver-*.log", "serve/controller_*.log", "dashboard_agent.log")
KEPT_BYTES = 1 << 20  # of each file, its end
KEPT_SESSIONS = 5


def note_of(settings: Settings) -> Path:
    """Where the place of the folder is kept, so that the next service removes what a killed one left."""
    return settings.directory / "ray-session"


def new_session(settings: Settings) -> str:
    """A place for a cluster's folder, outside the data directory because the paths of its sockets must stay under 107
    bytes, and within a folder that is closed to others because Ray opens its own to everybody."""
    directory = tempfile.mkdtemp(prefix=PREFIX)
    try:
        note_of(settings).write_text(directory)
    except OSError:
        os.rmdir(directory)
        raise
    return f"{directory}/{INNER}"


def clear_session(settings: Settings) -> None:
    """Remove the folder of a cluster that has ended, and keep the ends of its logs."""
    note = note_of(settings)
    if not note.exists():
        return
    directory = Path(note.read_text())
    if str(directory).startswith(str(Path(tempfile.gettempdir()) / PREFIX)):
        with suppress(OSError):  # a full disk: the service is worth more than a log
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
