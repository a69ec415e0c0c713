"""Run a plan: start or find the server, warm it up, measure its capacity, send each trace, and make the record."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from zoetrope.benchmarks.errors import BenchmarkError
from zoetrope.benchmarks.serving_load.drive import LoadRun, Told, alone, drive
from zoetrope.benchmarks.serving_load.faults import made
from zoetrope.benchmarks.serving_load.figures import Yardstick, fault_figures, figures, steps_needed
from zoetrope.benchmarks.serving_load.grpc_target import GrpcTarget
from zoetrope.benchmarks.serving_load.openai_target import OpenAITarget
from zoetrope.benchmarks.serving_load.own_service import OwnService
from zoetrope.benchmarks.serving_load.plan import ServePlan, distinct
from zoetrope.benchmarks.serving_load.target import Served, Target, plain, scheme_of
from zoetrope.benchmarks.simulate.generate import TraceRecipe
from zoetrope.benchmarks.simulate.trace import TraceJob
from zoetrope.benchmarks.simulate.workload import workload
from zoetrope.model.families import all_presets
from zoetrope.model.families.family import Preset

FAULT_PATIENCE = 300.0  # seconds that clients go on asking a service that faults have struck
PATIENCE = 30.0
WARMER = "warm-up"  # a tenant of a service of our own, so that none of the load's has used anything before
PLAIN = {"MAX_QUEUED": "10000", "GATEWAYS": "1"}  # of a service of our own; all else as the environment says


@dataclass
class Teller:
    """Where progress goes. ``phase``: what begins; ``told``: how the run goes."""

    phase: Callable[[str], None]
    told: Told


@dataclass
class _Capacity:
    """``tokens``: of all its jobs; None: the model's shape is not known."""

    policy: str
    jobs: int
    seconds: float
    tokens: int | None

    @property
    def per_second(self) -> float:
        return self.jobs / self.seconds

    def load(self, offered: float, tokens: int | None, jobs: int) -> dict[str, float | None]:
        """Return what share of it a load is, in jobs and in tokens. ``offered``: jobs a second. ``tokens``: of all."""
        share = offered / self.per_second
        of_tokens = None if not (tokens and self.tokens) else share * (tokens / jobs) / (self.tokens / self.jobs)
        return {"jobs": share, "tokens": of_tokens}


@dataclass
class _Found:
    """What is known so far. ``alone`` and ``capacity`` are measured once, under the first policy, and hold for all."""

    served: Served | None = None
    alone: dict[str, float] | None = None
    capacity: _Capacity | None = None
    points: list[dict[str, Any]] = field(default_factory=list)
    interrupted: bool = False


def run(plan: ServePlan, tell: Teller) -> dict[str, Any]:
    """Run all points of a plan, and return their part of the record; if it is interrupted, that of the points so far.

    Raises:
        BenchmarkError: the server does not start, answer or take the jobs, or the warm-up fails.
        KeyboardInterrupt: there are no points yet.
    """
    found = _Found()
    with tempfile.TemporaryDirectory() as folder:
        try:
            for number, policy in enumerate(plan.policies):
                place = Path(folder) / str(number)
                place.mkdir()
                with _service(plan, policy, place, tell) as service:
                    asyncio.run(_measure(plan, policy, service, place, found, tell))
        except KeyboardInterrupt:
            if not found.points:
                raise
            found.interrupted = True
    assert found.served is not None, "there is at least one policy"
    capacity = found.capacity
    return {
        "model": plain(found.served.model),
        "server": plan.target or f"a service of the benchmark's own ({plan.start})",
        "described": plan.described(),
        "capacity": None if capacity is None else {**vars(capacity), "per_second": capacity.per_second},
        "points": found.points,
        "interrupted": found.interrupted,
    }


@contextmanager
def _service(plan: ServePlan, policy: str, place: Path, tell: Teller) -> Iterator[OwnService | None]:
    if plan.target:
        yield None
        return
    settings = {**PLAIN, **plan.settings, **({"POLICY": policy} if policy else {})}
    service = OwnService(plan.start, place / "service", settings)
    tell.phase(f"starting {plan.start}{f' under {policy}' if policy else ''}")
    try:
        service.start()
        yield service
    finally:
        service.stop()


async def _measure(
    plan: ServePlan, policy: str, service: OwnService | None, place: Path, found: _Found, tell: Teller
) -> None:
    keys = dict(plan.keys)
    tenants = plan.tenants()
    warmer = tenants[0]
    if service is not None and len(tenants) > 1:
        warmer = WARMER
        keys = service.keys([*tenants, warmer])
    target = _target(plan, service, keys, place)
    try:
        found.served = served = await target.open()
        preset = _preset(plan, served)
        plan = replace(plan, recipe=_shaped(plan, served, preset))
        classes = [job.model_copy(update={"tenant": warmer}) for job in distinct(plan.sampled())]
        await target.prepare(classes)
        tokens = None if preset is None else _tokens(preset)
        if found.alone is None:
            found.alone = await alone(target, classes, plan.warm_up, tell.phase)
            found.capacity = await _capacity(plan, policy, target, tokens, tell) if plan.loads else None
        else:
            await alone(target, classes, min(1, plan.warm_up), tell.phase)  # its times are not used
        held = Yardstick(found.alone, plan.slo, plan.gpus or served.gpus, plan.gpu_price, tokens)
        wanted: list[tuple[float | None, float | None]] = [(rate, None) for rate in plan.rates] or [(None, None)]
        if found.capacity is not None:
            wanted = [(load * found.capacity.per_second, load) for load in plan.loads]
        for rate, load in wanted:
            point = await _point(plan, policy, service, target, rate, load, held, preset, tell)
            found.points.append({**point, "share_of_capacity": _share(found.capacity, point["figures"])})
    finally:
        await target.close()


async def _capacity(
    plan: ServePlan, policy: str, target: Target, tokens: Callable[[TraceJob], int] | None, tell: Teller
) -> _Capacity:
    trace = plan.together()
    tell.phase(f"capacity: {len(trace)} jobs at once")
    await target.prepare(distinct(trace, by_tenant=True))
    run = await drive(target, trace, drain=plan.drain, told=tell.told, seed=plan.recipe.seed)
    bad = [record for record in run.records if record.latency is None]
    if bad:
        why = bad[0].error or bad[0].state
        raise BenchmarkError(f"capacity: {len(bad)} of {len(trace)} jobs did not succeed, the first by {why}")
    total = None if tokens is None else sum(map(tokens, trace))
    return _Capacity(policy, len(trace), max(record.ended or 0.0 for record in run.records), total)


def _share(capacity: _Capacity | None, found: Mapping[str, Any]) -> dict[str, float | None] | None:
    offered = found["offered_per_second"]
    return None if capacity is None or offered is None else capacity.load(offered, found["tokens"], found["jobs"])


async def _point(
    plan: ServePlan,
    policy: str,
    service: OwnService | None,
    target: Target,
    rate: float | None,
    load: float | None,
    held: Yardstick,
    preset: Preset | None,
    tell: Teller,
) -> dict[str, Any]:
    trace = plan.drawn(rate or 0.0)
    await target.prepare(distinct(trace, by_tenant=True))
    words = f"{len(trace)} jobs" + (f", {load:g} of capacity" if load else "") + (f", {policy}" if policy else "")
    tell.phase(words)
    faults = made(plan.faults, service)
    run = await drive(target, trace, drain=plan.drain, faults=faults, told=tell.told, seed=plan.recipe.seed)
    struck = None
    if faults:
        needed = steps_needed(run, (lambda job: job.steps) if preset is None else _steps(preset))
        struck = fault_figures(run, None if service is None else service.steps_taken(), needed)
    return {
        "policy": policy,
        "rate": rate,
        "load": load,
        "figures": figures(run, held),
        "faults": struck,
        "timeline": _timeline(run),
        "each": [_row(run, number) for number in range(len(run.records))],
    }


def _target(plan: ServePlan, service: OwnService | None, keys: Mapping[str, str], place: Path) -> Target:
    media = place / "media"
    media.mkdir()
    patience = FAULT_PATIENCE if plan.faults else PATIENCE
    if service is not None:
        return GrpcTarget(service.grpc, plan.model, keys, media, patience=patience)
    scheme, address = scheme_of(plan.target)
    if scheme in ("grpc", "grpcs"):
        return GrpcTarget(address, plan.model, keys, media, secure=scheme == "grpcs", patience=patience)
    return OpenAITarget(
        f"{scheme}://{address}", plan.model, keys, media, fps=plan.fps, poll=plan.poll, patience=patience
    )


def _preset(plan: ServePlan, served: Served) -> Preset | None:
    return all_presets().get(plan.preset or served.model)


def _shaped(plan: ServePlan, served: Served, preset: Preset | None) -> TraceRecipe:
    """The recipe with the model's frames."""
    temporal = plan.recipe.temporal if preset is None else preset.vae.temporal
    return replace(plan.recipe, fps=served.fps, temporal=temporal)


def _tokens(preset: Preset) -> Callable[[TraceJob], int]:
    return lambda job: sum(s.tokens * s.steps * s.branches for s in workload(preset, [job]).segments[0])


def _steps(preset: Preset) -> Callable[[TraceJob], int]:
    """Those that are computed, of all segments."""
    return lambda job: sum(segment.steps for segment in workload(preset, [job]).segments[0])


def _timeline(run: LoadRun) -> list[dict[str, Any]]:
    """What ran where; where the server does not tell, jobs from their start to their end."""
    names = {record.name: record for record in run.records if record.name}
    engines: dict[str, str] = {}
    found = []
    for stay in run.stays:
        record = names.get(stay.job)
        if record is not None:
            engine = engines.setdefault(stay.engine, f"engine {len(engines) + 1}")
            found.append((engine, record, stay.start, stay.end, stay.steps))
    if not found:
        found = [
            ("server", record, record.sent if record.started is None else record.started, record.ended, True)
            for record in run.records
            if record.sent is not None and record.ended is not None
        ]
    return [
        {
            "engine": engine,
            "job": record.number,
            "class": record.kind,
            "start": round(max(0.0, start), 2),
            "end": round(end, 2),
            "steps": steps,
        }
        for engine, record, start, end, steps in found
        if start is not None and end is not None
    ]


def _row(run: LoadRun, number: int) -> dict[str, Any]:
    record = run.records[number]
    times = {name: getattr(record, name) for name in ("sent", "started", "preview", "ended")}
    return {
        "job": number,
        "class": record.kind,
        "tenant": record.job.tenant,
        "arrival": record.job.arrival,
        **{name: None if value is None else round(value, 3) for name, value in times.items()},
        "state": record.state,
        "error": record.error,
        "attempts": record.attempts,
        "gpu_seconds": record.gpu_seconds,
    }
