"""Plot the results: every contender in every case, with the bound of the device."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from zoetrope.benchmarks.kernels.peers import installed
from zoetrope.benchmarks.kernels.report import BY_BANDWIDTH, TITLES, bounds_of, rows_of

PLOTTED = ("grouped_gemm", "moe", "attention", "passes", "layer")
MARKERS = "osD^v<>PX*hp"


def plot(results: Mapping[str, Any], path: Path) -> str | None:
    """Write a PNG; returns the reason if there is none. Needs matplotlib (the extra ``bench``)."""
    missing = installed("matplotlib")
    if missing:
        return f"{missing}: pip install 'zoetrope[bench]'"
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    rows = [row for row in rows_of(results) if row.seconds]
    peak, copy = bounds_of(rows)
    sections = [section for section in PLOTTED if any(row.section == section for row in rows)]
    if not sections:
        return "nothing was timed"
    figure, axes = pyplot.subplots(len(sections), 1, figsize=(12, 4.5 * len(sections)), squeeze=False)
    for axis, section in zip(axes[:, 0], sections, strict=True):
        by_bandwidth = section in BY_BANDWIDTH
        found = [row for row in rows if row.section == section]
        cases = list(dict.fromkeys(row.case for row in found))
        for marker, name in zip(MARKERS * 3, dict.fromkeys(row.name for row in found), strict=False):
            mine = [row for row in found if row.name == name]
            rates = [row.bandwidth if by_bandwidth else row.tflops for row in mine]
            axis.plot([cases.index(row.case) for row in mine], rates, marker=marker, linestyle="", label=name)
        bound = copy if by_bandwidth else peak
        if bound:
            label = "copy, measured" if by_bandwidth else "cuBLAS bf16, measured"
            axis.axhline(bound, color="black", linewidth=1, linestyle="--", label=label)
        axis.set_title(TITLES[section])
        axis.set_ylabel("TB/s" if by_bandwidth else "TFLOP/s")
        axis.set_ylim(bottom=0)
        axis.set_xticks(range(len(cases)), cases, rotation=20, ha="right", fontsize=7)
        axis.legend(fontsize=7, loc="center left", bbox_to_anchor=(1.0, 0.5))
    if results["notice"]:
        axes[0, 0].set_title(f"{results['notice']}\n{axes[0, 0].get_title()}")
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    pyplot.close(figure)
    return None
