"""Where single clips are written, from which a run that was stopped goes on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def clips_path(out: Path) -> Path:
    """Return where single clips are written."""
    stem = out.with_suffix("") if out.suffix == ".json" else out
    return stem.with_name(f"{stem.name}-clips.json")


def earlier_runs(out: Path | None, measured: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the environments of the runs with the same settings whose clips are kept, oldest first."""
    path = None if out is None else clips_path(out)
    if path is None or not kept_clips(out, measured):
        return []
    results = path.with_name(path.name.replace("-clips.json", ".json"))
    if not results.is_file():
        return []
    earlier = json.loads(results.read_text())
    return list(earlier.get("runs", [earlier["environment"]]))


def kept_clips(out: Path | None, measured: dict[str, Any]) -> dict[Any, Any]:
    """Return the clips that an earlier run with the same settings has written; empty if there are none."""
    if out is None or not clips_path(out).is_file():
        return {}
    earlier: dict[str, Any] = json.loads(clips_path(out).read_text())
    return dict(earlier["clips"]) if earlier.get("measured") == measured else {}
