"""The soak's own tools: its audit notices whatever is wrong, its proxy loses what it should, its order is by seed."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError

from tests.serving.jobs.harness import LIMITS, claim, new_job
from tests.serving.soak.audit import audit
from tests.serving.soak.clients import HOOKED, Ledger, Order
from tests.serving.soak.faults import KILLS, OTHERS, Scene, left_out, schedule
from tests.serving.soak.places import postgres_behind
from tests.serving.soak.proxy import Proxy
from tests.serving.soak.record import page, record_of
from tests.serving.soak.run import Seen, Soak, Struck
from tests.serving.soak.service import Service
from zoetrope.benchmarks.schema.service import SoakRecord
from zoetrope.cluster.snapshots.objects import SnapshotObjects
from zoetrope.serving.jobs.job import Result, State
from zoetrope.serving.jobs.open import Stores, open_stores
from zoetrope.serving.media import VideoWriter
from zoetrope.serving.storage.store import ArtifactStore

FRAMES = 5


class World:
    """What a soak leaves: a job that succeeded, and what may be done to it."""

    def __init__(self, directory: Path, stores: Stores) -> None:
        self.directory = directory
        self.database = f"sqlite://{directory}/jobs.db"
        self.stores = stores
        self.artifacts = ArtifactStore(directory / "artifacts")
        self.ledger = Ledger()
        self.succeed("good")

    def succeed(self, job_id: str, frames: int = FRAMES) -> None:
        self.stores.jobs.create(new_job(job_id), LIMITS)
        claim(self.stores.jobs)
        path = self.directory / "made.mp4"
        with VideoWriter(path, 16, 16, 8, "mp4", {}) as writer:
            writer.write(np.random.default_rng(0).integers(0, 255, (frames, 16, 16, 3), dtype=np.uint8))
        video = self.artifacts.put_file(f"jobs/{job_id}/1/video.mp4", path, "video/mp4")
        self.stores.jobs.finish(job_id, 1, State.SUCCEEDED, result=Result(video, None, frames, 16, 16, 8))
        self.accept(job_id)

    def accept(self, job_id: str) -> None:
        self.ledger.orders[f"request {job_id}"] = Order(f"operations/{job_id}", FRAMES)
        for event in HOOKED:
            self.ledger.webhooks[job_id, f"video.{event}"].add(f"{job_id}-{event}")

    def problems(self) -> list[str]:
        return audit(self.database, str(self.directory / "artifacts"), self.directory, self.ledger).problems


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    stores = open_stores(f"sqlite://{tmp_path}/jobs.db")
    yield World(tmp_path, stores)
    stores.close()


def wait_for_ever(world: World) -> None:
    world.stores.jobs.create(new_job("slow"), LIMITS)
    world.accept("slow")


def other_bytes(world: World) -> None:
    path = world.directory / "artifacts" / "jobs/good/1/video.mp4"
    path.write_bytes(path.read_bytes() + b"x")


WRONG: dict[str, tuple[Callable[[World], object], str]] = {
    "lost": (lambda world: world.accept("lost"), "lost is gone"),
    "doubled": (lambda world: world.ledger.orders.pop("request good"), "good was made for nobody"),
    "not over": (wait_for_ever, "slow ended 0 times"),
    "no file": (lambda world: world.artifacts.delete(["jobs/good/1/video.mp4"]), "good succeeded, its file: "),
    "other bytes": (other_bytes, "good: the file has another checksum than its row"),
    "too short": (lambda world: world.succeed("short", FRAMES - 1), "short: 4 frames instead of 5"),
    "twice told": (
        lambda world: world.ledger.webhooks["good", "video.start"].add("again"),
        "good: start came under 2 ids",
    ),
    "not told": (lambda world: world.ledger.webhooks.pop(("good", "video.completed")), "completed came under 0 ids"),
    "not deleted": (
        lambda world: setattr(world.ledger.orders["request good"], "deleted", True),
        "good was deleted and is there",
    ),
    "a stray": (
        lambda world: world.artifacts.put_bytes("jobs/nobody/1/video.mp4", b"x", "video/mp4"),
        "1 files belong to no job, such as jobs/nobody/1/video.mp4",
    ),
}


@pytest.mark.parametrize("what", WRONG)
def test_the_audit_notices(what: str, world: World) -> None:
    spoil, complaint = WRONG[what]
    spoil(world)
    assert any(complaint in problem for problem in world.problems()), world.problems()


def test_all_is_well_once_the_sweeper_has_passed(world: World) -> None:
    """A video of a holder that lost its lease, and what was written of a job after it was deleted."""
    world.succeed("deleted")
    world.ledger.orders["request deleted"].deleted = True
    world.stores.jobs.delete("deleted", "")
    world.artifacts.put_bytes("jobs/deleted/2/video.mp4", b"late", "video/mp4")
    snapshot = world.directory / "snapshots/good/0/1"
    snapshot.parent.mkdir(parents=True)
    snapshot.write_bytes(b"late")
    assert SnapshotObjects(str(world.directory)).jobs() == {"good"}
    assert world.problems() == []
    assert world.artifacts.below("jobs") == ["jobs/good/1/video.mp4"]


def test_answers_to_commits_are_lost_after_the_commit(postgres: str) -> None:
    import psycopg

    connect, address = postgres_behind(postgres)
    proxy = Proxy(connect)
    url = address.format(port=proxy.port)
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("CREATE TEMP TABLE nothing (a INT)")
        connection.execute("DROP TABLE IF EXISTS soaked")
        connection.execute("CREATE TABLE soaked (number INT)")
        for number in range(10):  # the driver prepares what it sends often, which no longer says COMMIT
            connection.execute("BEGIN")
            connection.execute("INSERT INTO soaked VALUES (%s)", (number,))
            if number == 9:
                proxy.lose_answers(1)
                with pytest.raises(psycopg.OperationalError):
                    connection.execute("COMMIT")
            else:
                connection.execute("COMMIT")
    with proxy.away(), pytest.raises(psycopg.OperationalError):
        psycopg.connect(url)
    with psycopg.connect(url) as connection:
        assert connection.execute("SELECT count(*) FROM soaked").fetchall() == [(10,)]
    assert proxy.lost == 1
    proxy.close()


def test_every_fault_has_its_turn(tmp_path: Path) -> None:
    """What can be done is done as often as anything else of its kind, in the order that the seed gives."""

    def order(seed: int) -> list[str]:
        scene = Scene(Service(tmp_path, {}), random.Random(seed), 15, 14, file=tmp_path / "jobs.db")
        assert [line.partition(":")[0] for line in left_out(scene)] == ["answer to COMMIT lost", "S3 away", "disk full"]
        return [fault.name for fault in schedule(scene, kills=40, others=len(OTHERS) - 3)]

    first = order(7)
    assert first == order(7) != order(8)
    assert {name: first.count(name) for name in first} == {
        **{fault.name: first.count(fault.name) for fault in KILLS},
        **{fault.name: 1 for fault in OTHERS if not fault.lacks(Scene(None, random.Random(), 0, 0))},  # type: ignore[arg-type]
    }
    assert {first.count(fault.name) for fault in KILLS} == {3, 4}


async def test_a_proxy_forwards_all_bytes() -> None:
    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(await reader.readexactly(1 << 20))
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(echo, "127.0.0.1", 0) as server:
        proxy = Proxy(partial(asyncio.open_connection, "127.0.0.1", server.sockets[0].getsockname()[1]))
        reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
        sent = random.Random(1).randbytes(1 << 20)
        writer.write(sent)
        assert await reader.read(-1) == sent
        writer.close()
        await asyncio.to_thread(proxy.close)


@pytest.mark.integration  # it asks git
def test_a_run_is_recorded(tmp_path: Path) -> None:
    seen = Seen(struck=[Struck("kill rank", 3, 1, 7.25), Struck("disk full", 0, 2, None)], seconds=60.0)
    seen.ledger.orders["one"] = Order("operations/1", FRAMES)
    seen.audit.states["succeeded"], seen.audit.attempts[1], seen.audit.files = 1, 1, 1
    plan = Soak(jobs=1, kills=1, others=1, postgres="postgresql://user:secret@127.0.0.1/soak", s3=True)
    found = record_of(plan, seen, "python -m tests.serving.soak.run --postgres --s3 --out x")
    assert "secret" not in json.dumps(found)
    SoakRecord.model_validate(json.loads(json.dumps(found)))
    written = page(found)
    assert "none: no job lost, none doubled." in written and "PostgreSQL, files in S3" in written
    assert "| disk full | 1 | 2 | never |" in written and "| kill rank | 1 | 4 | 7.2 |" in written
    assert "* one is gone" in page({**found, "problems": ["one is gone"]})
    found["struck"][0]["healed"] = -1.0
    with pytest.raises(ValidationError, match="healed"):
        SoakRecord.model_validate(found)
