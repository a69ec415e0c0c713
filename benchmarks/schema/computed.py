"""Figures that are computed or simulated, not measured."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from zoetrope.benchmarks.schema.header import COUNT, SECONDS, SHARE, ResultRecord


class DecisionTimes(ResultRecord):
    """Milliseconds of the processor."""

    put_ms: float = Field(ge=0)
    median_ms: float = Field(ge=0)
    p99_ms: float = Field(ge=0)
    max_ms: float = Field(ge=0)


class DecisionRecord(ResultRecord):
    """How long the router's decisions take, by policy. These are measured; the engines are made up."""

    settings: dict[str, int]
    rows: dict[str, DecisionTimes] = Field(min_length=1)


class ScalingPoint(ResultRecord):
    """One number of GPUs and one layout; seconds of one step."""

    model: str
    size: str
    gpus: COUNT
    seconds: float = Field(gt=0)
    efficiency: float = Field(gt=0)
    fits: bool


class ScalingRecord(ResultRecord):
    """Predicted steps on 1 to 64 GPUs. ``label`` says from what."""

    label: str
    hardware: dict[str, Any]
    rates: list[str]
    points: list[ScalingPoint] = Field(min_length=1)


class PredictedTile(ResultRecord):
    """One compiled matrix product and what a model makes of it."""

    block: list[int]
    registers: COUNT
    limit: str
    tflops: float = Field(gt=0)


class PredictedRow(ResultRecord):
    """A product at the commit to compare with, and now."""

    name: str
    before: PredictedTile
    now: PredictedTile


class PredictionRecord(ResultRecord):
    """Predicted speeds of matrix products."""

    prediction: str
    before: str
    spilled: COUNT
    rows: list[PredictedRow] = Field(min_length=1)
    feed_forward: list[list[Any]]


class SimulatedRun(ResultRecord):
    """One policy, or one way to split nodes, on a simulated fleet."""

    policy: str
    jobs: COUNT
    slo_attainment: SHARE
    latency: dict[str, SECONDS | None]


class SimulationRecord(ResultRecord):
    """Policies on a simulated fleet; elastic gangs on one. ``label`` says where step times come from."""

    label: str
    model: str
    fleet: dict[str, Any]
    trace: dict[str, Any]
    slo: float
    runs: list[SimulatedRun] = Field(min_length=1)


class ComparedRecord(ResultRecord):
    """The simulation against a real service. ``ratio``: simulated over measured mean latency."""

    policy: str
    jobs: COUNT
    goal: float
    met: bool
    ratio: float = Field(gt=0)
    measured: dict[str, float]
    simulated: dict[str, float]
