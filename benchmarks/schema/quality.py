"""Figures of the benchmarks that say what a faster way costs in quality."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from zoetrope.benchmarks.schema.header import COUNT, SECONDS, SHARE, ResultRecord


class Spread(ResultRecord):
    """The mean over clips, and the worst of them."""

    mean: float
    worst: float


class PairedTask(ResultRecord):
    """Clips of one task, made exactly and made faster. ``within``: no share is further off than the limit."""

    cases: int = Field(ge=1)
    measures: dict[str, dict[str, Any]] = Field(min_length=1)
    latents_error: Spread
    latents_psnr: Spread
    frames_psnr: Spread
    within: bool


class QuantizedRecord(ResultRecord):
    """Weights in 8 bits."""

    measured: dict[str, Any]
    tasks: dict[str, PairedTask] = Field(min_length=1)


class CachedRecord(ResultRecord):
    """Step caching and intervals of guidance, by variant and task."""

    measured: dict[str, Any]
    variants: dict[str, dict[str, PairedTask]] = Field(min_length=1)


class PairedClips(ResultRecord):
    """The single clips behind a record of pairs, from which a run that was stopped goes on. Has no header."""

    measured: dict[str, Any]
    clips: dict[str, Any] = Field(min_length=1)


class AttentionCase(ResultRecord):
    """One way of attention on one part's inputs. ``density``: the share of blocks that were computed."""

    source: str
    part: str
    method: str
    relative_l2: float = Field(ge=0)
    cosine: float
    max_abs: float = Field(ge=0)
    density: SHARE


class AttentionRecord(ResultRecord):
    """8-bit and block-sparse attention."""

    cpu_seconds: SECONDS
    sources: dict[str, str]
    rows: list[AttentionCase] = Field(min_length=1)


class NanoMeasure(ResultRecord):
    """One measure of nano against its target."""

    value: float
    unit: str
    cases: COUNT
    target: float | int | None
    met: bool | None


class NanoTask(ResultRecord):
    """All measures of one task."""

    cases: COUNT
    measures: dict[str, NanoMeasure] = Field(min_length=1)
    met: bool


class NanoRecord(ResultRecord):
    """Written by `model.nano.evaluate --json`, which stands below the benchmarks and writes no header."""

    seed: int
    steps: COUNT
    guidance: float
    tasks: dict[str, NanoTask] = Field(min_length=1)
    met: bool
