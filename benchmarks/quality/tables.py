"""The tables of what two ways of making clips differ by, which all pages about quality share."""

from __future__ import annotations

from typing import Any

from zoetrope.benchmarks.provenance import commit_of
from zoetrope.benchmarks.quality.pairs import POINTS
from zoetrope.model.nano.report import DIGITS


def run_lines(record: dict[str, Any]) -> list[str]:
    """Return the commands that made a record's clips, oldest first, with date, code and machine of each."""
    lines = []
    for where in record.get("runs", [record["environment"]]):
        lines += ["", f"`{where['command']}`", ""]
        lines.append(f"{where['date']}, {commit_of(where)}, torch {where['torch']}, {where['device']}.")
    return lines


def spread_line(kind: str, task: dict[str, Any]) -> str:
    """Return a task's row: how far apart its clips are."""
    error, latents, frames = (task[name] for name in ("latents_error", "latents_psnr", "frames_psnr"))
    return (
        f"| {kind} | {task['cases']} | {error['mean']:.1%} ({error['worst']:.1%}) | {latents['mean']:.1f} dB "
        f"({latents['worst']:.1f}) | {frames['mean']:.1f} dB ({frames['worst']:.1f}) | "
        f"{'within' if task['within'] else 'beyond'} {POINTS:g} points |"
    )


SPREAD_HEAD = (
    "| task | cases | latents differ by (worst) | PSNR of latents (worst) | PSNR of frames (worst) | shares |",
    "|---|---|---|---|---|---|",
)


def measure_lines(kind: str, task: dict[str, Any], name: str, title: str) -> list[str]:
    """Return a task's table: every measure both ways. ``name``: as for `summarise`."""
    lines = ["", f"| {kind} | exact | {title} | difference | lost, won |", "|---|---|---|---|---|"]
    return [*lines, *(_line(measure, row, task["cases"], name) for measure, row in task["measures"].items())]


def _line(measure: str, row: dict[str, Any], cases: int, name: str) -> str:
    unit, digits = row["unit"], DIGITS[row["unit"]]
    of = "" if row["cases"] == cases else f" ({row['cases']} cases)"
    values = " | ".join(f"{row[key]:{sign}.{digits}f}" for key, sign in (("exact", ""), (name, "")))
    changed = f"{row['lost']}, {row['won']}" if unit == "%" else ""
    return f"| {measure}{of}, {unit} | {values} | {row['difference']:+.{digits}f} | {changed} |"
