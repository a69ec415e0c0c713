"""Plots: latency over load, and what ran where and when. Need matplotlib (the extra ``bench``)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from zoetrope.benchmarks.errors import BenchmarkError

STALLED_ALPHA = 0.25  # of a job that sits out the steps of its engine


def check_matplotlib() -> None:
    """Raise BenchmarkError if there is none, before anything else is done."""
    from zoetrope.benchmarks.kernels.peers import installed

    missing = installed("matplotlib")
    if missing:
        raise BenchmarkError(f"out: plots need matplotlib ({missing}): pip install '.[bench]'")


def plot_load(points: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Write a PNG: latencies and attainment over the load, a line for each policy.

    Args:
        points: of the record.
    """
    pyplot = _pyplot()
    figure, (middle, tail, met) = pyplot.subplots(1, 3, figsize=(13, 4))
    for policy in dict.fromkeys(point["policy"] for point in points):
        mine = sorted((p for p in points if p["policy"] == policy), key=_place)
        mine = [point for point in mine if point["figures"]["latency"] is not None]
        label, at = policy or "the server", [_place(point) for point in mine]
        for axis, name in ((middle, "p50"), (tail, "p95")):
            axis.plot(at, [point["figures"]["latency"][name] for point in mine], marker="o", label=label)
        kept = [point for point in mine if point["figures"]["slo_attainment"] is not None]
        if kept:
            shares = [100 * point["figures"]["slo_attainment"] for point in kept]
            met.plot([_place(point) for point in kept], shares, marker="o", label=label)
    shares_of_capacity = any(point["load"] is not None for point in points)
    for axis, words in ((middle, "latency p50, s"), (tail, "latency p95, s"), (met, "jobs in time, %")):
        axis.set_xlabel("load, share of capacity" if shares_of_capacity else "jobs a second")
        axis.set_ylabel(words)
        axis.set_ylim(bottom=0)
        axis.grid(alpha=0.3)
        if axis.lines:
            axis.legend(fontsize=8)
    met.set_ylim(0, 105)
    _save(figure, path)


def plot_timeline(points: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Write a PNG: for each point, a row for every job that an engine held at a time, coloured by class.

    Where the server does not tell what is on its engines, a job's row is from its start to its end.
    """
    pyplot = _pyplot()
    kinds = sorted({stay["class"] for point in points for stay in point["timeline"]})
    colours = {kind: pyplot.get_cmap("tab10")(number % 10) for number, kind in enumerate(kinds)}
    heights = [(2 if point["faults"] else 1) + 0.12 * _rows(point) for point in points]
    legend = 0.3 + 0.16 * -(-len(kinds) // 2)
    figure, axes = pyplot.subplots(
        len(points), 1, figsize=(12, sum(heights) + legend), squeeze=False, gridspec_kw={"height_ratios": heights}
    )
    for axis, point in zip(axes[:, 0], points, strict=True):
        ticks: list[tuple[float, str]] = []
        base = 0
        for engine, bars in _lanes(point["timeline"]).items():
            rows = _placed(bars)
            for bar, row in zip(bars, rows, strict=True):
                alpha = 1.0 if bar["steps"] else STALLED_ALPHA
                width = max(0.05, bar["end"] - bar["start"])
                axis.barh(base + row, width, left=bar["start"], height=0.9, color=colours[bar["class"]], alpha=alpha)
            ticks.append((base + (max(rows, default=0)) / 2, engine))
            base += max(rows, default=0) + 2
        for struck in (point["faults"] or {}).get("struck", []):
            axis.axvline(struck["at"], color="black", linestyle="--", linewidth=1)
            place = (struck["at"], 0.98)
            axis.annotate(
                struck["what"], place, xycoords=("data", "axes fraction"), fontsize=6, rotation=90, va="top", ha="right"
            )
        axis.set_yticks([place for place, _ in ticks], [name for _, name in ticks], fontsize=7)
        axis.set_title(point_name(point), fontsize=9, loc="left")
        axis.set_xlim(left=0)
        axis.set_xlabel("seconds from the start", fontsize=8)
    handles = [pyplot.Rectangle((0, 0), 1, 1, color=colours[kind]) for kind in kinds]
    if handles:
        figure.legend(handles, kinds, fontsize=7, loc="lower center", ncol=2)
    _save(figure, path, bottom=legend / (sum(heights) + legend))


def point_name(point: Mapping[str, Any]) -> str:
    """Say which point of a record it is."""
    load = f"{point['load']:g} of capacity" if point["load"] is not None else "recorded trace"
    if point["load"] is None and point["rate"] is not None:
        load = f"{point['rate']:.3g} jobs/s"
    return f"{point['policy']}, {load}" if point["policy"] else load


def _place(point: Mapping[str, Any]) -> float:
    value = point["load"] if point["load"] is not None else point["rate"]
    return float(value if value is not None else point["figures"]["offered_per_second"] or 0.0)


def _lanes(stays: Sequence[Mapping[str, Any]]) -> dict[str, list[Mapping[str, Any]]]:
    lanes: dict[str, list[Mapping[str, Any]]] = {}
    for stay in sorted(stays, key=lambda stay: stay["start"]):
        lanes.setdefault(stay["engine"], []).append(stay)
    return dict(sorted(lanes.items()))


def _placed(bars: Sequence[Mapping[str, Any]]) -> list[int]:
    """The row of each bar: the lowest that is free, and the same one for all bars of a job where possible."""
    free: list[float] = []
    of_job: dict[str, int] = {}
    rows = []
    for bar in bars:
        row = of_job.get(bar["job"], -1)
        if row < 0 or free[row] > bar["start"] + 1e-6:
            row = next((number for number, end in enumerate(free) if end <= bar["start"] + 1e-6), len(free))
        if row == len(free):
            free.append(0.0)
        free[row] = bar["end"]
        of_job[bar["job"]] = row
        rows.append(row)
    return rows


def _rows(point: Mapping[str, Any]) -> int:
    return sum(max(_placed(bars), default=0) + 2 for bars in _lanes(point["timeline"]).values())


def _pyplot() -> Any:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    return pyplot


def _save(figure: Any, path: Path, bottom: float = 0.0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.tight_layout(rect=(0, bottom, 1, 1))
    figure.savefig(path, dpi=100, metadata={"Software": None})
    _pyplot().close(figure)
