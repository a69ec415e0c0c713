"""Processes of one machine count together, and what a killed one counted stays."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import httpx
import psutil
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.serving.gateway.harness import until
from tests.serving.seen.service import free_port
from zoetrope.cluster.telemetry.exposition import ADDRESS, serve_in_background
from zoetrope.cluster.telemetry.shared import DIRECTORY, forget_oldest, start_sharing

COUNT = """
import os, signal, sys
from zoetrope.cluster.telemetry import metrics
from zoetrope.cluster.telemetry.exposition import exposition
metrics.WEBHOOKS.labels("delivered").inc(3)
metrics.STEP_SECONDS.labels("nano").observe(0.2)
metrics.SWEPT_AT.set(float(sys.argv[1]))
if sys.argv[2:]:
    os.kill(os.getpid(), signal.SIGKILL)
sys.stdout.write(exposition().decode())
"""


def count(folder: Path, at: str, *killed: str) -> dict[str, float]:
    done = subprocess.run(
        [sys.executable, "-c", COUNT, at, *killed],
        env={**os.environ, DIRECTORY: str(folder)},
        capture_output=True,
        text=True,
    )
    assert not done.stderr
    samples = (s for family in text_string_to_metric_families(done.stdout) for s in family.samples)
    return {f"{s.name}{sorted(s.labels.items())}": s.value for s in samples}


def test_what_others_counted_is_shown_too(tmp_path: Path) -> None:
    assert not count(tmp_path / "m", "100", "killed")
    found = count(tmp_path / "m", "200")
    assert found["zoetrope_webhooks_total[('outcome', 'delivered')]"] == 6
    assert found["zoetrope_step_seconds_count[('model', 'nano')]"] == 2
    assert found["zoetrope_sweep_timestamp_seconds[]"] == 200
    assert all(name.startswith("zoetrope_") for name in found)


def test_files_of_the_dead_are_bounded_and_a_new_service_starts_at_zero(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(DIRECTORY, str(tmp_path))
    mine = tmp_path / f"counter_{os.getpid()}.db"
    for number, path in enumerate([mine, *(tmp_path / f"counter_{2**22 + n}.db" for n in range(1, 6))]):
        path.touch()
        os.utime(path, (number, number))
    assert forget_oldest(kept=2) == 3
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(
        [mine.name, f"counter_{2**22 + 4}.db", f"counter_{2**22 + 5}.db"]
    )
    start_sharing(tmp_path / "default")
    assert os.environ[DIRECTORY] == str(tmp_path) and not list(tmp_path.iterdir())


SERVE = """
import sys
from zoetrope.cluster.telemetry import metrics
from zoetrope.cluster.telemetry.exposition import serve_in_background
metrics.SWEPT.inc()
serve_in_background()
print("counted", flush=True)
sys.stdin.read()
"""


def test_one_process_answers_for_all_and_another_takes_over_when_it_is_killed(tmp_path: Path) -> None:
    port = free_port()
    environment = {**os.environ, DIRECTORY: str(tmp_path), ADDRESS: f"127.0.0.1:{port}"}
    command = [sys.executable, "-c", SERVE]
    running = [
        subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE) for _ in range(2)
    ]
    try:
        for process in running:
            assert process.stdout is not None and process.stdout.readline() == b"counted\n"
        holder = until(lambda: next((p for p in running if listens(p.pid, port)), None))
        assert holder is not None and swept(port) == 2
        holder.kill()
        (other,) = [process for process in running if process is not holder]
        until(lambda: listens(other.pid, port), 20)
        assert swept(port) == 2
    finally:
        for process in running:
            process.kill()
            process.communicate()


def listens(pid: int, port: int) -> bool:
    return any(c.laddr.port == port and c.status == "LISTEN" for c in psutil.Process(pid).net_connections("inet"))


def swept(port: int) -> float:
    text = httpx.get(f"http://127.0.0.1:{port}/metrics").text
    samples = (s for family in text_string_to_metric_families(text) for s in family.samples)
    return next(s.value for s in samples if s.name == "zoetrope_swept_total")


def test_a_folder_that_cannot_be_used_is_no_reason_not_to_start(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.touch()
    done = subprocess.run(
        [sys.executable, "-c", COUNT, "1"],
        env={**os.environ, DIRECTORY: str(blocked / "m")},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0 and "cannot be written" in done.stderr
    assert 'zoetrope_webhooks_total{outcome="delivered"} 3.0' in done.stdout


@pytest.mark.parametrize("address", ["0.0.0.0:port", ":99999", "0.0.0.0:", "0.0.0.0:0"])
def test_an_address_that_is_none_costs_the_metrics_and_not_the_process(
    address: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv(ADDRESS, address)
    serve_in_background()
    (said,) = caplog.messages
    assert said == f"no metrics: {ADDRESS} is {address!r}, and must be HOST:PORT with a port from 1 to 65535"
