"""The parts of the service apart from each other, as KubeRay and Kubernetes run them: the application on a Ray cluster
with token authentication, deployed through Serve's REST API; gateway and sweeper as processes of their own; PostgreSQL,
an S3 server and Redis. Nothing but the model's files is shared."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.fixtures.media_files import TASKS, task_of, write_media
from tests.serving.apart.parts import gateway, redis, sweeper
from tests.serving.apart.ray_cluster import Node, RayCluster
from tests.serving.apart.trails import Trail, notes, waits, watching
from tests.serving.soak.places import CREDENTIALS, bucket, environment
from tests.serving.soak.service import until
from zoetrope.serving.client import VideoClient
from zoetrope.serving.jobs.job import Job, State
from zoetrope.serving.jobs.open import Stores, open_stores
from zoetrope.serving.jobs.store import JobStore
from zoetrope.serving.media import probe

pytestmark = [pytest.mark.long, pytest.mark.timeout(900)]

WORK = {"zoetrope.dev/part": "work"}
DEPLOY_SECONDS = 240.0
END_SECONDS = 400.0
LEASE_SECONDS = 600.0  # nothing that waits for one to run out ends in time
HAND_SECONDS = 90.0  # from a release to the next claim: new processes start meanwhile, on two busy cores
DRAIN_SECONDS = 150
WORK_SECONDS = 90.0  # of ten jobs, as measured: longer than a replica takes to start
FIRST_STEPS, MOST_STEPS = 30, 1_000
UNDER_WAY = 10  # steps that every job has taken before something happens
JOBS = 10


@dataclass
class Deployment:
    cluster: RayCluster
    config: dict[str, Any]
    client: VideoClient
    stores: Stores
    head: Node
    steps: int = 0  # of a job, once it was measured

    @property
    def store(self) -> JobStore:
        return self.stores.jobs

    def jobs(self, ids: list[str]) -> list[Job]:
        found = self.store.get_many(ids)
        return [found[job_id] for job_id in ids]

    def start_jobs(self) -> list[str]:
        """Ten long jobs, whose ids it returns. How many steps take long, the first ones tell."""
        if not self.steps:
            started = time.monotonic()
            self.until_ended(self._create(FIRST_STEPS))
            pace = (time.monotonic() - started) / FIRST_STEPS
            self.steps = min(MOST_STEPS, max(2 * FIRST_STEPS, int(WORK_SECONDS / pace)))
        return self._create(self.steps)

    def _create(self, steps: int) -> list[str]:
        names = [
            self.client.create(prompt=f"a red circle, number {n}", size="40x24", frames=17, steps=steps, seed=n)
            for n in range(JOBS)
        ]
        return [name.removeprefix("operations/") for name in names]

    def until_under_way(self, ids: list[str]) -> None:
        until(lambda: all(job.step >= UNDER_WAY for job in self.jobs(ids)), END_SECONDS, "all jobs are under way")
        ended = sum(job.state.final for job in self.jobs(ids))
        assert ended <= JOBS // 2, f"the jobs are too short: {ended} have ended"

    def until_ended(self, ids: list[str]) -> list[Job]:
        until(lambda: all(job.state.final for job in self.jobs(ids)), END_SECONDS, "all jobs have ended")
        return self.jobs(ids)

    def until_deployed(self) -> None:
        def runs() -> bool:
            found = self.cluster.application()
            assert found.get("status") != "DEPLOY_FAILED", found
            return found.get("status") == "RUNNING" and bool(self.store.engines(10.0))

        until(runs, DEPLOY_SECONDS, "the application runs")


def config_of(data: Path) -> dict[str, Any]:
    labels = [f"{name}={value}" for name, value in WORK.items()]
    args = {
        "model": "nano",
        "engines": 2,
        "rank_device": "cpu",
        "data_dir": str(data),
        "lease_seconds": LEASE_SECONDS,
        "max_running": 2 * JOBS,
        "snapshot_seconds": 3600.0,  # so that what resumes does so from what was written for it
        "preview_steps": 0,
        **dict.fromkeys(("engine_labels", "stage_labels", "router_labels"), labels),
    }
    application = {
        "name": "zoetrope",
        "import_path": "zoetrope.serving.serve_app:build",
        "route_prefix": None,
        "args": args,
    }
    return {"proxy_location": "Disabled", "applications": [application]}


@pytest.fixture(scope="module")
def deployment(postgres_server: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    import psycopg

    folder = tmp_path_factory.mktemp("apart")
    with psycopg.connect(postgres_server, autocommit=True) as connection:
        connection.execute("DROP SCHEMA IF EXISTS zoetrope CASCADE")
    with redis() as kept, bucket() as port, environment(CREDENTIALS):
        store = f"s3://bucket/apart?endpoint=http://127.0.0.1:{port}"
        variables = {
            "ZOETROPE_DATABASE": postgres_server,
            "ZOETROPE_ARTIFACT_STORE": store,
            "ZOETROPE_SNAPSHOT_STORE": store,
            "ZOETROPE_ALLOW_NETWORKS": "127.0.0.0/8",
        }
        outside = {**variables, "ZOETROPE_DATA_DIR": str(folder / "outside")}
        cluster = RayCluster(variables, folder, kept)
        migrate = [sys.executable, "-m", "zoetrope.serving.cli", "migrate"]
        subprocess.run(migrate, env={**cluster.variables(), **outside}, check=True, timeout=120)
        try:
            head = cluster.start_head()
            # The config is there first, as KubeRay has it: no worker has joined when the builder runs.
            config = config_of(folder / "data")
            cluster.deploy(config)
            for name in ("one", "two"):
                cluster.add_node(name, 2, WORK)
            with (
                gateway(outside, folder / "gateway.log") as addresses,
                sweeper(outside, folder / "sweeper.log"),
                VideoClient(addresses.grpc) as client,
                closing(open_stores(postgres_server)) as stores,
            ):
                deployed = Deployment(cluster, config, client, stores, head)
                deployed.until_deployed()
                yield deployed
        finally:
            cluster.close()


def handed_over(deployment: Deployment, jobs: list[Job], trails: dict[str, Trail]) -> None:
    """None is lost or has waited for a lease, none counts another attempt, and each went on from where it was."""
    store = deployment.store
    assert [job.state for job in jobs] == [State.SUCCEEDED] * JOBS, [job.error_message for job in jobs]
    assert [job.attempt for job in jobs] == [1] * JOBS
    assert {note for job in jobs for note in notes(store, job)} <= {"its lease had been given back"}
    waited = [seconds for job in jobs for seconds in waits(store, job)]
    print(f"{len(waited)} leases given back, claimed again after {max(waited, default=0.0):.1f} s at most,", end=" ")
    print(f"{max(trail.redone() for trail in trails.values())} steps taken again")
    assert max(waited, default=0.0) < HAND_SECONDS
    again = {job_id: trail.steps for job_id, trail in trails.items() if trail.redone() > 1}
    assert again == {}
    assert not any(trail.from_the_start for trail in trails.values())


def drain(cluster: RayCluster, *options: str) -> subprocess.CompletedProcess[str]:
    """What a worker's preStop hook runs."""
    command = [sys.executable, "-m", "zoetrope.serving.ray_host.drain", "--seconds", str(DRAIN_SECONDS)]
    command += ["--address", cluster.address, *options]
    seconds = 2 * DRAIN_SECONDS
    return subprocess.run(
        command, env=cluster.variables(), capture_output=True, text=True, timeout=seconds, check=False
    )


def test_the_rest_api_wants_the_token(deployment: Deployment) -> None:
    assert deployment.cluster.api("GET", "/api/serve/applications/", token="").status_code == 401
    assert deployment.cluster.api("GET", "/api/serve/applications/", token="0" * 64).status_code in (401, 403)


def test_a_job_of_each_task_ends(deployment: Deployment, tmp_path: Path) -> None:
    client, media = deployment.client, write_media(tmp_path)
    names = [client.create({"task": task_of(case, media)}, steps=2) for case in TASKS]
    ended = deployment.until_ended([name.removeprefix("operations/") for name in names])
    assert [job.state for job in ended] == [State.SUCCEEDED] * len(TASKS), [job.error_message for job in ended]
    for number, name in enumerate(names):
        client.download(name, tmp_path / f"{number}.mp4")
        result = ended[number].result
        assert result is not None
        assert probe(tmp_path / f"{number}.mp4").frames == result["frames"]


def test_an_update_of_the_config_hands_all_jobs_over(deployment: Deployment) -> None:
    ids = deployment.start_jobs()
    with watching(deployment.store, ids) as trails:
        deployment.until_under_way(ids)
        deployment.config["applications"][0]["args"]["max_queued"] = 1_000
        deployment.cluster.deploy(deployment.config)
        jobs = deployment.until_ended(ids)
    handed_over(deployment, jobs, trails)
    assert any(notes(deployment.store, job) for job in jobs), "the router was replaced"


def test_a_drained_node_hands_its_part_over(deployment: Deployment) -> None:
    """The node of the router, a spare one has joined before."""
    deployment.until_deployed()
    cluster = deployment.cluster
    (router,) = cluster.replicas("Router")
    cluster.add_node("spare", 2, WORK)
    ids = deployment.start_jobs()
    with watching(deployment.store, ids) as trails:
        deployment.until_under_way(ids)
        outcome = drain(cluster, "--node", router["node_id"])
        assert (outcome.returncode, outcome.stdout) == (0, f"node {router['node_id']} is empty\n"), outcome.stderr
        jobs = deployment.until_ended(ids)
    handed_over(deployment, jobs, trails)
    assert any(notes(deployment.store, job) for job in jobs), "the router was replaced"


def test_a_node_to_drain_must_be_named_where_none_or_several_are_at_the_address(deployment: Deployment) -> None:
    outcome = drain(deployment.cluster)
    assert (outcome.returncode, outcome.stdout) == (1, "")
    assert outcome.stderr.startswith("error: --node: ") and outcome.stderr.endswith("say which one\n")


def test_a_killed_head_stops_nothing(deployment: Deployment) -> None:
    deployment.until_deployed()
    ids = deployment.start_jobs()
    with watching(deployment.store, ids) as trails:
        deployment.until_under_way(ids)
        deployment.head.kill()
        killed, done = time.monotonic(), sum(job.step for job in deployment.jobs(ids))
        until(lambda: sum(job.step for job in deployment.jobs(ids)) > done, 60, "work goes on without a head")
        deployment.head = deployment.cluster.start_head()
        jobs = deployment.until_ended(ids)
    handed_over(deployment, jobs, trails)
    deployment.until_deployed()
    assert time.monotonic() - killed < END_SECONDS
