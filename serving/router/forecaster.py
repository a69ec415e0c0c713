"""Foresees the ends of all jobs about once a second, makes it known, and learns from what came of it."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

from zoetrope.cluster.planning.step_costs import Load, StepCosts
from zoetrope.model.request.loras import slot_key
from zoetrope.model.request.specs import VideoSpec, segment_of
from zoetrope.model.request.steps import branch_count, computes
from zoetrope.model.request.tasks import ModelCard
from zoetrope.serving.jobs.db.errors import StoreError
from zoetrope.serving.jobs.forecast_table import JobForecast, ModelForecast, TenantQueue
from zoetrope.serving.jobs.job import Job, Stage
from zoetrope.serving.router.active import job_of
from zoetrope.serving.router.forecast import FOLLOWED, Awaited, Foreseen, House, Runner, forecast
from zoetrope.serving.router.forecast_errors import ForecastErrors, Phase
from zoetrope.serving.router.metering import Meter
from zoetrope.serving.router.policies.work import Work
from zoetrope.serving.router.pricing import load_of
from zoetrope.serving.router.queued_jobs import work_of
from zoetrope.serving.router.state import RouterState

INTERVAL_SECONDS = 1.0
REST = 20.0  # times as long as a forecast took is waited after it
TOLD = 2_000  # jobs that are told of, the first in the order of the policy
LATE_SHARE = 0.2  # of a stage that takes longer than foreseen, that is still expected
UNKNOWN_SECONDS = 0.2  # of a stage of which nothing is known
log = logging.getLogger("zoetrope.router")


@dataclass(frozen=True)
class JobLoads:
    """What a job takes, as its request says.

    Attributes:
        load: of its largest step. steps: of each load that it has.
        peak_tokens: of its largest step, all guidance branches counted.
    """

    spec: VideoSpec
    load: Load
    steps: Mapping[Load, int]
    peak_tokens: int
    adapters: tuple[str, ...]

    @classmethod
    def of(cls, job: Job, card: ModelCard) -> JobLoads:
        spec = VideoSpec.from_dict(job.spec)
        steps: Counter[Load] = Counter()
        peak, adapters = 0, tuple[str, ...]()
        for index in range(len(spec.spans)):
            segment = segment_of(spec, job.id, index)
            adapters = slot_key(segment.loras)
            peak = max(peak, load_of(segment, card).tokens * branch_count(segment))
            steps.update(load_of(segment, card, step) for step in range(segment.steps) if computes(segment, step))
        load = max(steps, key=lambda one: (one.tokens * one.branches, one.tokens))
        return cls(spec, load, steps, peak, adapters)

    def in_largest(self, costs: StepCosts) -> float:
        """Return how many of its largest steps take as long as all its steps."""
        return sum(n * costs.seconds([load]) for load, n in self.steps.items()) / costs.seconds([self.load])


class Forecaster:
    """One per router; `run` must be run."""

    def __init__(
        self,
        cards: Mapping[str, ModelCard],
        state: RouterState,
        meter: Meter,
        claimed: Callable[[], Iterable[Job]],
        fetch: Callable[[Sequence[str]], Mapping[str, Job]],
        put: Callable[[ModelForecast], None],
        *,
        room: int,
        decoders: int,
        cold: Callable[[str], float | None] = lambda model: None,
        figures: Callable[[], Mapping[str, float]] = dict,
    ) -> None:
        """
        Args:
            claimed: returns the jobs that the router works on.
            fetch: reads jobs by their ids; called in a thread, and may raise StoreError.
            put: makes a forecast known.
            room: jobs of a model that the router works on at a time. decoders: that decode at a time.
            cold: seconds until a first engine of a model is up; None: none is expected.
            figures: of the stages around the engines.
        """
        self._cards = cards
        self._state = state
        self._meter = meter
        self._claimed = claimed
        self._fetch = fetch
        self._put = put
        self._room = room
        self._decoders = decoders
        self._cold = cold
        self._figures = figures
        self._errors = {model: ForecastErrors() for model in cards}
        self._loads: dict[str, JobLoads] = {}
        self._stages: dict[str, tuple[Stage, float]] = {}  # by job: where it is, and since when

    def at_stage(self, job: Job, stage: Stage) -> None:
        """Note where a claimed job is now."""
        self._stages[job.id] = (stage, time.monotonic())

    def ended(self, job: Job, *, succeeded: bool) -> None:
        """Note that a job has ended."""
        self._stages.pop(job.id, None)
        self._errors[job.model].ended(job.id, job.created_at, time.time(), succeeded=succeeded)

    async def run(self) -> None:
        """Foresee, until cancelled."""
        while True:
            started = time.monotonic()
            for model in self._cards:
                try:
                    self._put(await self._foresee(model))
                except StoreError as error:
                    log.warning("no forecast of %s: %s", model, error)
                except Exception:  # jobs go on without
                    log.exception("no forecast of %s", model)
            at_work = {job.id for job in self._claimed()}
            self._stages = {job_id: at for job_id, at in self._stages.items() if job_id in at_work}
            took = time.monotonic() - started
            await asyncio.sleep(max(INTERVAL_SECONDS - took, REST * took))

    async def _foresee(self, model: str) -> ModelForecast:
        claimed = {job.id: job for job in self._claimed() if job.model == model}
        works = self._in_order(model, claimed)
        await self._learn(model, works, claimed)
        runners = [
            Runner(
                engine_id,
                view.costs.ranks,
                self._state.step_tokens,
                self._state.adapter_slots,
                view.costs,
                max(0.0, time.monotonic() - view.seen_at),
            )
            for engine_id, view in self._state.engines.items()
            if view.model == model and view.ready
        ]
        house = House(
            self._room,
            decoders=self._decoders,
            cold=None if runners else self._cold(model),
            preempts=self._state.backlog.policy.preempts,
        )
        there = [work for work in works if "/" not in work.id or work.id in self._state.active]  # some ended meanwhile
        awaited = [self._awaited(work, claimed, runners) for work in there]
        now = time.time()
        found = await asyncio.to_thread(forecast, awaited, runners, house)
        errors = self._errors[model]
        told = {}
        for one in awaited:
            if (foreseen := found.get(one.id)) is not None:
                phase = _phase(one)
                told[one.id] = _told(foreseen, errors.spread(phase))
                errors.note(one.id, phase, now, foreseen.eta, told[one.id].eta)
        errors.keep({one.id for one in awaited})
        return ModelForecast(
            model,
            jobs=told,
            tenants=_tenants(awaited),
            gpus=sum(runner.ranks for runner in runners),
            engines=len(runners),
            accuracy=errors.to_dict(),
            stages=self._figures(),
        )

    def _in_order(self, model: str, claimed: Mapping[str, Job]) -> list[Work]:
        """Return the jobs of a model in the order of the policy, the first of them: on engines, claimed or queued. Each
        is the work of its present segment, under its own id. Those that are decoded come first."""
        active = {job_of(i) for i in self._state.active}
        idle = [work_of(job) for job in claimed.values() if job.id not in active]
        decoding = [work for work in idle if self._stage(work.id) is Stage.DECODING]
        held = [*self._state.held_works(model), *(work for work in idle if work not in decoding)]
        order = self._state.backlog.all_in_order(model, time.time(), held=held)
        return [*decoding, *islice(order, TOLD)]

    async def _learn(self, model: str, works: Sequence[Work], claimed: Mapping[str, Job]) -> None:
        """Read what the jobs that come first take, once for each."""
        ids = [job_of(work.id) for work in works]
        near = [*claimed, *[i for i in ids if i not in claimed][:FOLLOWED]]
        unknown = [job_id for job_id in near if job_id not in self._loads]
        jobs = {i: claimed[i] for i in unknown if i in claimed}
        if missing := [i for i in unknown if i not in jobs]:
            jobs |= await asyncio.to_thread(self._fetch, missing)
        for job_id, job in jobs.items():
            self._loads[job_id] = JobLoads.of(job, self._cards[model])
        there = {*ids, *claimed}
        for job_id in [i for i, loads in self._loads.items() if loads.spec.model == model and i not in there]:
            del self._loads[job_id]

    def _stage(self, job_id: str) -> Stage:
        return self._stages.get(job_id, (Stage.CONDITIONING, 0.0))[0]

    def _awaited(self, work: Work, claimed: Mapping[str, Job], runners: Sequence[Runner]) -> Awaited:
        job_id, _, segment = work.id.partition("/")
        loads = self._loads.get(job_id)
        costs = runners[0].costs if runners else None
        stage, since = self._stages.get(job_id, (Stage.CONDITIONING, time.monotonic()))
        took = max(0.0, time.monotonic() - since)
        before, after = self._stage_seconds(work.model, loads)
        load, peak, steps = work.load, work.peak_tokens, float(work.steps_left)
        if segment:
            before = 0.0
            if costs is not None and loads is not None:
                following = self._state.active[work.id].following / len(loads.spec.spans)
                alone = costs.seconds([load])
                own = self._state.active[work.id].alone_seconds(costs)
                steps = own / alone + following * loads.in_largest(costs) * costs.seconds([loads.load]) / alone
        elif loads is not None:
            load, peak = loads.load, loads.peak_tokens
            steps = loads.in_largest(costs) if costs is not None else float(work.steps_left)
        decoding = not segment and job_id in claimed and stage is Stage.DECODING
        if decoding:
            after = max(after - took, LATE_SHARE * after)
        elif job_id in claimed and not segment:
            before = max(before - took, LATE_SHARE * before)
        return Awaited(
            job_id,
            work.tenant,
            work.created_at,
            load,
            peak,
            steps,
            before,
            after,
            work.remaining,
            loads.adapters if loads is not None else work.adapters,
            claimed=job_id in claimed or bool(segment),  # one whose end is being written still has its segment
            ready=bool(segment),
            engine=self._state.active[work.id].engine if segment else None,
            decoding=decoding,
        )

    def _stage_seconds(self, model: str, loads: JobLoads | None) -> tuple[float, float]:
        """Return what the conditioner and the decoder need for a job."""
        if loads is None:
            return UNKNOWN_SECONDS, UNKNOWN_SECONDS
        try:
            costs = self._meter.stages(model)
        except KeyError:
            return UNKNOWN_SECONDS, UNKNOWN_SECONDS
        card = self._cards[model]
        return (costs.seconds("conditioning", loads.spec, card), costs.seconds("decoding", loads.spec, card))


def _phase(job: Awaited) -> Phase:
    if not job.claimed:
        return "queued"
    return "decoding" if job.decoding else "denoising" if job.ready else "conditioning"


def _told(found: Foreseen, spread: tuple[float, float, float]) -> JobForecast:
    """Return a forecast with its interval, by how far earlier ones were off."""
    low, middle, high = (share * found.eta for share in spread)
    return JobForecast(middle, low, high, found.place, spread[1] * found.start, found.why)


def _tenants(jobs: Iterable[Awaited]) -> dict[str, TenantQueue]:
    queued, running = Counter[str](), Counter[str]()
    seconds: dict[str, float] = {}
    for job in jobs:
        begun = job.decoding or job.engine is not None
        (running if begun else queued)[job.tenant] += 1
        seconds[job.tenant] = seconds.get(job.tenant, 0.0) + job.cost
    return {tenant: TenantQueue(queued[tenant], running[tenant], cost) for tenant, cost in seconds.items()}
