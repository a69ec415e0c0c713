"""Plot a run: a step by part, and the speed against diffusers."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from zoetrope.benchmarks.kernels.peers import installed


def plot(record: Mapping[str, Any], path: Path) -> str | None:
    """Write a PNG; returns the reason if there is none. Needs matplotlib (the extra ``bench``)."""
    missing = installed("matplotlib")
    if missing:
        return f"{missing}: pip install '.[bench]'"
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    clips, rows = record["clips"], record["diffusers"]["rows"]
    figure, (parts, speeds) = pyplot.subplots(1, 2, figsize=(12, 4.5))
    labels = [f"{row['tokens']:,}" for row in clips]
    bottom = [0.0] * len(clips)
    for part in clips[0]["shares"]:
        heights = [max(0.0, row["shares"][part]) for row in clips]
        parts.bar(labels, heights, bottom=bottom, label=part)
        bottom = [low + high for low, high in zip(bottom, heights, strict=True)]
    parts.set_ylabel("share of a step")
    for way in dict.fromkeys(row["way"] for row in rows):
        of_way = [row for row in rows if row["way"] == way]
        speeds.plot([row["tokens"] for row in of_way], [row["speed"] for row in of_way], marker="o", label=way)
    speeds.axhline(1.0, color="grey", linestyle=":", label="diffusers")
    speeds.set_xscale("log")
    speeds.set_ylabel("speed relative to diffusers")
    for axis in (parts, speeds):
        axis.set_xlabel("tokens of a branch")
        axis.legend(fontsize=8)
    figure.suptitle(record["model"]["name"], fontsize=10)
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    pyplot.close(figure)
    return None
