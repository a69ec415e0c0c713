"""The lease rules against a model of them: random calls, by two stores on one file, with right and wrong epochs."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from serving.jobs.job import Artifact, Result, Stage, State
from serving.jobs.store import JobStore, QueueFull

RESULT = Result(Artifact("jobs/a/1/video.mp4", 7, "00", "video/mp4"), None, frames=9, width=96, height=64, fps=12)
LEASE_SECONDS, MAX_ATTEMPTS, MAX_QUEUED = 10.0, 2, 4

OWNERS = st.sampled_from(["r1", "r2"])
JOBS = st.integers(0, 4)  # a place in the list of jobs, whose last one does not exist
AGE = st.sampled_from([0, 0, 1, -1])  # how far behind the newest epoch the caller's is


@dataclass
class Expected:
    """What is to be known of a job."""

    state: State = State.QUEUED
    attempt: int = 0
    epoch: int = 0
    owner: str | None = None
    until: float | None = None
    step: int = 0
    cancel: bool = False

    def end(self, state: State) -> None:
        self.state, self.owner, self.until = state, None, None

    def expired(self, now: float) -> bool:
        return self.state is State.RUNNING and self.until is not None and self.until <= now


class Leases(RuleBasedStateMachine):
    """Every rule does the same to the store and to the model, and compares what the store answers."""

    @initialize()
    def open(self) -> None:
        self.directory = tempfile.TemporaryDirectory()
        self.now = 1_000.0
        self.stores = [JobStore(Path(self.directory.name) / "jobs.db", lambda: self.now) for _ in range(2)]
        self.calls = 0
        self.jobs: dict[str, Expected] = {}
        self.created = 0

    def teardown(self) -> None:
        if hasattr(self, "stores"):
            for store in self.stores:
                store.close()
            self.directory.cleanup()

    @property
    def store(self) -> JobStore:
        """The two take turns."""
        self.calls += 1
        return self.stores[self.calls % 2]

    def name(self, number: int) -> str:
        names = [*self.jobs, "none"]
        return names[number % len(names)]

    def held(self, number: int, age: int) -> tuple[str, int, Expected | None]:
        """A job's id, the caller's epoch, and what to expect of the job if that caller holds it."""
        name = self.name(number)
        job = self.jobs.get(name)
        epoch = (job.epoch if job else 1) - age
        return name, epoch, job if job and job.state is State.RUNNING and age == 0 else None

    @rule()
    def create(self) -> None:
        self.now += 1
        name = f"j{self.created:03}"
        full = sum(job.state is State.QUEUED for job in self.jobs.values()) >= MAX_QUEUED
        try:
            job = self.store.create(
                job_id=name,
                owner="",
                model="nano",
                spec={},
                steps=9,
                request_id=name,
                fingerprint=name,
                max_queued=MAX_QUEUED,
            )
        except QueueFull:
            assert full
        else:
            assert not full and job.id == name
            self.jobs[name] = Expected()
            self.created += 1

    @rule(seconds=st.sampled_from([5.0, LEASE_SECONDS]))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @rule(owner=OWNERS, limit=st.integers(0, 3))
    def claim(self, owner: str, limit: int) -> None:
        for job in self.jobs.values():
            if job.expired(self.now):
                if job.cancel:
                    job.end(State.CANCELLED)
                elif job.attempt >= MAX_ATTEMPTS:
                    job.end(State.FAILED)
        due = [name for name, job in self.jobs.items() if job.state is State.QUEUED or job.expired(self.now)][:limit]
        claimed = self.store.claim(owner, limit, LEASE_SECONDS, MAX_ATTEMPTS)
        assert [job.id for job in claimed] == due
        for name, answer in zip(due, claimed, strict=True):
            job = self.jobs[name]
            job.state, job.owner, job.until, job.step = State.RUNNING, owner, self.now + LEASE_SECONDS, 0
            job.attempt, job.epoch = job.attempt + 1, job.epoch + 1
            assert answer.lease_epoch == job.epoch

    @rule(owner=OWNERS, leases=st.lists(st.tuples(JOBS, AGE), max_size=4))
    def heartbeat(self, owner: str, leases: list[tuple[int, int]]) -> None:
        named: list[tuple[str, int]] = []
        lost, cancelled = set(), set()
        for number, age in leases:
            name, epoch, job = self.held(number, age)
            if any(name == other for other, _ in named):
                continue
            named.append((name, epoch))
            if job is None or job.owner != owner:
                lost.add(name)
                continue
            job.until = self.now + LEASE_SECONDS
            if job.cancel:
                cancelled.add(name)
        assert self.store.heartbeat(owner, named, LEASE_SECONDS) == (lost, cancelled)

    @rule(number=JOBS, age=AGE, step=st.integers(0, 9))
    def progress(self, number: int, age: int, step: int) -> None:
        name, epoch, job = self.held(number, age)
        done = self.store.progress(name, epoch, stage=Stage.DENOISING, step=step, eta_seconds=None)
        assert done == (job is not None)
        if job:
            job.step = max(job.step, step)

    @rule(number=JOBS, age=AGE, state=st.sampled_from([State.SUCCEEDED, State.FAILED, State.CANCELLED]))
    def finish(self, number: int, age: int, state: State) -> None:
        name, epoch, job = self.held(number, age)
        result = RESULT if state is State.SUCCEEDED else None
        code = "INTERNAL" if state is State.FAILED else None
        done = self.store.finish(name, epoch, state, result=result, error_code=code)
        assert done == (job is not None)
        if job:
            job.end(state)
            job.step = 9 if state is State.SUCCEEDED else job.step

    @rule(number=JOBS)
    def cancel(self, number: int) -> None:
        name = self.name(number)
        job = self.jobs.get(name)
        answer = self.store.request_cancel(name, "")
        assert (answer is None) == (job is None)
        if job and not job.state.final:
            job.cancel = True
            if job.state is State.QUEUED:
                job.end(State.CANCELLED)

    @rule(number=JOBS)
    def delete(self, number: int) -> None:
        name = self.name(number)
        job = self.jobs.get(name)
        final = job is not None and job.state.final
        assert self.store.delete(name, "") == final
        if final:
            del self.jobs[name]

    @rule()
    def restart_service(self) -> None:
        running = [job for job in self.jobs.values() if job.state is State.RUNNING]
        assert self.store.expire_leases() == len(running)
        for job in running:
            job.until, job.epoch = 0.0, job.epoch + 1

    @invariant()
    def the_store_knows_what_is_expected(self) -> None:
        if not hasattr(self, "stores"):
            return
        stored = self.store.list("", page_size=1_000)
        assert [job.id for job in stored] == list(self.jobs)[::-1]
        for job in stored:
            known = self.jobs[job.id]
            assert job.state is known.state and job.cancel_requested == known.cancel
            assert (job.attempt, job.lease_epoch, job.step) == (known.attempt, known.epoch, known.step)
            assert (job.lease_owner, job.lease_until) == (known.owner, known.until)
        queued = [job for job in reversed(stored) if job.state is State.QUEUED]
        assert [self.store.queue_position(job) for job in queued] == list(range(len(queued)))


TestLeases = Leases.TestCase
TestLeases.settings = settings(
    max_examples=30,
    stateful_step_count=60,
    deadline=None,  # the disk is waited for
    suppress_health_check=[HealthCheck.too_slow],
)
