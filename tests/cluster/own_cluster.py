"""Ray clusters of fake nodes: each in a process of its own, for Ray allows one a process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).resolve().parents[2]
SLOW = "timed out during startup"  # Ray gives a node 30 s, which a busy machine may exceed: then once more
NODE: dict[str, Any] = {
    "num_cpus": 1,
    "num_gpus": 4,
    "object_store_memory": 80 << 20,
    "include_dashboard": False,
    "include_log_monitor": False,
}


def run_in_own_cluster(module: str, seconds: float = 600) -> dict[str, Any]:
    """What a module of tests prints as JSON in its last line.

    Raises:
        AssertionError: with the end of what it wrote to stderr.
    """
    # In its own folder the cluster is not taken for that of other tests. Names of sockets must be short.
    with tempfile.TemporaryDirectory(prefix="zoe-", ignore_cleanup_errors=True) as folder:
        settings = {"RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0", "RAY_TMPDIR": folder}
        settings["RAY_prestart_worker_first_driver"] = "0"  # workers that nobody asks for
        code, out, said = _run(module, {**os.environ, **settings}, seconds)
        if SLOW in said:
            code, out, said = _run(module, {**os.environ, **settings}, seconds)
    assert code == 0, said[-3000:]
    found: dict[str, Any] = json.loads(out.splitlines()[-1])
    return found


def until(true: Callable[[], bool], seconds: float = 60) -> None:
    """Wait for it, in a module that runs in such a cluster."""
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "it did not come true in time"
        time.sleep(0.05)


def _run(module: str, environment: dict[str, str], seconds: float) -> tuple[int, str, str]:
    """Its exit status, and what it wrote. It leaves no processes, not even when it takes too long."""
    command = [sys.executable, "-m", module]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, cwd=ROOT, env=environment, stdout=pipe, stderr=pipe, text=True) as process:
        try:
            out, said = process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            for one in (*psutil.Process(process.pid).children(recursive=True), process):
                with suppress(psutil.NoSuchProcess):
                    one.kill()
            _, said = process.communicate()
            raise AssertionError(f"{module} took longer than {seconds:g} s: {said[-3000:]}") from None
    return process.returncode, out, said
