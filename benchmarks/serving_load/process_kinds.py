"""The processes of a service on one machine, by kind: what faults are aimed at."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from pathlib import Path

import psutil

# Kind -> what a process's command line contains. Ray's own two are told by their programs' names, which others' lines
# contain.
KINDS = {
    "host": "zoetrope.serving.ray_host.main",
    "gateway": "zoetrope.serving.gateway.main",
    "sweeper": "zoetrope.serving.sweeper.main",
    "router": "ServeReplica:zoetrope:Router",
    "conditioner": "ServeReplica:zoetrope:Conditioner",
    "decoder": "ServeReplica:zoetrope:Decoder",
    "leader": "ServeReplica:zoetrope:Engine",
    "rank": "ray::RankProcess",
    "controller": "ray::ServeController",
    "raylet": "raylet",
    "gcs": "gcs_server",
}
PROGRAMS = ("raylet", "gcs_server")


def named(processes: Iterable[psutil.Process], words: str) -> list[psutil.Process]:
    """Return those that run and are of the kind with these words, a value of `KINDS`."""
    found = []
    for process in processes:
        with contextlib.suppress(psutil.Error):  # it is gone
            if _is_named(process, words) and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


def _is_named(process: psutil.Process, words: str) -> bool:
    line = process.cmdline()
    return Path(line[0]).name == words if line and words in PROGRAMS else words in " ".join(line)
