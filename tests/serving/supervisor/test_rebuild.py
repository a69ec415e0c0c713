"""Ray's own processes, and Serve's, killed and stopped: the service goes on from its store."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest

from tests.serving.gateway.harness import until
from tests.serving.supervisor.test_supervisor import marks
from tests.serving.whole.service import Service, command_line
from tests.serving.whole.test_service import REQUEST, denoising, listening_sockets
from zoetrope.serving.cli.service import ServiceProcess, serve_command
from zoetrope.serving.client import VideoClient

pytestmark = [pytest.mark.long, pytest.mark.timeout(400)]

SECONDS = 150.0


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ZOETROPE_SILENT_SECONDS", "12")
        running = Service(tmp_path_factory.mktemp("service"))
    yield running
    running.stop()
    log = (running.directory / "data" / "logs" / "cluster.log").read_text()
    assert "zoetrope." in log and str(REQUEST["prompt"]) not in log


def readiness(service: Service) -> int:
    return httpx.get(f"http://{service.addresses.http}/readyz", timeout=10).status_code


def runs(process: psutil.Process) -> bool:
    return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)


@pytest.mark.parametrize(
    ("victim", "how"),
    [
        ("raylet/raylet", signal.SIGKILL),
        ("gcs/gcs_server", signal.SIGKILL),
        ("zoetrope.serving.ray_host.main", signal.SIGKILL),
        ("raylet/raylet", signal.SIGSTOP),
        ("gcs/gcs_server", signal.SIGSTOP),
        ("ray::ServeController", signal.SIGSTOP),
        ("zoetrope.serving.ray_host.main", signal.SIGSTOP),
    ],
)
def test_another_cluster_takes_the_place_of_one_that_is_lost(
    service: Service, victim: str, how: signal.Signals
) -> None:
    name = service.client.create({**REQUEST, "steps": 60})
    assert not denoising(service, name).done
    old = [p for p in service.family() if is_of_ray(p)]
    os.kill(service.find(victim).pid, how)
    until(lambda: readiness(service) == 503, 60)
    meanwhile = service.client.create({**REQUEST, "steps": 1})
    assert service.client.get(meanwhile).state == "queued"
    assert [service.client.wait(job, SECONDS).state for job in (name, meanwhile)] == ["succeeded"] * 2
    assert readiness(service) == 200
    assert not [p for p in old if runs(p)], "nothing of the old cluster is left"
    assert sum(1 for p in service.family() if p.name() == "raylet") == 1


@pytest.mark.parametrize(
    ("victim", "how"), [("ray::ServeController", signal.SIGKILL), ("ray::ServeReplica:zoetrope:Router", signal.SIGSTOP)]
)
def test_serve_itself_replaces_what_it_can(service: Service, victim: str, how: signal.Signals) -> None:
    name = service.client.create({**REQUEST, "steps": 60})
    assert not denoising(service, name).done
    raylet = service.find("raylet/raylet").pid
    process = service.find(victim)
    os.kill(process.pid, how)
    until(lambda: not runs(process), 90)
    assert service.client.wait(name, SECONDS).state == "succeeded"
    until(lambda: runs(service.find(victim)), 60)
    assert service.find("raylet/raylet").pid == raylet, "the cluster is the same"


def test_a_gang_meets_on_loopback(tmp_path_factory: pytest.TempPathFactory) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ZOETROPE_RANKS", "2")
        service = Service(tmp_path_factory.mktemp("gang"))
    try:
        ranks = [p for p in service.family() if "ray::RankProcess" in " ".join(command_line(p))]
        assert len(ranks) == 2
        for rank in ranks:
            assert len(listening_sockets([rank])) >= 2, "Ray's, and gloo's"
        assert {a for a in listening_sockets(service.family()) if not a.startswith("127.0.0.1:")} == set()
        with VideoClient(service.addresses.grpc) as client:
            assert client.wait(client.create({**REQUEST, "steps": 2}), 60).state == "succeeded"
    finally:
        service.process.stop()


@pytest.mark.parametrize("moment", ["starting Ray", "loading nano"])
@pytest.mark.parametrize("signals", [1, 2])
def test_signals_during_a_start_leave_nothing_behind(tmp_path: Path, moment: str, signals: int) -> None:
    process = ServiceProcess(serve_command("nano", tmp_path / "data"), tmp_path / "log")
    until(lambda: moment in (tmp_path / "log").read_text(), 60)
    for _ in range(signals):
        os.kill(process.pid, signal.SIGTERM)
    psutil.Process(process.pid).wait(20)
    mark = (tmp_path / "data" / "lock").read_text()
    assert mark and [p for p in psutil.process_iter() if mark in marks(p)] == []
    assert not (tmp_path / "data" / "ray-session").exists()
    assert process.stop() == []
    lines = (tmp_path / "log").read_text().splitlines()
    assert [x for x in lines if x.startswith(("error", "Traceback")) or " ERROR " in x] == []


def is_of_ray(process: psutil.Process) -> bool:
    line = " ".join(command_line(process))
    return "ray::" in line or "/ray/" in line
