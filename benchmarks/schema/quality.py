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


class QualityTask(ResultRecord):
    """Clips of one task, made exactly and with an option; ``right`` in per cent of them, exact first."""

    cases: int = Field(ge=1)
    right: list[float] = Field(min_length=2, max_length=2)
    lost: COUNT
    won: COUNT
    frames_psnr: Spread
    ssim: Spread
    vmaf: Spread | None
    within: bool


class QualityGain(ResultRecord):
    """What an option saves, by what measure, and how many times."""

    of: str
    exact: float | int
    other: float | int
    times: float = Field(gt=0)


class QualityOption(ResultRecord):
    """An option over all tasks. ``floor``: it should change nothing. ``seconds``: for a clip, exact first."""

    title: str
    floor: bool
    clips: int = Field(ge=1)
    gain: QualityGain | None
    seconds: list[SECONDS] = Field(min_length=2, max_length=2)
    right: list[float] = Field(min_length=2, max_length=2)
    equal: COUNT
    frames_psnr: Spread
    ssim: Spread
    vmaf: Spread | None
    tasks: dict[str, QualityTask] = Field(min_length=1)


class QualityRecord(ResultRecord):
    """All options that make clips faster, and what should change nothing; ``vmaf`` and ``vbench`` may say why not."""

    measured: dict[str, Any]
    runs: list[dict[str, Any]] = Field(min_length=1)
    options: dict[str, QualityOption] = Field(min_length=1)
    vmaf: dict[str, Any]
    vbench: dict[str, Any]
    plot: str | None


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
    """Written by `model.nano.evaluate --json`, which stands below the benchmarks and writes no header; ``command``:
    files from before December 2026 may lack it."""

    command: str = ""
    seed: int
    steps: COUNT
    guidance: float
    tasks: dict[str, NanoTask] = Field(min_length=1)
    met: bool
