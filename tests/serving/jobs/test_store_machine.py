"""The rules of leases, order and limits against a model of them: random calls, by two stores on one database, with
right and wrong epochs."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from tests.draws import draws
from tests.serving.jobs.harness import RESULT, claim_oldest, new_job
from zoetrope.serving.jobs.errors import QuotaExceeded
from zoetrope.serving.jobs.job import JobWebhook, Need, QueueLimits, Stage, State
from zoetrope.serving.jobs.open import Stores, open_stores
from zoetrope.serving.jobs.states import TRANSITIONS
from zoetrope.serving.jobs.store import JobStore

LEASE_SECONDS, MAX_ATTEMPTS, MAX_QUEUED, MAX_SECONDS = 10.0, 2, 8, 12.5

OWNERS = st.sampled_from(["r1", "r2"])
JOBS = st.integers(0, 4)  # a place in the list of jobs, whose last one does not exist
AGE = st.sampled_from([0, 0, 1, -1])  # how far behind the newest epoch the caller's is


@dataclass
class Expected:
    """What is to be known of a job."""

    key: str
    priority: int
    deadline: float | None
    state: State = State.QUEUED
    attempt: int = 0
    epoch: int = 0
    owner: str | None = None
    until: float | None = None
    step: int = 0
    furthest: int = 0
    fruitless: int = 0
    cancel: bool = False

    def end(self, state: State) -> None:
        self.state, self.owner, self.until = state, None, None

    def give_back(self) -> None:
        self.until, self.attempt, self.fruitless = 0.0, self.attempt - 1, max(0, self.fruitless - 1)

    def expired(self, now: float) -> bool:
        return self.state is State.RUNNING and self.until is not None and self.until <= now

    def late(self, now: float) -> bool:
        return self.deadline is not None and self.deadline <= now


class Leases(RuleBasedStateMachine):
    """Every rule does the same to the store and to the model, and compares what the store answers."""

    def end(self, job: Expected, state: State) -> None:
        job.end(state)
        self.messages += 1

    def fresh(self) -> str:
        """The URL of a database without jobs."""
        self.directory = tempfile.TemporaryDirectory()
        return f"sqlite://{self.directory.name}/jobs.db"

    @initialize()
    def open(self) -> None:
        self.now = 1_000.0
        url = self.fresh()
        self.opened: list[Stores] = [open_stores(url, lambda: self.now) for _ in range(2)]
        self.calls = 0
        self.jobs: dict[str, Expected] = {}
        self.messages = 0
        self.created = 0

    def teardown(self) -> None:
        if hasattr(self, "opened"):
            for stores in self.opened:
                stores.close()
        if hasattr(self, "directory"):
            self.directory.cleanup()

    @property
    def store(self) -> JobStore:
        """The two take turns."""
        self.calls += 1
        return self.opened[self.calls % 2].jobs

    def name(self, number: int) -> str:
        names = [*self.jobs, "none"]
        return names[number % len(names)]

    def held(self, number: int, age: int) -> tuple[str, int, Expected | None]:
        """A job's id, the caller's epoch, and what to expect of the job if that caller holds it."""
        name = self.name(number)
        job = self.jobs.get(name)
        epoch = (job.epoch if job else 1) - age
        return name, epoch, job if job and job.state is State.RUNNING and age == 0 else None

    @rule(key=st.sampled_from(["k1", "k2"]), priority=st.integers(3, 5), wait=st.sampled_from([None, 7.0, 30.0]))
    def create(self, key: str, priority: int, wait: float | None) -> None:
        self.now += 1
        name = f"j{self.created:03}"
        deadline = None if wait is None else self.now + wait
        queued = sum(job.state is State.QUEUED for job in self.jobs.values())
        used = 2.5 * sum(job.key == key and not job.state.final for job in self.jobs.values())
        try:
            job = self.store.create(
                new_job(
                    name,
                    key_id=key,
                    priority=priority,
                    seconds=2.5,
                    deadline_at=deadline,
                    request_id=name,
                    webhook=JobWebhook("http://127.0.0.1/"),
                    price=1.5,
                ),
                QueueLimits(MAX_QUEUED, queued_seconds=MAX_SECONDS),
            )
        except QuotaExceeded as error:
            if error.quota == "queued_jobs":
                assert error.used == queued == MAX_QUEUED // 2
            else:
                assert queued < MAX_QUEUED // 2 and used + 2.5 > MAX_SECONDS and error.used == used
        else:
            assert queued < MAX_QUEUED // 2 and used + 2.5 <= MAX_SECONDS and job.id == name
            self.jobs[name] = Expected(key, priority, deadline)
            self.created += 1

    @rule(seconds=st.sampled_from([5.0, LEASE_SECONDS]))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @rule(owner=OWNERS, limit=st.integers(0, 3), spared=st.lists(JOBS, max_size=1))
    def claim(self, owner: str, limit: int, spared: list[int]) -> None:
        in_hand = [self.name(number) for number in spared]
        for name, job in self.jobs.items():
            if job.expired(self.now):
                if job.cancel:
                    self.end(job, State.CANCELLED)
                elif job.late(self.now) or (job.fruitless >= MAX_ATTEMPTS and name not in in_hand):
                    self.end(job, State.FAILED)
        due = [
            name
            for name, job in sorted(self.jobs.items(), key=lambda item: -item[1].priority)
            if (job.state is State.QUEUED or job.expired(self.now)) and not job.late(self.now) and name not in in_hand
        ][:limit]
        claimed = claim_oldest(self.store, owner, limit, LEASE_SECONDS, MAX_ATTEMPTS, ["other", "nano"], in_hand)
        assert [job.id for job in claimed] == due
        for name, answer in zip(due, claimed, strict=True):
            job = self.jobs[name]
            self.messages += job.state is State.QUEUED
            job.state, job.owner, job.until, job.step = State.RUNNING, owner, self.now + LEASE_SECONDS, 0
            job.attempt, job.epoch, job.fruitless = job.attempt + 1, job.epoch + 1, job.fruitless + 1
            assert answer.lease_epoch == job.epoch

    @rule(owner=OWNERS, leases=st.lists(st.tuples(JOBS, AGE), max_size=4))
    def heartbeat(self, owner: str, leases: list[tuple[int, int]]) -> None:
        named: list[tuple[str, int]] = []
        needs: dict[str, Need] = {}
        for number, age in leases:
            name, epoch, job = self.held(number, age)
            if any(name == other for other, _ in named):
                continue
            named.append((name, epoch))
            if job is None or job.owner != owner or job.until == 0:
                needs[name] = "lost"
                continue
            job.until = self.now + LEASE_SECONDS
            if job.cancel:
                needs[name] = "cancel"
            elif job.late(self.now):
                needs[name] = "deadline"
        assert self.store.heartbeat(owner, named, LEASE_SECONDS) == needs

    @rule(number=JOBS, age=AGE, step=st.integers(0, 9))
    def progress(self, number: int, age: int, step: int) -> None:
        name, epoch, job = self.held(number, age)
        done = self.store.progress(name, epoch, stage=Stage.DENOISING, step=step, eta_seconds=None)
        assert done == (job is not None)
        if job:
            job.step = max(job.step, step)
            if step > job.furthest:
                job.furthest, job.fruitless = step, 0

    @rule(owner=OWNERS, number=JOBS, age=AGE)
    def release(self, owner: str, number: int, age: int) -> None:
        name, epoch, job = self.held(number, age)
        mine = job is not None and job.owner == owner and job.until != 0
        assert self.store.release(owner, [(name, epoch)]) == mine
        if job is not None and mine:
            job.give_back()

    @rule(owner=OWNERS, known=st.sets(JOBS, max_size=3))
    def release_unheard(self, owner: str, known: set[int]) -> None:
        names = {self.name(number) for number in known}
        lost = [
            job
            for name, job in self.jobs.items()
            if name not in names and job.state is State.RUNNING and job.owner == owner and job.until != 0
        ]
        assert self.store.release_unheard(owner, sorted(names)) == len(lost)
        for job in lost:
            job.give_back()

    @rule(number=JOBS, age=AGE, state=st.sampled_from([State.SUCCEEDED, State.FAILED, State.CANCELLED]))
    def finish(self, number: int, age: int, state: State) -> None:
        name, epoch, job = self.held(number, age)
        result = RESULT if state is State.SUCCEEDED else None
        code = "INTERNAL" if state is State.FAILED else None
        done = self.store.finish(name, epoch, state, result=result, error_code=code)
        before = self.jobs.get(name)
        said_before = before is not None and before.state is state and before.epoch == epoch
        assert done == (job is not None or said_before)
        if job:
            self.end(job, state)
            job.step = 10 if state is State.SUCCEEDED else job.step

    @rule(number=JOBS)
    def cancel(self, number: int) -> None:
        name = self.name(number)
        job = self.jobs.get(name)
        answer = self.store.request_cancel(name, "")
        assert (answer is None) == (job is None)
        if job and not job.state.final:
            job.cancel = True
            if job.state is State.QUEUED:
                self.end(job, State.CANCELLED)

    @rule(number=JOBS)
    def delete(self, number: int) -> None:
        name = self.name(number)
        job = self.jobs.get(name)
        final = job is not None and job.state.final
        assert (self.store.delete(name, "") is not None) == final
        if final:
            del self.jobs[name]

    @rule()
    def sweep(self) -> None:
        late = [
            job
            for job in self.jobs.values()
            if job.late(self.now) and (job.state is State.QUEUED or (job.expired(self.now) and not job.cancel))
        ]
        assert self.store.fail_overdue() == len(late)
        for job in late:
            self.end(job, State.FAILED)

    @rule()
    def restart_service(self) -> None:
        running = [job for job in self.jobs.values() if job.state is State.RUNNING]
        assert self.store.expire_leases() == len(running)
        for job in running:
            job.until, job.epoch = 0.0, job.epoch + 1

    @invariant()
    def the_store_knows_what_is_expected(self) -> None:
        if not hasattr(self, "opened"):
            return
        stored = self.store.list("", page_size=1_000)
        assert [job.id for job in stored] == list(self.jobs)[::-1]
        for job in stored:
            known = self.jobs[job.id]
            assert job.state is known.state and job.cancel_requested == known.cancel
            assert (job.attempt, job.lease_epoch, job.step) == (known.attempt, known.epoch, known.step)
            assert (job.lease_owner, job.lease_until) == (known.owner, known.until)
        queued = sorted((job for job in reversed(stored) if job.state is State.QUEUED), key=lambda job: -job.priority)
        assert [self.store.queue_position(job) for job in queued] == list(range(len(queued)))
        places = {job.id: place for place, job in enumerate(queued)}
        assert self.store.positions([*self.jobs, "none"]) == places

    @invariant()
    def every_change_left_its_line_and_its_message(self) -> None:
        if not hasattr(self, "opened"):
            return
        allowed = {(t.what, t.source, t.target, t.by) for t in TRANSITIONS}
        for name, job in self.jobs.items():
            events = self.store.events(name, "")
            assert [event.from_state for event in events] == [None, *(event.to_state for event in events[:-1])]
            assert events[-1].to_state is job.state and events[-1].epoch == job.epoch
            for event in events:
                by = event.actor.partition(":")[0]
                assert (event.what, event.from_state, event.to_state, by) in allowed
        database = self.opened[0].database
        (row,) = database.read("SELECT count(*) AS messages FROM outbox")
        assert row["messages"] == self.messages

    @invariant()
    def tallies_are_what_counting_gives(self) -> None:
        if not hasattr(self, "opened"):
            return
        live = [job for job in self.jobs.values() if not job.state.final]
        expected = {f"live {key}": (sum(job.key == key for job in live), 2_500) for key in ("k1", "k2")}
        expected |= {name: (len(live), 1_500) for name in ("priced nano", "priced nano ")}
        states = [job.state for job in self.jobs.values()]
        expected |= {f"state {state}": (states.count(state), 0) for state in State}
        expected |= {"queued ": (states.count(State.QUEUED), 0)}
        expected |= {"results ": (states.count(State.SUCCEEDED) * RESULT.video.size_bytes, 0)}
        rows = self.opened[0].database.read("SELECT name, jobs, millis FROM tally")
        assert {row["name"]: (row["jobs"], row["millis"]) for row in rows if row["jobs"]} == {
            name: (count, each * count) for name, (count, each) in expected.items() if count
        }


TestLeases = Leases.TestCase
TestLeases.settings = settings(
    max_examples=draws(25),
    stateful_step_count=50,
    deadline=None,  # the disk is waited for
    suppress_health_check=[HealthCheck.too_slow],
)


def test_the_same_holds_in_postgres(postgres: str) -> None:
    import psycopg

    class InPostgres(Leases):
        def fresh(self) -> str:
            with psycopg.connect(postgres, autocommit=True) as connection:
                connection.execute("DROP SCHEMA IF EXISTS zoetrope CASCADE")
            return postgres

    few = settings(
        max_examples=draws(8), stateful_step_count=40, deadline=None, suppress_health_check=[HealthCheck.too_slow]
    )
    run_state_machine_as_test(InPostgres, settings=few)
