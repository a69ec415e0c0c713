"""Plot the results: every contender in every case, with the anchors that they are held against."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from zoetrope.benchmarks.kernels.anchors import anchors
from zoetrope.benchmarks.kernels.contenders import ContenderRow
from zoetrope.benchmarks.kernels.peers import installed
from zoetrope.benchmarks.kernels.report import BY_BANDWIDTH, TITLES, rows_of

PLOTTED = ("grouped_gemm", "moe", "attention", "passes", "layer")
MARKERS = "osD^v<>PX*hp"


def plot(results: Mapping[str, Any], path: Path) -> str | None:
    """Write a PNG; returns the reason if there is none. Needs matplotlib (the extra ``bench``)."""
    missing = installed("matplotlib")
    if missing:
        return f"{missing}: pip install '.[bench]'"
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    rows = [row for row in rows_of(results) if row.seconds]
    sections = [section for section in PLOTTED if any(row.section == section for row in rows)]
    if not sections:
        return "nothing was timed"
    figure, axes = pyplot.subplots(len(sections), 1, figsize=(12, 4.5 * len(sections)), squeeze=False)
    for axis, section in zip(axes[:, 0], sections, strict=True):
        found = [row for row in rows if row.section == section]
        cases = list(dict.fromkeys(row.case for row in found))
        for marker, name in zip(MARKERS * 3, dict.fromkeys(row.name for row in found), strict=False):
            mine = [row for row in found if row.name == name]
            rates = [rate(row) for row in mine]
            axis.plot([cases.index(row.case) for row in mine], rates, marker=marker, linestyle="", label=name)
        _draw_anchors(axis, section, rows, cases)
        axis.set_title(TITLES[section])
        axis.set_ylabel("TB/s" if section in BY_BANDWIDTH else "TFLOP/s")
        axis.set_ylim(bottom=0)
        axis.set_xticks(range(len(cases)), cases, rotation=20, ha="right", fontsize=7)
        axis.legend(fontsize=7, loc="center left", bbox_to_anchor=(1.0, 0.5))
    if results["notice"]:
        axes[0, 0].set_title(f"{results['notice']}\n{axes[0, 0].get_title()}")
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    pyplot.close(figure)
    return None


def rate(row: ContenderRow) -> float | None:
    """Return what the plot of a row's section shows: TB/s or TFLOP/s."""
    return row.bandwidth if row.section in BY_BANDWIDTH or row.name == "copy" else row.tflops


def _draw_anchors(axis: Any, section: str, rows: Sequence[ContenderRow], cases: Sequence[str]) -> None:
    """Draw the limits of the device as lines, and the fastest peer of each case as a bar across it."""
    for bound in anchors().bounds:
        level = next((rate(row) for row in rows if row.section == "bounds" and row.name == bound.name), None)
        if section in bound.sections and level:
            axis.axhline(level, color="black", linewidth=1, linestyle="--", label=f"anchor: {bound.label}, measured")
    for peer in anchors().peers:
        if peer.section != section:
            continue
        best: dict[str, float] = {}
        for row in rows:
            if row.section == section and row.name in peer.names:
                best[row.case] = max(best.get(row.case, 0.0), rate(row) or 0.0)
        if best:
            at = [cases.index(case) for case in best]
            ends = ([place - 0.35 for place in at], [place + 0.35 for place in at])
            axis.hlines(
                list(best.values()), *ends, colors="black", linewidth=2, label=f"anchor: {peer.label}, measured"
            )
