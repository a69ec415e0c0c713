"""The phases of the measurement, in the order in which they run on one database."""

from __future__ import annotations

import contextlib
import json
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import grpc
from google.longrunning import operations_pb2, operations_pb2_grpc

from zoetrope.benchmarks.errors import BenchmarkError
from zoetrope.benchmarks.gateway.client import LoadPlan, LoadResult, WatchPlan
from zoetrope.benchmarks.gateway.jobs import JobMaker
from zoetrope.benchmarks.gateway.processes import (
    MAX_QUEUED,
    CpuShares,
    DatabaseServer,
    Helper,
    clients,
    helper,
    open_gateway,
    resident,
)
from zoetrope.serving.gateway.submit.listing import MAX_PAGE_SIZE
from zoetrope.serving.jobs.job import QueueLimits
from zoetrope.serving.jobs.open import open_stores
from zoetrope.serving.supervisor.children import Child

ENGINE = "zoetrope.benchmarks.gateway.null_engine"
AT_ONCE = 256  # jobs that the null engine runs at a time under load
WATCH_STEPS, WATCH_STEP_SECONDS = 8, 0.5
INSERT = 500  # jobs per transaction when filling the queue
LIMITS = QueueLimits(MAX_QUEUED)


@dataclass(frozen=True)
class PhaseSizes:
    """The size of each phase."""

    seconds: float = 20.0
    processes: int = 2  # client processes
    creators: int = 32  # in all of them together
    store_callers: int = 64
    rate: float = 1_000.0
    gets: float = 100.0
    batch: int = 10  # jobs per BatchCreateVideos call
    streams: int = 1_000
    queued: int = 100_000
    long_queue_seconds: float = 10.0
    seed: int = 1

    @classmethod
    def quick(cls) -> PhaseSizes:
        """Return sizes for a smoke test."""
        return cls(
            seconds=1.0, processes=1, creators=8, store_callers=16, rate=50.0, gets=20.0, streams=20, queued=1_000,
            long_queue_seconds=0.5,
        )  # fmt: skip


@dataclass(frozen=True)
class Times:
    """Latency percentiles in milliseconds."""

    count: int
    p50: float
    p99: float
    longest: float

    @classmethod
    def of(cls, seconds: Sequence[float]) -> Times:
        """Compute the percentiles of latencies in seconds."""
        if not seconds:
            return cls(0, 0.0, 0.0, 0.0)
        ordered = sorted(seconds)

        def at(share: float) -> float:
            return round(1e3 * ordered[min(len(ordered) - 1, int(share * len(ordered)))], 2)

        return cls(len(ordered), at(0.5), at(0.99), at(1.0))


@dataclass(frozen=True)
class LoadRow:
    """One load of creates and gets.

    Attributes:
        creates: latency of create calls.
        batch: jobs per create call.
        shares: cores used, by process; ``machine`` is everything on the machine.
        ended: jobs that the null engine completed meanwhile.
        queue: jobs queued at the end.
    """

    what: str
    per_second: float
    offered: float | None  # jobs per second; None: closed loop
    callers: int
    creates: Times
    gets: Times
    failures: dict[str, int]
    shares: dict[str, float]
    ended: int = 0
    queue: int = 0
    batch: int = 1


@dataclass(frozen=True)
class StoreRow:
    """Creates without gRPC. ``share``: cores used by the process."""

    per_second: float
    callers: int
    share: float


@dataclass(frozen=True)
class WatchRow:
    """All streams. ``opened``: seconds until each had its first event. ``lag``: from a job's end to its last event."""

    streams: int
    opened: float
    events: int
    events_per_second: float
    lag: Times
    failures: dict[str, int]
    gateway_share: float


@dataclass(frozen=True)
class ListRow:
    """All pages of one filter, or as many as contain the queued jobs."""

    filter: str
    pages: int
    jobs: int
    first_ms: float
    last_ms: float
    times: Times


@dataclass
class PhaseResult:
    """Everything measured on one database. ``memory``: MiB of the gateway after each phase, in order."""

    database: str
    version: str
    store: StoreRow
    loads: list[LoadRow] = field(default_factory=list)
    watch: WatchRow | None = None
    filled_per_second: float = 0.0
    lists: list[ListRow] = field(default_factory=list)
    memory: dict[str, float] = field(default_factory=dict)


Say = Callable[[str], None]


def grpc_alone(sizes: PhaseSizes) -> LoadRow:
    """Measure the same calls against methods that do nothing."""
    with helper("zoetrope.benchmarks.gateway.bounds", "grpc") as server:
        return _load(
            "gRPC alone", server.first_line, "empty", replace(sizes, gets=0.0), {"server": [server.process.pid]}
        )


def store_alone(database: DatabaseServer, sizes: PhaseSizes) -> StoreRow:
    """Measure creates in the store without gRPC."""
    arguments = ("store", database.new(), str(sizes.seconds), str(sizes.store_callers))
    with helper("zoetrope.benchmarks.gateway.bounds", *arguments) as process:
        seen = json.loads(process.first_line)
    seconds = seen["seconds"]
    return StoreRow(seen["creates"] / seconds, sizes.store_callers, seen["cpu_seconds"] / seconds)


def measure(database: DatabaseServer, sizes: PhaseSizes, folder: Path, say: Say) -> PhaseResult:
    """Run all phases on one gateway, so that its memory shows what it keeps."""
    found = PhaseResult(database.name, database.version, store_alone(database, sizes))
    say(f"{database.name}: the store alone made {found.store.per_second:,.0f} jobs/s")
    with open_gateway(database.new(), folder) as gateway:
        pid = gateway.pid

        def remember(part: str) -> None:
            found.memory[part] = round(resident(pid), 1)

        remember("at the start")
        for row in _loads(gateway, database, sizes):
            found.loads.append(row)
            say(
                f"{database.name}, {row.what}: {row.per_second:,.0f} creates/s, p99 {row.creates.p99:.1f} ms,"
                f" get p99 {row.gets.p99:.1f} ms"
            )
        remember("after creates")
        found.watch = watch(gateway, sizes)
        say(f"{database.name}: {found.watch.streams} streams, {found.watch.events_per_second:,.0f} events/s")
        remember(f"after {sizes.streams:,} streams")
        found.filled_per_second = fill(gateway, sizes.queued)
        say(f"{database.name}: {sizes.queued:,} jobs queued, {found.filled_per_second:,.0f}/s")
        for text in ("", 'labels.batch="7"', 'labels.number="0"'):
            found.lists.append(list_pages(gateway, text, sizes.queued))
            listed = found.lists[-1]
            say(f"{database.name}, filter {text or 'none'}: {listed.pages} pages, p99 {listed.times.p99:.1f} ms")
        remember(f"after {sizes.queued:,} queued jobs were listed")
        long_queue = replace(sizes, seconds=sizes.long_queue_seconds, creators=0, rate=sizes.rate / 10)
        what = f"{long_queue.rate:,.0f}/s offered, {sizes.queued:,} jobs queued, no engine"
        found.loads.append(_load(what, gateway.settings.grpc, "long", long_queue, _roots(gateway, database, None)))
        say(f"{database.name}, {what}: get p99 {found.loads[-1].gets.p99:.1f} ms")
    return found


def _loads(gateway: Child, database: DatabaseServer, sizes: PhaseSizes) -> list[LoadRow]:
    """Measure a flood, then the target rate and half of it, then batches; the engine keeps the queue short."""
    paced, in_batches = replace(sizes, creators=0), f" in batches of {sizes.batch}"
    plans = [
        ("flood", sizes, 1),
        (f"{sizes.rate:,.0f}/s offered", paced, 1),
        (f"{sizes.rate / 2:,.0f}/s offered", replace(paced, rate=sizes.rate / 2), 1),
        ("flood" + in_batches, sizes, sizes.batch),
        (f"{sizes.rate:,.0f}/s offered" + in_batches, paced, sizes.batch),
    ]
    rows = []
    for number, (what, plan, batch) in enumerate(plans):
        with helper(ENGINE, str(AT_ONCE), "0", "0", settings=gateway.settings) as engine:
            row = _load(what, gateway.settings.grpc, f"load-{number}", plan, _roots(gateway, database, engine), batch)
            with contextlib.closing(open_stores(gateway.settings.database_url)) as stores:
                queue = stores.jobs.counts()["queued"]
                while stores.jobs.counts()["queued"]:
                    if engine.process.poll() is not None:
                        raise BenchmarkError("the null engine exited early; its message is above")
                    time.sleep(0.05)
            engine.stop()
            rows.append(replace(row, ended=int(engine.line()), queue=queue))
    return rows


def _roots(gateway: Child, database: DatabaseServer, engine: Helper | None) -> dict[str, Sequence[int]]:
    roots: dict[str, Sequence[int]] = {"gateway": [gateway.pid]}
    if engine is not None:
        roots["null engine"] = [engine.process.pid]
    if database.pid is not None:
        roots["database"] = [database.pid]
    return roots


def _load(
    what: str, target: str, name: str, sizes: PhaseSizes, roots: dict[str, Sequence[int]], batch: int = 1
) -> LoadRow:
    each = sizes.processes
    paced = not sizes.creators
    plans = [
        LoadPlan(
            target=target,
            name=f"{name}-{number}",
            seconds=sizes.seconds,
            creators=sizes.creators // each,
            rate=sizes.rate / each if paced else 0.0,
            gets=sizes.gets / each,
            seed=sizes.seed + number,
            batch=batch,
        )
        for number in range(each)
    ]
    with contextlib.ExitStack() as stack:
        started = clients([asdict(plan) for plan in plans], stack)
        with CpuShares({**roots, "clients": [one.process.pid for one in started]}) as shares:
            for one in started:
                one.start()
            seen = [LoadResult(**json.loads(one.line())) for one in started]
    failures = sum((Counter(one.failures) for one in seen), Counter[str]())
    return LoadRow(
        what=what,
        per_second=sum(one.made for one in seen) / max(one.seconds for one in seen),
        offered=sizes.rate if paced else None,
        callers=sizes.creators,
        creates=Times.of([value for one in seen for value in one.creates]),
        gets=Times.of([value for one in seen for value in one.gets]),
        failures=dict(failures),
        shares={**shares.used, "machine": shares.machine},
        batch=batch,
    )


def watch(gateway: Child, sizes: PhaseSizes) -> WatchRow:
    """Measure streams: they open while all jobs are queued; then the jobs run and end together."""
    with contextlib.closing(open_stores(gateway.settings.database_url)) as stores:
        jobs = stores.jobs.create_batch(list(JobMaker("watched").many(sizes.streams)), LIMITS)
    names = [f"operations/{job.id}" for job in jobs]
    parts = [tuple(names[number :: sizes.processes]) for number in range(sizes.processes)]
    arguments = (str(sizes.streams), str(WATCH_STEPS), str(WATCH_STEP_SECONDS))
    with contextlib.ExitStack() as stack:
        started = clients([asdict(WatchPlan(gateway.settings.grpc, part)) for part in parts], stack)
        with CpuShares({"gateway": [gateway.pid]}) as shares:
            for one in started:
                one.start()
            stack.enter_context(helper(ENGINE, *arguments, settings=gateway.settings))
            seen: list[dict[str, Any]] = [json.loads(one.line()) for one in started]
    lags = [lag for one in seen for lag in one["lags"]]
    events = sum(one["events"] for one in seen)
    seconds = max(one["ended"] for one in seen) - min(one["began"] for one in seen)
    failures = sum((Counter(one["failures"]) for one in seen), Counter[str]())
    if len(lags) + sum(failures.values()) != sizes.streams:
        raise BenchmarkError(f"{sizes.streams} streams were opened, {len(lags)} saw their end: {dict(failures)}")
    return WatchRow(
        streams=sizes.streams,
        opened=max(one["opened"] for one in seen),
        events=events,
        events_per_second=events / seconds,
        lag=Times.of(lags),
        failures=dict(failures),
        gateway_share=shares.used["gateway"],
    )


def fill(gateway: Child, count: int) -> float:
    """Queue jobs directly in the store; returns jobs per second."""
    started, jobs = time.perf_counter(), JobMaker("queued").many(count)
    with contextlib.closing(open_stores(gateway.settings.database_url)) as stores:
        while some := [job for _, job in zip(range(INSERT), jobs, strict=False)]:
            stores.jobs.create_batch(some, LIMITS)
    return count / (time.perf_counter() - started)


def list_pages(gateway: Child, text: str, most: int) -> ListRow:
    """Request all pages, one after the other."""
    times: list[float] = []
    jobs, token = 0, ""
    with grpc.insecure_channel(gateway.settings.grpc) as channel:
        grpc.channel_ready_future(channel).result(10)
        stub = operations_pb2_grpc.OperationsStub(channel)
        while not times or (token and jobs < most):
            started = time.perf_counter()
            request = operations_pb2.ListOperationsRequest(
                name="operations", filter=text, page_size=MAX_PAGE_SIZE, page_token=token
            )
            answer = stub.ListOperations(request)
            times.append(time.perf_counter() - started)
            jobs, token = jobs + len(answer.operations), answer.next_page_token
    return ListRow(text, len(times), jobs, round(1e3 * times[0], 2), round(1e3 * times[-1], 2), Times.of(times))
