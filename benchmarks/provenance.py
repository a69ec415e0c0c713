"""Where figures come from: code, versions and machine, as every result file and page states them."""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

COMMIT = "ZOETROPE_COMMIT"  # the commit that runs, where there is no repository; "-dirty" behind it: with changes
IDLE_LOAD = 0.3  # load average of the last minute above which the machine counts as busy
REPOSITORY = Path(__file__).resolve().parents[1]
LOAD_AT_START = os.getloadavg()  # of the machine when the benchmark's process began


def now() -> str:
    """Return the UTC time in ISO 8601, to the second."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def output_of(*command: str) -> str | None:
    """Return the first line that a command prints, run in the repository; None if it fails."""
    try:
        done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip().split("\n")[0] if done.returncode == 0 else None


def code() -> dict[str, Any]:
    """Return the commit, by `COMMIT` or else the repository, and whether Python files differ from it."""
    given = os.environ.get(COMMIT)
    if given:
        return {"commit": given.removesuffix("-dirty"), "changed": given.endswith("-dirty")}
    return {
        "commit": output_of("git", "rev-parse", "HEAD"),
        "changed": bool(output_of("git", "status", "--porcelain", "--untracked-files=no", "--", "*.py")),
    }


def commit_of(where: Mapping[str, Any]) -> str:
    """Describe the code that ran, as recorded by `code`."""
    return f"commit {where['commit'] or 'unknown'}{' with changes' if where['changed'] else ''}"


def versions(packages: Iterable[str]) -> dict[str, str]:
    """Return the versions of those packages that are installed."""
    found = {}
    for package in packages:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def header(command: str, seed: int | None = None) -> dict[str, Any]:
    """Return what every result file states under ``environment``; `environment.header` adds torch and the device.

    Args:
        command: the shell command of the run, see `command.command_line`.
        seed: of what the run draws; None if it draws nothing.
    """
    return {
        "command": command,
        **code(),
        "seed": seed,
        "date": now(),
        "python": platform.python_version(),
        "machine": machine(LOAD_AT_START),
    }


def machine(load: Sequence[float]) -> dict[str, Any]:
    """Describe this machine. ``load``: the load averages before the run."""
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "usable_cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "load_average": [round(value, 2) for value in load],
        "idle": load[0] <= IDLE_LOAD,
    }


def busy(about: Mapping[str, Any]) -> str | None:
    """Return a warning for readers if the machine was not idle."""
    if about["idle"]:
        return None
    load = about["load_average"][0]
    return f"The machine was not idle: its load average was {load:.2f} before the run, on {about['cores']} cores."


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())
