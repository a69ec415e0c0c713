"""Bars for the report page: the figures of a result file that a reader compares first."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

WIDTH, BAR, GAP, LABEL, VALUE = 720, 18, 6, 250, 90  # pixels of a chart, a bar, between bars, and of texts beside them


@dataclass(frozen=True)
class Chart:
    """Horizontal bars with their values, all of one unit and from zero."""

    title: str
    unit: str
    bars: Sequence[tuple[str, float]]

    def svg(self) -> str:
        """Return the chart as an SVG element that needs nothing from elsewhere."""
        most = max((value for _, value in self.bars), default=0.0) or 1.0
        height = len(self.bars) * (BAR + GAP)
        lines = [
            f'<svg role="img" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}"'
            f' aria-label="{escape(self.title, quote=True)}">'
        ]
        for number, (label, value) in enumerate(self.bars):
            top, long = number * (BAR + GAP), (WIDTH - LABEL - VALUE) * value / most
            middle = top + BAR - 5
            lines.append(f'<text x="{LABEL - 8}" y="{middle}" text-anchor="end">{escape(label)}</text>')
            lines.append(f'<rect x="{LABEL}" y="{top}" width="{long:.1f}" height="{BAR}"/>')
            lines.append(f'<text x="{LABEL + long + 6:.1f}" y="{middle}">{value:.4g} {escape(self.unit)}</text>')
        return "\n".join([*lines, "</svg>"])


def charts_of(name: str, record: Mapping[str, Any]) -> list[Chart]:
    """Return the charts of a result file of the benchmark ``name``; none if it has no figures to compare as bars."""
    return list(CHARTS[name](record)) if name in CHARTS else []


def _adapters(record: Mapping[str, Any]) -> Iterator[Chart]:
    bars = [
        (f"{row['tokens']:,} tokens, rank {row['rank']}, {kind}", 1e3 * row[kind]["seconds"])
        for row in record["rows"]
        for kind in ("plain", "one", "mixed")
    ]
    yield Chart("A forward pass without, with one, and with several adapters", "ms", bars)


def _busy(record: Mapping[str, Any]) -> Iterator[Chart]:
    rows = [(f"{row['way']}, {kind}", row[kind]) for row in record["rows"] for kind in ("quiet", "busy")]
    bars = [(label, sum(seconds) / len(seconds)) for label, seconds in rows]
    yield Chart("A clip on the quiet machine and beside busy loops", "s", bars)


def _cached(record: Mapping[str, Any]) -> Iterator[Chart]:
    for variant, tasks in record["variants"].items():
        yield Chart(
            f"{variant}: frames against the exact clip",
            "dB",
            [(kind.replace("_", " "), task["frames_psnr"]["mean"]) for kind, task in tasks.items()],
        )


def _cold_start(record: Mapping[str, Any]) -> Iterator[Chart]:
    bars = [
        (f"{phase.replace('_', ' ')}, {way}", seconds[phase])
        for phase in record["seconds"]["now"]
        for way, seconds in record["seconds"].items()
    ]
    yield Chart("Start of a rank, by phase: one after the other, and now", "s", bars)


def _compile(record: Mapping[str, Any]) -> Iterator[Chart]:
    yield Chart("Eager over compiled", "x", [(f"{rung['tokens']:,} tokens", rung["gain"]) for rung in record["rungs"]])


def _decisions(record: Mapping[str, Any]) -> Iterator[Chart]:
    bars = [(policy.replace("_", " "), row["p99_ms"]) for policy, row in record["rows"].items()]
    yield Chart("A decision, 99 % of them", "ms", bars)


def _eta(record: Mapping[str, Any]) -> Iterator[Chart]:
    yield Chart("Median error of the ETA", "%", [(row["stage"], 100 * row["median"]) for row in record["rows"]])


def _gateway(record: Mapping[str, Any]) -> Iterator[Chart]:
    loads = [(one["database"], load) for one in record["databases"] for load in one["loads"]]
    yield Chart("Creates a second", "", [(f"{name}, {load['what']}", load["per_second"]) for name, load in loads])
    yield Chart("99 % of gets", "ms", [(f"{name}, {load['what']}", load["gets"]["p99"]) for name, load in loads])


def _predicted(record: Mapping[str, Any]) -> Iterator[Chart]:
    bars = [(f"{row['name']}, {when}", row[when]["tflops"]) for row in record["rows"] for when in ("before", "now")]
    yield Chart("PREDICTED speed of matrix products", "TFLOP/s", bars)


def _packed(record: Mapping[str, Any]) -> Iterator[Chart]:
    bars = [
        (f"{model}, {way.replace('_', ' ')}", record[model][way]["makespan"])
        for model in ("nano", "dense")
        for way in ("one_by_one", "together")
    ]
    yield Chart(f"{record['jobs']} jobs, from the first to the last file", "s", bars)


def _quantized(record: Mapping[str, Any]) -> Iterator[Chart]:
    bars = [(kind.replace("_", " "), task["frames_psnr"]["mean"]) for kind, task in record["tasks"].items()]
    yield Chart("Frames against the exact clip", "dB", bars)


def _scheduling(record: Mapping[str, Any]) -> Iterator[Chart]:
    rows = record["policies"].items()
    yield Chart("Small jobs, 99 % done within", "s", [(policy, row["small_p99"]) for policy, row in rows])
    yield Chart("Jobs a minute", "", [(policy, row["jobs_per_minute"]) for policy, row in rows])


def _simulated(record: Mapping[str, Any]) -> Iterator[Chart]:
    bars = [(str(run["policy"]), 100 * run["slo_attainment"]) for run in record["runs"]]
    yield Chart("Jobs within their objective, SIMULATED", "%", bars)


def _snapshots(record: Mapping[str, Any]) -> Iterator[Chart]:
    bars = [(row["variant"], 100 * row["waited_share"]) for row in record["measured"]]
    yield Chart("Time that steps waited for snapshots", "%", bars)


CHARTS: dict[str, Callable[[Mapping[str, Any]], Iterator[Chart]]] = {
    "adapters": _adapters,
    "busy": _busy,
    "cached_quality": _cached,
    "cold_start": _cold_start,
    "compile_gain": _compile,
    "decision_time": _decisions,
    "eta_error": _eta,
    "gateway": _gateway,
    "gemm_prediction": _predicted,
    "packed_throughput": _packed,
    "quantized_quality": _quantized,
    "scheduling": _scheduling,
    "simulate": _simulated,
    "simulate.elastic": _simulated,
    "snapshot_cost": _snapshots,
}
