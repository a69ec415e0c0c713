"""Format the results as a Markdown page: targets, correctness, then every figure with its bound."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from zoetrope.benchmarks.kernels.contenders import ContenderRow
from zoetrope.benchmarks.provenance import commit_of

TITLES = {
    "bounds": "Device limits",
    "grouped_gemm": "Grouped matrix products",
    "moe": "Feed-forward of routed experts",
    "attention": "Attention",
    "passes": "Memory-bound passes",
    "layer": "Whole layer",
    "choice": "Each operation by every implementation that may run",
}
BY_BANDWIDTH = frozenset({"passes"})


def rows_of(results: Mapping[str, Any]) -> list[ContenderRow]:
    """Return the rows of a results file."""
    return [ContenderRow.of({key: value for key, value in row.items() if key != "run"}) for row in results["rows"]]


def bounds_of(rows: Iterable[ContenderRow]) -> tuple[float | None, float | None]:
    """Return the measured peak of cuBLAS in bf16 (TFLOP/s) and bandwidth of a copy (TB/s)."""
    found = {row.name: row for row in rows if row.section == "bounds"}
    peak, copy = found.get("cuBLAS bfloat16"), found.get("copy")
    return (peak.tflops if peak else None), (copy.bandwidth if copy else None)


def markdown(results: Mapping[str, Any]) -> str:
    """Format the page."""
    rows = rows_of(results)
    lines = ["# Kernels", ""]
    if results["notice"]:
        lines += [f"**{results['notice']}**", ""]
    lines += _runs(results["runs"]) + _verdicts(results["verdicts"]) + _correctness(results["correctness"])
    peak, copy = bounds_of(rows)
    for section, title in TITLES.items():
        lines += _section(title, [row for row in rows if row.section == section], section, peak, copy)
    return "\n".join(lines).rstrip() + "\n"


def _runs(runs: Mapping[str, Mapping[str, Any]]) -> list[str]:
    lines = []
    for date, run in sorted(runs.items()):
        packages = "".join(f", {name} {version}" for name, version in run["packages"].items())
        lines += [
            f"* {date}: {run['device']}, driver {run['driver']}, CUDA {run['cuda']}, cuDNN {run['cudnn']}, "
            f"torch {run['torch']}, triton {run['triton']}{packages}; {commit_of(run)}, "
            f"seed {run['seed']}; `{run['command']}`"
        ]
    note = "Times are medians; inputs rotate and the L2 cache is flushed before each run. "
    note += "Ratios compare times within one run."
    return [*lines, "", note, ""]


def _verdicts(verdicts: Sequence[Mapping[str, Any]]) -> list[str]:
    if not verdicts:
        return []
    lines = ["## Targets", ""]
    lines += ["| target | case | at least | measured | | peer, remarks |", "|---|---|---:|---:|---|---|"]
    for verdict in verdicts:
        measured = "-" if verdict["measured"] is None else f"{verdict['measured']:.3f}"
        met = {True: "met", False: "**missed**", None: "absent"}[verdict["met"]]
        if verdict["met"] is False:
            met += f" by {100 * (1 - verdict['measured'] / verdict['at_least']):.0f} %"
        remarks = "; ".join(part for part in (verdict["peer"], verdict["note"]) if part)
        cells = [verdict["target"], verdict["case"], f"{verdict['at_least']:.2f}", measured, met, remarks]
        lines.append(f"| {' | '.join(map(_cell, cells))} |")
    return [*lines, ""]


def _correctness(findings: Sequence[Mapping[str, Any]]) -> list[str]:
    if not findings:
        return []
    groups: dict[tuple[str, str, str, str], list[Mapping[str, Any]]] = {}
    for finding in findings:
        head = "" if finding["head_dim"] is None else str(finding["head_dim"])
        groups.setdefault((finding["op"], finding["backend"], finding["dtype"], head), []).append(finding)
    lines = ["## Correctness", ""]
    lines += ["Relative errors against float64 on random inputs; outputs poisoned, each case run twice.", ""]
    lines += ["| kernel | dtype | head dim | cases | largest error / limit | |", "|---|---|---|---:|---:|---|"]
    wrong: list[str] = []
    for (op, backend, dtype, head), found in sorted(groups.items()):
        bad = [finding for finding in found if not finding["right"]]
        errors = [finding["error"] / finding["limit"] for finding in found if finding["error"] is not None]
        verdict = f"**{len(bad)} wrong**" if bad else "right"
        largest = f"{max(errors):.2f}" if errors else "-"
        lines.append(f"| {op}/{backend} | {dtype} | {head} | {len(found)} | {largest} | {verdict} |")
        for finding in bad[:5]:
            what = finding["problem"] or (f"error {finding['error']}" if finding["same_bits"] else "two runs differ")
            wrong.append(f"* {op}/{backend} {dtype} {finding['name']}: {what}")
    return [*lines, "", *wrong, ""] if wrong else [*lines, ""]


def _section(
    title: str, rows: Sequence[ContenderRow], section: str, peak: float | None, copy: float | None
) -> list[str]:
    if not rows:
        return []
    lines = [f"## {title}", "", "| case | | ms | 5-95 % | TFLOP/s | TB/s | of the bound | difference |"]
    lines.append("|---|---|---:|---:|---:|---:|---:|---:|")
    absent = []
    for row in rows:
        if row.seconds is None:
            absent.append(f"* {row.name} ({row.case}): {row.absent}")
            continue
        rate, bound = (row.bandwidth, copy) if section in BY_BANDWIDTH else (row.tflops, peak)
        share = f"{100 * rate / bound:.0f} %" if rate and bound and section != "bounds" else ""
        spread = f"{1000 * (row.low or 0):.3f}-{1000 * (row.high or 0):.3f}"
        lines.append(
            f"| {_cell(row.case)} | {_cell(row.name)} | {1000 * row.seconds:.3f} | {spread} | {_number(row.tflops)} "
            f"| {_number(row.bandwidth)} | {share} | {'' if row.difference is None else f'{row.difference:.1e}'} |"
        )
    return [*lines, "", *(["Absent:", "", *absent, ""] if absent else [])]


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.1f}" if value >= 10 else f"{value:.3f}"


def _cell(value: object) -> str:
    return str(value).replace("|", "/").replace("\n", " ")
