"""Plot what each option gains over how close its clips are to the exact ones."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from zoetrope.benchmarks.kernels.peers import installed

MARKS = {
    "forwards": "o",
    "bytes of weights": "s",
    "bytes of queries, keys and values": "D",
    "bytes of decoding": "^",
}
Point = tuple[str, float, float]  # name, PSNR of the frames in dB, gain


def points_of(options: Mapping[str, Any]) -> dict[str, list[Point]]:
    """Return the points of each kind of gain; options that gain nothing have none."""
    found: dict[str, list[Point]] = {}
    for name, row in options.items():
        if row["gain"] is not None and not row["floor"]:
            found.setdefault(row["gain"]["of"], []).append((name, row["frames_psnr"]["mean"], row["gain"]["times"]))
    return found


def front(points: list[Point]) -> list[Point]:
    """Return the points that no other beats in both, by falling quality: the Pareto front."""
    kept: list[Point] = []
    for point in sorted(points, key=lambda p: (-p[1], -p[2])):
        if not kept or point[2] > kept[-1][2]:
            kept.append(point)
    return kept


def plot(record: dict[str, Any], path: Path) -> str | None:
    """Write a PNG; returns the reason if there is none. Needs matplotlib (the extra ``bench``)."""
    missing = installed("matplotlib")
    if missing:
        return f"{missing}: pip install '.[bench]'"
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    options = record["options"]
    figure, axis = pyplot.subplots(figsize=(9, 5.5))
    for kind, points in points_of(options).items():
        line = front(points)
        (drawn,) = axis.plot([p[1] for p in line], [p[2] for p in line], "--", linewidth=0.8)
        colour = drawn.get_color()
        axis.scatter(
            [p[1] for p in points], [p[2] for p in points], marker=MARKS[kind], color=colour, label=f"fewer {kind}"
        )
        left = kind == "forwards"  # the names of the others go to the right, where these points are not
        for name, quality, gain in points:
            place = {"xytext": (-7, -3), "ha": "right", "va": "top"} if left else {"xytext": (7, 3)}
            axis.annotate(_label(name, options[name]), (quality, gain), textcoords="offset points", fontsize=8, **place)
    noise = [row["frames_psnr"]["mean"] for row in options.values() if row["floor"] and row["equal"] < row["clips"]]
    if noise:
        axis.axvline(min(noise), color="grey", linestyle=":", label="what changes nothing: order of sums")
    axis.set_yscale("log", base=2)
    axis.yaxis.set_major_formatter(matplotlib.ticker.FuncFormatter(lambda value, _: f"{value:g} x"))
    axis.set_xlabel("closeness to the exact clips: PSNR of frames, dB")
    axis.set_ylabel("gain")
    name = record["measured"]["model"]
    title = f"{name}: gain over quality; lines join what no other of its kind beats; no figure: as many clips right"
    axis.set_title(title, fontsize=10)
    axis.margins(x=0.15, y=0.12)
    axis.grid(alpha=0.3)
    axis.legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    pyplot.close(figure)
    return None


def _label(name: str, row: Mapping[str, Any]) -> str:
    """Name an option, and by how much the share of right clips changed."""
    change = row["right"][1] - row["right"][0]
    return f"{name}, right {change:+.1f} points" if change else name
