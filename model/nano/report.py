"""Report an evaluation: a summary of each task as plain values and as Markdown tables."""

from __future__ import annotations

import statistics
from collections import defaultdict
from typing import Any

from zoetrope.model.nano.measures import MEASURES, CaseOutcome, Measure

PSNR_TARGET = 32.0  # dB, of the autoencoder alone
DIGITS = {"%": 1, "dB": 2, "IoU": 3}
NOTE = (
    "Shares are of the cases; PSNR and IoU are means over the cases (of the dB of each case, of the mean over the "
    "frames of each case)."
)


def summarise(outcomes: list[CaseOutcome]) -> dict[str, Any]:
    """Summarise one task's cases: each measure's value and target, and results by class where a target is missed.

    Raises:
        ValueError: no outcomes, those of several tasks, or none in a group that is measured.
    """
    kinds = {o.case.kind for o in outcomes}
    if len(kinds) != 1:
        raise ValueError(f"the outcomes are of {len(kinds)} tasks, must be of one")
    rows = {m.name: _row(m, [o for o in outcomes if m.applies(o)]) for m in MEASURES if m.task in kinds}
    return {
        "cases": len(outcomes),
        "measures": rows,
        "met": all(row["met"] for row in rows.values() if row["target"] is not None),
    }


def _row(measure: Measure, outcomes: list[CaseOutcome]) -> dict[str, Any]:
    if not outcomes:
        raise ValueError(f"{measure.task} has no cases for {measure.name!r}")
    values = [measure.value(o) for o in outcomes]
    share = measure.unit == "%"
    mean = statistics.fmean(values) * (100 if share else 1)
    row: dict[str, Any] = {
        "value": round(mean, 4),
        "unit": measure.unit,
        "cases": len(outcomes),
        "target": measure.target,
        "met": None if measure.target is None else mean >= measure.target,
    }
    if not share:
        row["worst"] = round(min(values), 4)
    if row["met"] is False and measure.part is not None:
        row["classes"] = _classes(measure.part, outcomes)
    return row


def _classes(part: str, outcomes: list[CaseOutcome]) -> dict[str, Any]:
    """Count by expected class how many were right, and what was seen instead."""
    classes: dict[str, list[CaseOutcome]] = defaultdict(list)
    for outcome in outcomes:
        classes[outcome.case.wanted[0][part]].append(outcome)
    return {
        name: {
            "percent": round(100 * sum(o.right(part) for o in members) / len(members), 2),
            "cases": len(members),
            "seen_instead": _counts([str(o.seen(part)) for o in members if not o.right(part)]),
        }
        for name, members in sorted(classes.items())
    }


def summarise_psnr(psnr: list[tuple[str, float]]) -> dict[str, Any]:
    """Summarise the autoencoder alone, by size; see `model.nano.reconstruction`."""
    by_size: dict[str, list[float]] = defaultdict(list)
    for size, value in psnr:
        by_size[size].append(value)
    mean = statistics.fmean(value for _, value in psnr)
    return {
        "psnr_db": round(mean, 2),
        "worst_psnr_db": round(min(value for _, value in psnr), 2),
        "psnr_db_by_size": {size: round(statistics.fmean(values), 2) for size, values in by_size.items()},
        "clips": len(psnr),
        "target": PSNR_TARGET,
        "met": mean >= PSNR_TARGET,
    }


def markdown(summary: dict[str, Any], command: str) -> str:
    """Format the whole report: the autoencoder and each task, with shortfalls by class."""
    lines = [f"`{command}`", "", NOTE]
    if "autoencoder" in summary:
        lines += ["", *_autoencoder_table(summary["autoencoder"])]
    for kind, task in summary["tasks"].items():
        lines += ["", *task_table(kind, task)]
    return "\n".join(lines) + "\n"


def task_table(kind: str, task: dict[str, Any]) -> list[str]:
    """Return the lines of one task's tables."""
    lines = [f"| {kind}, {task['cases']} cases | measured | target | |", "|---|---|---|---|"]
    for name, row in task["measures"].items():
        of = "" if row["cases"] == task["cases"] else f" ({row['cases']} cases)"
        worst = f" (worst {_number(row['worst'], row['unit'])})" if "worst" in row else ""
        target = "" if row["target"] is None else _number(row["target"], row["unit"])
        lines.append(f"| {name}{of} | {_number(row['value'], row['unit'])}{worst} | {target} | {_met(row['met'])} |")
    for name, row in task["measures"].items():
        if "classes" in row:
            lines += ["", f"| {kind}: {name} below target | cases | right | seen instead |", "|---|---|---|---|"]
            for label, entry in row["classes"].items():
                instead = ", ".join(f"{seen} {number}" for seen, number in entry["seen_instead"].items())
                lines.append(f"| {label} | {entry['cases']} | {entry['percent']:.1f} % | {instead} |")
    return lines


def _autoencoder_table(vae: dict[str, Any]) -> list[str]:
    measured = f"{vae['psnr_db']:.2f} dB (worst {vae['worst_psnr_db']:.2f} dB)"
    lines = [
        f"| autoencoder, {vae['clips']} clips | measured | target | |",
        "|---|---|---|---|",
        f"| PSNR | {measured} | {vae['target']:.2f} dB | {_met(vae['met'])} |",
    ]
    if not vae["met"]:
        lines += [f"| at {size} | {value:.2f} dB | | |" for size, value in vae["psnr_db_by_size"].items()]
    return lines


def _number(value: float, unit: str) -> str:
    digits = DIGITS[unit]
    return f"{value:.{digits}f}" if unit == "IoU" else f"{value:.{digits}f} {unit}"


def _met(met: bool | None) -> str:
    return {None: "", True: "met", False: "missed"}[met]


def _counts(names: list[str]) -> dict[str, int]:
    return {name: names.count(name) for name in sorted(set(names))}
