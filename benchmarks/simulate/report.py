"""The figures of all runs as a page."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

COLUMNS = ("fairness", "GPUs busy", "jobs/h", "preempted", "moved", "decision p99")
PREDICTION = "prediction: simulated with computed step times, nothing here was measured on a GPU"
MEASURED = "simulated with step times corrected by measurements"


def label(origin: str) -> str:
    """Return the label that says how the step times were obtained. ``origin``: as of `fleet.costs_of`."""
    return PREDICTION if origin.startswith("roofline") else MEASURED


def page(record: Mapping[str, Any]) -> str:
    """Format a page. ``record``: what `simulate.__main__` writes as JSON."""
    fleet, trace, runs = record["fleet"], record["trace"], record["runs"]
    lines = [
        f"# {trace['jobs']:,} jobs on {fleet['gpus']:,} {fleet['gpu'].upper()}s, by policy",
        "",
        f"**{record['label'][:1].upper()}{record['label'][1:]}.** Written by `{record['environment']['command']}`.",
        "",
        f"- {record['model']} on {fleet['described']}; {fleet['conditioners']} conditioners and {fleet['decoders']} "
        "decoders, whose GPUs are not counted",
        f"- {trace['described']}",
        f"- objective: a job is done within {record['slo']:g} times what it takes alone on the largest engine"
        + ("" if record["told"] else "; policies are not told"),
        f"- step times: {fleet['origin']}",
        *([f"- {fleet['failing']}"] if fleet["failing"] else []),
        "",
        f"| policy | in time | mean | p50 | p95 | p99 | {' | '.join(COLUMNS)} |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|",
        *(_run(run) for run in runs),
        "",
        "Seconds from arrival to file. In time: jobs that met the objective. Fairness: Jain's index over tenants of how"
        " fast their jobs were, compared with an idle fleet. Preempted: times that a job sat out a step of its engine. "
        "Moved: times that it changed its engine. Decisions were timed on this machine's CPU.",
    ]
    if any(run["eta_error"] is not None for run in runs):
        lines += ["", "Median error of the end predicted on arrival, as a share of a job's duration: "]
        lines[-1] += ", ".join(
            f"{run['policy']} {run['eta_error']:.1%}" for run in runs if run["eta_error"] is not None
        )
        lines[-1] += "."
    if fleet["failing"]:
        lines += ["", "Failures undid "]
        lines[-1] += ", ".join(
            f"{run['redone_gpu_seconds'] / run['gpu_seconds_used']:.2%} of the work under {run['policy']} "
            f"({run['failures']} failures)"
            for run in runs
        )
        lines[-1] += "."
    lines += ["", "## By class", "", *_classes(runs)]
    return "\n".join(lines) + "\n"


def _run(run: Mapping[str, Any]) -> str:
    latency = run["latency"]
    cells = [run["policy"], f"{run['slo_attainment']:.1%}"]
    cells += [seconds(latency[name]) for name in ("mean", "p50", "p95", "p99")]
    cells += [f"{run['jain']:.2f}", f"{run['busy']:.1%}", f"{run['jobs_per_hour']:,.0f}"]
    cells += [f"{run['preemptions']:,}", f"{run['moves']:,}", f"{run['decision_ms']['p99']:.2f} ms"]
    return f"| {' | '.join(cells)} |"


def _classes(runs: Sequence[Mapping[str, Any]]) -> list[str]:
    lines = [
        "| class | jobs | alone | policy | in time | mean | p50 | p95 | p99 |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for shape, first in runs[0]["classes"].items():
        for run in runs:
            found = run["classes"].get(shape)
            if found is None:
                continue
            head = [shape, f"{first['jobs']:,}", seconds(first["solo"])] if run is runs[0] else ["", "", ""]
            cells = [*head, run["policy"], f"{found['slo_attainment']:.1%}"]
            cells += [seconds(found[name]) for name in ("mean", "p50", "p95", "p99")]
            lines.append(f"| {' | '.join(cells)} |")
    return lines


def seconds(value: float | None) -> str:
    """Format seconds, with three digits; a dash if there are none."""
    if value is None or math.isnan(value):
        return "-"
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
