"""Figures of the benchmarks of a running service or one of its processes."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from zoetrope.benchmarks.schema.header import COUNT, SECONDS, SHARE, ResultHeader, ResultRecord


class BusyCase(ResultRecord):
    """Seconds of a clip on the quiet machine and beside busy loops."""

    way: str
    quiet: list[SECONDS] = Field(min_length=1)
    busy: list[SECONDS] = Field(min_length=1)
    ratio: float = Field(gt=0)


class BusyRecord(ResultRecord):
    """nano beside other work."""

    measured_on: dict[str, Any]
    goal: float
    goal_met: bool
    rows: list[BusyCase] = Field(min_length=1)


class EtaStage(ResultRecord):
    """Errors of an ETA as shares of the job's duration; ``bias`` has a sign."""

    stage: str
    jobs: COUNT
    samples: COUNT
    median: float = Field(ge=0)
    p90: float = Field(ge=0)
    bias: float
    within: SHARE


class PriceErrors(ResultRecord):
    """Errors of prices as shares of what was used; ``total``, of all jobs together, has a sign."""

    jobs: COUNT
    median: float = Field(ge=0)
    p90: float = Field(ge=0)
    within: SHARE
    total: float


class EtaRecord(ResultRecord):
    """How far off a job's ETA is, and its price."""

    goal: float
    goal_met: bool
    rows: list[EtaStage] = Field(min_length=1)
    price: PriceErrors | None
    jobs: list[dict[str, Any]] = Field(min_length=1)


class Latency(ResultRecord):
    """Milliseconds of calls."""

    count: COUNT
    p50: float
    p99: float
    longest: float


class GatewayLoad(ResultRecord):
    """Calls under one load. ``offered``: a second; None for as many as are answered."""

    what: str
    per_second: float = Field(ge=0)
    offered: float | None
    callers: COUNT
    creates: Latency
    gets: Latency
    failures: dict[str, int]


class GatewayDatabase(ResultRecord):
    """Everything on one database."""

    database: str
    version: str
    loads: list[GatewayLoad] = Field(min_length=1)
    goal_met: dict[str, bool]
    bounds: str


class GatewayRecord(ResultRecord):
    """What a gateway takes."""

    sizes: dict[str, float]
    grpc_alone: GatewayLoad
    databases: list[GatewayDatabase] = Field(min_length=1)


class ServedJobs(ResultRecord):
    """One way to run a set of jobs, in seconds."""

    makespan: SECONDS
    busy: SECONDS
    steps: COUNT
    busy_of_makespan: float
    busy_of_denoising: float


class ServedModel(ResultRecord):
    """The same jobs in both ways. ``ratio``: one by one over together."""

    one_by_one: ServedJobs
    together: ServedJobs
    ratio: float = Field(gt=0)


class PackedRecord(ResultRecord):
    """Many small jobs together, one by one, and by diffusers."""

    jobs: COUNT
    goals: dict[str, float]
    nano: ServedModel
    dense: ServedModel
    ratio_to_diffusers: float = Field(gt=0)


class PolicyRun(ResultRecord):
    """A trace under one policy, in seconds."""

    small_p50: SECONDS
    small_p99: SECONDS
    large_mean: SECONDS
    makespan: SECONDS
    jobs_per_minute: float = Field(gt=0)
    succeeded: COUNT


class SchedulingRecord(ResultRecord):
    """Policies on a running service."""

    settings: dict[str, Any]
    policies: dict[str, PolicyRun] = Field(min_length=1)
    latents_differ_by: float
    flood: dict[str, float] | None = None


class PriceRecord(ResultRecord):
    """Prices against what was used."""

    goal: float
    summary: dict[str, float] = Field(min_length=1)
    jobs: list[dict[str, Any]] = Field(min_length=1)


class ServedStepRecord(ResultRecord):
    """A step in the whole service and bare."""

    clip: dict[str, Any]
    ratio: dict[str, float]
    overhead_ms: dict[str, float]
    rounds: list[dict[str, Any]] = Field(min_length=1)


class AIPerfMetric(ResultRecord):
    """One of AIPerf's figures."""

    unit: str
    avg: float


class AIPerfRecord(ResultRecord):
    """What AIPerf measured. ``errors``: requests that failed."""

    aiperf: dict[str, Any]
    service: str
    requests: COUNT
    errors: COUNT
    complete: bool
    metrics: dict[str, AIPerfMetric] = Field(min_length=1)


class LoadLatency(ResultRecord):
    """Seconds of the jobs that a figure is known of."""

    count: int = Field(ge=1)
    mean: float
    p50: float
    p95: float
    p99: float


class LoadClass(ResultRecord):
    """The jobs of one class. ``alone``: seconds of one by itself; None: not measured."""

    name: str = Field(alias="class")
    jobs: int = Field(ge=1)
    succeeded: COUNT
    alone: float | None
    slo_attainment: SHARE | None
    latency: LoadLatency | None


class LoadFigures(ResultRecord):
    """The figures of one trace; None: the server does not tell, or it was not asked for."""

    jobs: int = Field(ge=1)
    accepted: COUNT
    succeeded: COUNT
    errors: dict[str, int]
    seconds: SECONDS
    offered_per_second: float | None
    tokens: COUNT | None
    videos_per_second: float | None
    video_seconds_per_second: float | None
    video_seconds_per_gpu_second: float | None
    tokens_per_second: float | None
    gpu_busy_share: float | None
    cost_per_video_second: float | None
    slo_attainment: SHARE | None
    goodput_per_second: float | None
    latency: LoadLatency | None
    queued: LoadLatency | None
    first_preview: LoadLatency | None
    generator_late: SECONDS
    classes: list[LoadClass] = Field(min_length=1)


class StruckFault(ResultRecord):
    """One fault, and the jobs that it found. ``on_engines``: None where the server does not tell."""

    at: SECONDS
    what: str
    under_way: COUNT
    on_engines: COUNT | None
    hit: bool
    next_end_after: float | None


class LoadFaults(ResultRecord):
    """What faults cost. ``steps_redone``: None where the service is not the benchmark's own."""

    struck: list[StruckFault]
    accepted: COUNT
    lost: COUNT
    failed: COUNT
    steps_needed: COUNT | None
    steps_redone: COUNT | None


class LoadPoint(ResultRecord):
    """One trace under one policy. ``load``: as a share of the capacity; ``rate``: jobs a second; ``share_of_capacity``:
    what really arrived, in jobs and in tokens."""

    policy: str
    rate: float | None
    load: float | None
    share_of_capacity: dict[str, float | None] | None
    figures: LoadFigures
    faults: LoadFaults | None
    timeline: list[dict[str, Any]]
    each: list[dict[str, Any]]


class LoadRecord(ResultRecord):
    """A server under load."""

    model: str
    server: str
    described: str
    settings: dict[str, Any]
    capacity: dict[str, Any] | None
    points: list[LoadPoint] = Field(min_length=1)
    interrupted: bool = False
    plots: dict[str, str]


class SoakFault(ResultRecord):
    """A fault: jobs that had not ended then, and the seconds until a new one was done; None: none ever was."""

    fault: str = Field(min_length=1)
    queued: COUNT
    running: COUNT
    healed: SECONDS | None


class SoakRecord(ResultRecord):
    """Jobs under kills and other faults, by `tests.serving.soak.run`; all is well if there are no ``problems``.

    Attributes:
        states, attempts: how many jobs ended in each state, and at which attempt.
        files: that were decoded. events: of webhooks, by job and kind; deliveries: of them, in all.
    """

    environment: ResultHeader
    settings: dict[str, Any]
    seconds: SECONDS
    jobs: COUNT
    states: dict[str, int]
    attempts: dict[str, int]
    files: COUNT
    strays: COUNT
    events: COUNT
    deliveries: COUNT
    struck: list[SoakFault] = Field(min_length=1)
    left_out: list[str]
    problems: list[str]
