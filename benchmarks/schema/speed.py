"""Figures of the benchmarks that take times and sizes on this machine, without a service."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from zoetrope.benchmarks.schema.header import COUNT, SECONDS, SHARE, ResultRecord


class AdapterTimes(ResultRecord):
    """Times of one forward pass, and its multiplications and additions. ``more``: as a share of the pass without
    adapters, which has none."""

    seconds: SECONDS
    processor_seconds: SECONDS
    flops: COUNT
    more: float | None = None
    processor_more: float | None = None
    flops_more: float | None = None


class AdapterCase(ResultRecord):
    """One size of the adapters' benchmark."""

    tokens: COUNT
    rank: COUNT
    plain: AdapterTimes
    one: AdapterTimes
    mixed: AdapterTimes


class AdapterRecord(ResultRecord):
    """What adapters cost."""

    threads: COUNT
    rows: list[AdapterCase] = Field(min_length=1)


class CompileRung(ResultRecord):
    """One size of a step. ``gain``: eager over compiled."""

    tokens: COUNT
    eager: SECONDS
    compiled: SECONDS
    gain: float = Field(gt=0)
    chosen: str


class CompileRecord(ResultRecord):
    """What torch.compile gains."""

    measured_on: dict[str, Any]
    compile_seconds: SECONDS
    rungs: list[CompileRung] = Field(min_length=1)


class SnapshotMeasured(ResultRecord):
    """One setting of snapshots, measured. ``waited_share``: of the time of the steps."""

    variant: str
    snapshots: float = Field(ge=0)
    bytes: COUNT
    step_seconds: SECONDS
    waited_share: SHARE
    longest_wait: SECONDS


class SnapshotComputed(ResultRecord):
    """One number of GPUs, computed."""

    ranks: COUNT
    link: str
    step_seconds: SECONDS
    copy_seconds: SECONDS
    share: SHARE


class SnapshotRecord(ResultRecord):
    """What snapshots cost."""

    goal: SHARE
    goal_met_measured: bool
    goal_met_computed: bool
    measured: list[SnapshotMeasured] = Field(min_length=1)
    computed: list[SnapshotComputed] = Field(min_length=1)


class PartStep(ResultRecord):
    """One denoising step, by part."""

    preset: str
    size: str
    tokens: COUNT
    forwards: COUNT
    seconds: float = Field(gt=0)
    peak_gib: float | None
    shares: dict[str, float] = Field(min_length=2)


class StepPartsRecord(ResultRecord):
    """A denoising step of a preset."""

    dtype: str
    quantize: str
    rows: list[PartStep] = Field(min_length=1)


class ModelClip(ResultRecord):
    """A clip of one size, in seconds; shares of a step by part and by kind of operation."""

    size: str
    frames: COUNT
    tokens: int = Field(gt=0)
    forwards: int = Field(ge=1)
    text: float = Field(gt=0)
    first_step: float = Field(gt=0)
    step: float = Field(gt=0)
    decode: float = Field(gt=0)
    working_bytes: int | None
    shares: dict[str, float] = Field(min_length=2)
    operations: dict[str, SHARE] = Field(min_length=3, max_length=3)
    roofline: dict[str, Any]


class ModelAgainstDiffusers(ResultRecord):
    """A clip by both pipelines, in seconds; ``speed``: diffusers' time over ours."""

    way: Literal["eager", "compiled"]
    size: str
    tokens: int = Field(gt=0)
    ours: float = Field(gt=0)
    diffusers: float = Field(gt=0)
    speed: float = Field(gt=0)
    difference: float = Field(ge=0)


class ModelBatch(ResultRecord):
    """Mixed small clips, in seconds: by diffusers and by us one after another, by us in one batch."""

    jobs: int = Field(ge=1)
    diffusers: float = Field(gt=0)
    one_by_one: float = Field(gt=0)
    together: float = Field(gt=0)
    speed: float = Field(gt=0)


class ModelComparison(ResultRecord):
    """Against diffusers; ``not_run`` says why there is none, or is empty."""

    not_run: str
    rows: list[ModelAgainstDiffusers]
    batch: ModelBatch | None


class ModelStepsRecord(ResultRecord):
    """One model in one process, by size."""

    model: dict[str, Any]
    steps: int = Field(ge=2)
    repeats: int = Field(ge=1)
    hardware: dict[str, Any]
    clips: list[ModelClip] = Field(min_length=1)
    diffusers: ModelComparison


class StreamingCase(ResultRecord):
    """One gang that streams its blocks."""

    ranks: COUNT
    blocks: COUNT
    on_device: float = Field(gt=0)
    host_bytes: COUNT
    equal: bool


class StreamingRecord(ResultRecord):
    """Weights streamed from host memory."""

    model: str
    rows: list[StreamingCase] = Field(min_length=1)


class DecodeCase(ResultRecord):
    """One autoencoder, size and way to decode."""

    vae: str
    size: str
    dtype: str
    way: str
    frames: COUNT
    predicted_bytes: COUNT
    error: str | None


class DecodeRecord(ResultRecord):
    """Decoding by Wan's autoencoders."""

    rows: list[DecodeCase] = Field(min_length=1)


class PeerCase(ResultRecord):
    """One part of a step by us and by DeepSpeed, in seconds; ``difference``: of the results."""

    what: str
    ours: float = Field(gt=0)
    deepspeed: float = Field(gt=0)
    difference: float = Field(ge=0)
    ratio: float = Field(gt=0)


class ComparedPeer(ResultRecord):
    """A peer: what it took, or in ``outcome`` why it has no figures."""

    name: str
    source: str
    version: str | None = None
    outcome: str | None = None
    seconds: SECONDS | None = None
    step: SECONDS | None = None
    psnr: float | None = None


class PeersRecord(ResultRecord):
    """The same clip by several projects."""

    model: str
    work: dict[str, Any]
    reference: str
    clock: str = Field(pattern="^(cpu|cuda)$")
    repeats: int = Field(ge=1)
    peers: list[ComparedPeer] = Field(min_length=2)


class ParallelPeersRecord(ResultRecord):
    """Expert parallelism against DeepSpeed's."""

    label: str
    ranks: COUNT
    rows: list[PeerCase] = Field(min_length=1)


class StartPhases(ResultRecord):
    """Seconds of a rank's start."""

    imported: SECONDS = Field(alias="import")
    hash: SECONDS
    read: SECONDS
    warm_up: SECONDS
    total: SECONDS


class ColdStartRecord(ResultRecord):
    """How fast a rank starts: one thing after the other, and now."""

    bytes: COUNT
    rounds: COUNT
    seconds: dict[str, StartPhases]
    gain: float = Field(gt=0)
    goal: float
    goal_met: bool


class GraphRow(ResultRecord):
    """One size of a step. ``error``: against the step without a graph."""

    tokens: COUNT
    error: float


class GraphNetwork(ResultRecord):
    """The steps of one preset in one form of its weights."""

    preset: str
    quantize: str
    rows: list[GraphRow] = Field(min_length=1)


class GraphRecord(ResultRecord):
    """Steps as CUDA graphs."""

    networks: list[GraphNetwork] = Field(min_length=1)


class KernelRecord(ResultRecord):
    """Kernels and their peers, of all runs on one device."""

    notice: str | None
    runs: dict[str, Any] = Field(min_length=1)
    correctness: list[dict[str, Any]]
    rows: list[dict[str, Any]]
