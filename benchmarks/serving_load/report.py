"""The page of a record, made from its JSON alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from zoetrope.benchmarks.provenance import commit_of
from zoetrope.benchmarks.serving_load.plots import point_name


def page(record: Mapping[str, Any]) -> str:
    """Format a page. ``record``: as `serving_load.run` makes it."""
    where, settings = record["environment"], record["settings"]
    machine = where["machine"]
    lines = [
        "# A service under load",
        "",
        f"`{where['command']}`",
        "",
        f"{where['date']}, {commit_of(where)}, {machine['processor']}, {machine['usable_cores']} cores.",
        "",
        f"Model {record['model']} at {record['server']}. {record['described']}. Objective: {settings['slo']:g} times "
        "what a job of its class takes alone. Latencies are the client's, from the arrival in the trace to the end.",
    ]
    if record.get("interrupted"):
        lines += ["", "**It was interrupted: there are fewer runs than were asked for.**"]
    if not machine["idle"]:
        lines += ["", f"The machine was not idle: load average {machine['load_average'][0]:.2f} before the run."]
    if (capacity := record["capacity"]) is not None:
        lines += [
            "",
            f"Capacity, measured in the same run{_under(capacity)}: {_whose(record)} at once took "
            f"{capacity['seconds']:.1f} s, {capacity['per_second']:.3f} a second.",
        ]
    if record["points"][0]["policy"] != record["points"][-1]["policy"]:
        lines[-1] += f" What a job takes alone was measured under {record['points'][0]['policy']} and holds for all."
    lines += ["", *_summary(record["points"]), "", *_second(record["points"])]
    if any(point["figures"]["errors"] for point in record["points"]):
        lines += ["", "## Errors", "", *_errors(record["points"])]
    if any(point["faults"] is not None for point in record["points"]):
        lines += ["", "## Faults", "", *_faults(record["points"])]
    lines += ["", "## By class", "", *_classes(record["points"])]
    if len(record["points"][0]["figures"]["tenants"]) > 1:
        lines += ["", "## By tenant", "", *_tenants(record["points"])]
    for name, words in record["plots"].items():
        lines += ["", f"![{words}]({name})"]
    return "\n".join(lines) + "\n"


def _whose(record: Mapping[str, Any]) -> str:
    jobs = record["capacity"]["jobs"]
    same = all(point["figures"]["jobs"] == jobs for point in record["points"])
    return f"the {jobs} jobs of a run" if same else f"{jobs} jobs of the mix"


def _under(capacity: Mapping[str, Any]) -> str:
    return f" under {capacity['policy']}" if capacity["policy"] else ""


def _summary(points: Sequence[Mapping[str, Any]]) -> list[str]:
    lines = [
        "| run | jobs | done | videos/s | in time | in time/s | mean | p50 | p95 | p99 | queued | first preview |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for point in points:
        found = point["figures"]
        cells = [point_name(point), str(found["jobs"]), str(found["succeeded"]), number(found["videos_per_second"])]
        cells += [share(found["slo_attainment"]), number(found["goodput_per_second"]), *_latencies(found["latency"])]
        cells += [_mean(found["queued"]), _mean(found["first_preview"])]
        lines.append(f"| {' | '.join(cells)} |")
    return [*lines, "", "Seconds; queued and first preview are means. A dash: the server does not tell."]


def _second(points: Sequence[Mapping[str, Any]]) -> list[str]:
    lines = [
        "| run | offered/s | of capacity | seconds | video s/s | video s/GPU-s | tokens/s | GPUs | GPUs busy | "
        "cost/video s | late |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for point in points:
        found = point["figures"]
        cells = [point_name(point), number(found["offered_per_second"]), _of_capacity(point), number(found["seconds"])]
        cells += [number(found[name]) for name in ("video_seconds_per_second", "video_seconds_per_gpu_second")]
        tokens = found["tokens_per_second"]
        cells += ["-" if tokens is None else f"{tokens:,.0f}", "-" if found["gpus"] is None else str(found["gpus"])]
        cells += [share(found["gpu_busy_share"])]
        cells += [number(found[name]) for name in ("cost_per_video_second", "generator_late")]
        lines.append(f"| {' | '.join(cells)} |")
    words = (
        "Offered: as the jobs really arrived, from the first to the last; of capacity: in tokens, or in jobs where the "
        "model's shape is not known. Tokens: denoised, all branches and steps. A rank on a CPU counts as a GPU here. "
        "Busy: GPU-seconds that the server says its jobs used. Late: seconds by which the load generator was behind "
        "the trace at most."
    )
    return [*lines, "", words]


def _of_capacity(point: Mapping[str, Any]) -> str:
    found = point["share_of_capacity"]
    return "-" if found is None else share(found["jobs"] if found["tokens"] is None else found["tokens"])


def _classes(points: Sequence[Mapping[str, Any]]) -> list[str]:
    lines = [
        "| class | run | jobs | alone | in time | mean | p50 | p95 | p99 | queued | first preview |",
        "|---|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    kinds = dict.fromkeys(row["class"] for point in points for row in point["figures"]["classes"])
    for kind in sorted(kinds):
        for point in points:
            for row in point["figures"]["classes"]:
                if row["class"] == kind:
                    cells = [kind, point_name(point), str(row["jobs"]), number(row["alone"])]
                    cells += [share(row["slo_attainment"]), *_latencies(row["latency"])]
                    cells += [_mean(row["queued"]), _mean(row["first_preview"])]
                    lines.append(f"| {' | '.join(cells)} |")
    return lines


def _tenants(points: Sequence[Mapping[str, Any]]) -> list[str]:
    lines = ["| tenant | run | jobs | in time | mean | p50 | p95 | p99 |", "|---|---|---:|---:|---:|---:|---:|---:|"]
    for point in points:
        for row in point["figures"]["tenants"]:
            cells = [row["tenant"], point_name(point), str(row["jobs"]), share(row["slo_attainment"])]
            lines.append(f"| {' | '.join([*cells, *_latencies(row['latency'])])} |")
    return lines


def _errors(points: Sequence[Mapping[str, Any]]) -> list[str]:
    lines = ["| run | error | jobs |", "|---|---|---:|"]
    for point in points:
        lines += [f"| {point_name(point)} | {kind} | {n} |" for kind, n in point["figures"]["errors"].items()]
    return lines


def _faults(points: Sequence[Mapping[str, Any]]) -> list[str]:
    lines = []
    for point in points:
        found = point["faults"]
        if found is None:
            continue
        lines += [
            f"{point_name(point)}: {found['accepted']} jobs accepted, **{found['lost']} lost**, {found['failed']} "
            f"failed, {found['cancelled']} cancelled ({found['cancel_asked']} asked for), {found['begun_again']} begun "
            "again.",
        ]
        if found["steps_redone"] is not None:
            lines += [
                f"{found['steps_redone']} steps were taken again beside {found['steps_needed']:,} that it took, "
                f"{found['most_redone_by_a_job']} of one job at most; of jobs that did not succeed, up to their end.",
            ]
        head = "| second | what | jobs under way | on engines | next job done after |"
        lines += ["", head, "|---:|---|---:|---:|---:|"]
        for struck in found["struck"]:
            after, on_engines = struck["next_end_after"], struck["on_engines"]
            cells = [f"{struck['at']:.1f}", struck["what"] + ("" if struck["hit"] else ": **hit no job**")]
            cells += [str(struck["under_way"]), "-" if on_engines is None else str(on_engines)]
            lines.append(f"| {' | '.join([*cells, '-' if after is None else f'{after:.1f} s'])} |")
        lines.append("")
    lines += ["Jobs: that the service had when the fault came, and those of them that an engine was seen to hold.", ""]
    return lines[:-1]


def _latencies(found: Mapping[str, float] | None) -> list[str]:
    return ["-"] * 4 if found is None else [number(found[name]) for name in ("mean", "p50", "p95", "p99")]


def _mean(found: Mapping[str, float] | None) -> str:
    return "-" if found is None else number(found["mean"])


def share(value: float | None) -> str:
    """Format a share as a percentage; a dash if there is none."""
    return "-" if value is None else f"{100 * value:.1f} %"


def number(value: float | None) -> str:
    """Format with three digits; a dash if there is none."""
    if value is None:
        return "-"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
