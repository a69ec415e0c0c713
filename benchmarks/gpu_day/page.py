"""The page and the plot of a day: what every stage gave, and our steps beside what others published."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from zoetrope.benchmarks.kernels.anchors import LABEL, PublishedStep, anchors
from zoetrope.benchmarks.kernels.peers import installed

DECODE = ("vae", "size", "dtype", "way", "clip_frames", "clip_seconds", "peak_bytes", "psnr", "error")
SANITIZER = ("tool", "kernel", "summary", "problem", "seconds")
GRAPHS = ("preset", "quantize", "tokens", "eager", "graph", "ratio", "error", "replays", "bytes")
TABLES = (
    ("Decoding", "decode", DECODE),
    ("CUDA graphs", "graphs", GRAPHS),
    ("compute-sanitizer", "sanitizer", SANITIZER),
)


def markdown(day: Mapping[str, Any]) -> str:
    """Format the page of a merged day."""
    commits = sorted({str(stage["commit"]) for stage in day["stages"]})
    lines = [f"# A day with a GPU: {day['device']}", "", f"Commit {', '.join(commits)}. Times of kernels are in "]
    lines[-1] += f"[kernels/{day['name']}.md](../kernels/{day['name']}.md)."
    lines += ["", "## Steps", "", *_steps(day["steps"])]
    for title, part, columns in TABLES:
        lines += ["", f"## {title}", "", *_table(day[part], columns)] if day[part] else []
    lines += ["", "## Stages", "", "| stage | | seconds | limit | |", "|---|---|---:|---:|---|"]
    for stage in day["stages"]:
        cells = (stage["stage"], stage["state"], f"{stage['seconds']:.0f}", f"{stage['limit']:.0f}", stage["reason"])
        lines.append(f"| {' | '.join(map(_cell, cells))} |")
    return "\n".join(lines) + "\n"


def _steps(steps: Sequence[Mapping[str, Any]]) -> list[str]:
    lines = ["Seconds of a denoising step, all guidance branches; random weights.", ""]
    lines += ["| model and size | | hardware | seconds a step | |", "|---|---|---|---:|---|"]
    for step in steps:
        tokens = f"{step['tokens']} tokens, {step['frames']} frames"
        lines.append(f"| {step['key']} | measured by us | {step['device']} | {step['seconds']:.3f} | {tokens} |")
    for one in anchors().published:
        what = f"{one.what}; compare {', '.join(one.compare)}. {one.source}"
        who = f"published by {one.publisher}, not measured by us"
        lines.append(f"| {one.system} | {who} | {one.gpus} x {one.hardware} | {one.seconds:.2f} | {what} |")
    return lines


def _table(rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> list[str]:
    lines = [f"| {' | '.join(name.replace('_', ' ') for name in columns)} |", "|" + "---|" * len(columns)]
    return lines + [f"| {' | '.join(_cell(row.get(name)) for name in columns)} |" for row in rows]


def _cell(value: object) -> str:
    text = "" if value is None else f"{value:.3f}" if isinstance(value, float) else str(value)
    return text.replace("|", "/").replace("\n", " ")


def plot(day: Mapping[str, Any], path: Path) -> str | None:
    """Write a PNG with our steps, and beside each what others published of nearly the same work.

    Returns:
        The reason if there is none. Needs matplotlib (the extra ``bench``).
    """
    missing = installed("matplotlib")
    if missing:
        return f"{missing}: pip install '.[bench]'"
    if not day["steps"]:
        return "no step was measured"
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    bars = [bar for step in day["steps"] for bar in bars_of(step, anchors().published)]
    figure, axis = pyplot.subplots(figsize=(11, 0.45 * len(bars) + 1.8))
    for ours, color, word in ((True, "tab:blue", "measured by us"), (False, "lightgrey", LABEL)):
        chosen = [i for i, bar in enumerate(bars) if bar[2] == ours]
        if chosen:
            widths = [bars[i][1] for i in chosen]
            drawn = axis.barh(chosen, widths, color=color, label=word, hatch=None if ours else "//")
            axis.bar_label(drawn, [f"{width:.2f} s" for width in widths], padding=3, fontsize=8)
    axis.set_yticks(range(len(bars)), [bar[0] for bar in bars], fontsize=8)
    axis.invert_yaxis()
    axis.set_xlabel("seconds a step, all guidance branches")
    axis.margins(x=0.12)
    axis.legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    pyplot.close(figure)
    return None


def bars_of(step: Mapping[str, Any], published: Sequence[PublishedStep]) -> list[tuple[str, float, bool]]:
    """Return label, seconds and whether it is ours, of a step and of what it compares with."""
    ours = (f"{step['key']}, {step['device']}", float(step["seconds"]), True)
    theirs = [(f"{one.label}: {one.what}", one.seconds, False) for one in published if step["key"] in one.compare]
    return [ours, *theirs]
