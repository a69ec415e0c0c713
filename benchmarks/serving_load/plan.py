"""What to run: checked before anything starts."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from pydantic import ValidationError

from zoetrope.benchmarks.errors import BenchmarkError
from zoetrope.benchmarks.serving_load.faults import FaultLine, needs_own_service, parse_faults
from zoetrope.benchmarks.serving_load.target import describe_job, scheme_of
from zoetrope.benchmarks.simulate.generate import TraceRecipe, generate, sample, tenants_of
from zoetrope.benchmarks.simulate.trace import TraceJob, read_trace, stretched
from zoetrope.model.request.schema_errors import describe
from zoetrope.serving.config.settings import Settings
from zoetrope.serving.config.variables import unknown_variables

OWN_SETTINGS = ("MODEL", "DATA_DIR", "GRPC", "HTTP", "POLICY")
SAMPLED = 1_000  # jobs that are drawn to find the classes and tenants of a mix
MOST_CLASSES = 24  # that are warmed up one by one
MOST_TENANTS, MOST_JOBS, MOST_LOAD = 1_000, 100_000, 1_000.0
RATES = (1e-4, 1e4)  # jobs a second
SPARE = 2.0  # times the expected length of a trace that is drawn, and again, until it has enough jobs
CAPACITY_JOBS = 24  # that measure the capacity where the jobs of a run depend on it


@dataclass(frozen=True, kw_only=True)
class ServePlan:
    """A checked command line.

    Attributes:
        target: an address; "": a service is started with the model ``start``. policies: of that; ("",): its setting.
        settings: of that, without their prefix.
        rates: jobs a second. loads: shares of the measured capacity. One of the two has entries, or ``trace``.
        recipe: of drawn traces. jobs: of each trace at most; None: as many as the rate gives in ``seconds``.
        seconds: in which jobs arrive; None: as long as it takes.
    """

    target: str
    start: str
    model: str
    keys: dict[str, str]
    policies: tuple[str, ...]
    settings: dict[str, str]
    rates: tuple[float, ...]
    loads: tuple[float, ...]
    trace: tuple[TraceJob, ...]
    trace_file: str
    recipe: TraceRecipe
    jobs: int | None
    seconds: float | None
    drain: float
    warm_up: int
    slo: float
    gpus: int | None
    gpu_price: float | None
    faults: tuple[FaultLine, ...]
    poll: float
    fps: int
    preset: str

    def sampled(self) -> list[TraceJob]:
        """Return jobs that show every class and tenant of the load."""
        return list(self.trace) or sample(self.recipe, SAMPLED)

    def tenants(self) -> list[str]:
        """Return the names of all tenants that may send jobs."""
        if self.trace:
            return sorted({job.tenant for job in self.trace})
        return sorted(tenants_of(self.recipe))

    def drawn(self, rate: float) -> list[TraceJob]:
        """Draw the trace of a point, whose jobs arrive at exactly that rate, from the first to the last.

        Raises:
            BenchmarkError: no job arrives.
        """
        if self.trace:
            trace = [job for job in self.trace if self.seconds is None or job.arrival < self.seconds]
            return trace[: self.jobs]
        count = self.jobs
        if self.seconds is not None:
            within = round(rate * self.seconds)
            count = within if count is None else min(count, within)
        if not count:
            raise BenchmarkError(f"seconds: no job arrives within {self.seconds:g} s at {rate:.3g} a second")
        seconds = count / rate
        found = generate(replace(self.recipe, rate=rate, seconds=seconds))
        while self.recipe.arrivals != "ramp" and len(found) < count:
            seconds *= SPARE
            found = generate(replace(self.recipe, rate=rate, seconds=seconds))
        return at_rate(found[:count], rate)

    def together(self) -> list[TraceJob]:
        """Return the jobs that measure the capacity: those of a run, all at once and without deadlines."""
        count = self.jobs or CAPACITY_JOBS
        found = replace(self, jobs=count, seconds=None).drawn(1.0)
        return [job.model_copy(update={"arrival": 0.0, "deadline": None}) for job in found]

    def described(self) -> str:
        """Say what the load is, in a sentence without its full stop."""
        if self.trace:
            return f"{len(self.trace)} jobs of the trace {self.trace_file}"
        kinds = {"poisson": "Poisson arrivals", "ramp": "a rate that grows from 0.2 to 1.8 times its mean"}
        kinds["bursty"] = f"arrivals in bursts of {self.recipe.burst:g} jobs on average"
        ends = [] if self.jobs is None else [f"{self.jobs} jobs"]
        ends += [] if self.seconds is None else [f"{self.seconds:g} s"]
        tenants = f"{self.recipe.tenants} tenants" if self.recipe.tenants > 1 else "one tenant"
        return f"Mix {Path(self.recipe.mix).name}, {kinds[self.recipe.arrivals]}, {' or '.join(ends)} a run, {tenants}"


def at_rate(jobs: Sequence[TraceJob], rate: float) -> list[TraceJob]:
    """Stretch arrivals so that the first is at 0 and as many jobs a second follow it as the rate says.

    Few jobs that are drawn at a rate come at another one: of 32, by 15 % more or less.
    """
    if len(jobs) < 2 or jobs[-1].arrival <= jobs[0].arrival:
        return stretched(jobs, 0.0)
    span = jobs[-1].arrival - jobs[0].arrival
    return stretched(jobs, (len(jobs) - 1) / rate / span, start=jobs[0].arrival)


def check_numbers(**values: float | None) -> None:
    """Check that numbers are finite and above 0, by the names of their options.

    Raises:
        BenchmarkError: one is not.
    """
    for name, value in values.items():
        if value is not None and not (math.isfinite(value) and value > 0):
            raise BenchmarkError(f"{name.replace('_', '-')}: {value:g} must be above 0")


def parse_keys(texts: Iterable[str], own: str) -> dict[str, str]:
    """Parse ``TENANT=KEY`` each. ``own``: the key of all other tenants, or "".

    Raises:
        BenchmarkError: one is malformed.
    """
    keys = {"*": own} if own else {}
    for text in texts:
        tenant, equals, key = text.partition("=")
        if not (tenant and equals and key):
            raise BenchmarkError(f"key: {tenant!r}... must be TENANT=KEY")
        keys[tenant] = key
    return keys


def parse_settings(texts: Iterable[str], starts: bool) -> dict[str, str]:
    """Parse ``NAME=VALUE`` each, settings without their prefix. ``starts``: whether a service is started.

    Raises:
        BenchmarkError: one is malformed, or there is no such setting, or no service.
    """
    found = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not (name and equals):
            raise BenchmarkError(f"set: {text!r} must be NAME=VALUE")
        if not starts:
            raise BenchmarkError("set: needs a service of the benchmark's own; give --start MODEL, not --target")
        if unknown := unknown_variables({f"ZOETROPE_{name}": value}):
            raise BenchmarkError(f"set: {unknown[0]}")
        if name in OWN_SETTINGS:
            raise BenchmarkError(f"set: {name} is the benchmark's own to choose")
        found[name] = value
    try:
        Settings(**{name.lower(): value for name, value in found.items()})  # type: ignore[arg-type]  # texts, as given
    except ValidationError as error:
        for item in error.errors():
            if item["loc"] and (name := str(item["loc"][0]).upper()) in found:
                raise BenchmarkError(f"set: {name}: {describe(item)}") from None
    return found


def check_where(target: str, start: str, policies: Sequence[str], faults: Sequence[str]) -> tuple[FaultLine, ...]:
    """Check what is measured, and return the faults.

    Raises:
        BenchmarkError: an option is wrong, or does not go with another.
    """
    if bool(target) == bool(start):
        raise BenchmarkError("target: give either --target ADDRESS or --start MODEL")
    if target:
        scheme_of(target)
    if policies:
        from zoetrope.serving.router.policies import choose  # noqa: F401  # registers them
        from zoetrope.serving.router.policies.policy import registered

        if target:
            raise BenchmarkError("policy: needs a service of the benchmark's own; give --start MODEL, not --target")
        for name in policies:
            if name not in registered():
                raise BenchmarkError(f"policy: {name!r} must be one of {', '.join(sorted(registered()))}")
    parsed = parse_faults(faults)
    if target and (needed := needs_own_service(parsed)):
        raise BenchmarkError(f"fault: {needed[0]} needs a service of the benchmark's own; give --start MODEL")
    return tuple(parsed)


def check_load(rates: Sequence[float], loads: Sequence[float], trace: Path | None) -> list[TraceJob]:
    """Check what is sent, and read the trace.

    Raises:
        BenchmarkError: an option is wrong, or does not go with another. TraceError: the trace is.
    """
    if sum(map(bool, (rates, loads, trace))) != 1:
        raise BenchmarkError("rate: give either --rate, --load or --trace")
    for name, values in (("rate", rates), ("load", loads)):
        for value in values:
            check_numbers(**{name: value})
    return [] if trace is None else read_trace(trace)


def distinct(jobs: Iterable[TraceJob], by_tenant: bool = False) -> list[TraceJob]:
    """Return a job of each class, or of each class and tenant."""
    found: dict[tuple[str, str], TraceJob] = {}
    for job in jobs:
        found.setdefault((describe_job(job), job.tenant if by_tenant else ""), job)
    return list(found.values())


def check_size(plan: ServePlan) -> None:
    """Check that no more is asked for than can be drawn and sent.

    Raises:
        BenchmarkError: it is.
    """
    if plan.recipe.tenants > MOST_TENANTS:
        raise BenchmarkError(f"tenants: {plan.recipe.tenants} must be at most {MOST_TENANTS:,}")
    if plan.jobs is not None and plan.jobs > MOST_JOBS:
        raise BenchmarkError(f"jobs: {plan.jobs} must be at most {MOST_JOBS:,}")
    for rate in plan.rates:
        if not RATES[0] <= rate <= RATES[1]:
            raise BenchmarkError(f"rate: {rate:g} must be from {RATES[0]:g} to {RATES[1]:,g} jobs a second")
        if plan.seconds is not None and plan.jobs is None and rate * plan.seconds > MOST_JOBS:
            raise BenchmarkError(f"seconds: {plan.seconds:g} s at {rate:g} a second are more than {MOST_JOBS:,} jobs")
    for load in plan.loads:
        if load > MOST_LOAD:
            raise BenchmarkError(f"load: {load:g} must be at most {MOST_LOAD:g} times the capacity")


def check_classes(plan: ServePlan) -> None:
    """Raise BenchmarkError if too many classes would be warmed up."""
    count = len(distinct(plan.sampled()))
    if plan.warm_up and count > MOST_CLASSES:
        raise BenchmarkError(
            f"warm-up: the load has {count} classes, at most {MOST_CLASSES} are made alone first; "
            "use fewer, or --warm-up 0, which measures no objectives"
        )
