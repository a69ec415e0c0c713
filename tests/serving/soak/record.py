"""What a soak found, as a result file (`benchmarks.schema.service.SoakRecord`) and as its page."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from zoetrope.benchmarks.provenance import commit_of, header

if TYPE_CHECKING:
    from tests.serving.soak.run import Seen, Soak


def record_of(plan: Soak, seen: Seen, command: str) -> dict[str, Any]:
    """Return the record. ``command``: of the run."""
    ledger, found = seen.ledger, seen.audit
    return {
        "environment": header(command, plan.seed),
        "settings": {**asdict(plan), "postgres": bool(plan.postgres)},
        "seconds": seen.seconds,
        "jobs": len(ledger.orders),
        "states": {str(state): count for state, count in sorted(found.states.items())},
        "attempts": {str(attempt): count for attempt, count in sorted(found.attempts.items())},
        "files": found.files,
        "strays": found.strays,
        "calls_tried_again": sum(ledger.retries.values()),
        "replays": ledger.replays,
        "events": len(ledger.webhooks),
        "deliveries": ledger.deliveries,
        "struck": [asdict(struck) for struck in seen.struck],
        "left_out": seen.left_out,
        "problems": seen.problems,
    }


def healing(record: Mapping[str, Any]) -> dict[str, list[float | None]]:
    """Return the seconds until a new job was done after each fault, by its name; None: that never was."""
    names = sorted({struck["fault"] for struck in record["struck"]})
    return {name: [one["healed"] for one in record["struck"] if one["fault"] == name] for name in names}


def page(record: Mapping[str, Any]) -> str:
    """Format the page from the JSON alone."""
    where, settings = record["environment"], record["settings"]
    machine = where["machine"]
    store = "PostgreSQL" if settings["postgres"] else "SQLite"
    lines = [
        "# Jobs under kills and other faults",
        "",
        f"`{where['command']}`",
        "",
        f"{where['date']}, {commit_of(where)}, {machine['processor']}, {machine['usable_cores']} cores, load average "
        f"{machine['load_average'][0]:.2f} before.",
        "",
        f"nano on {store}, files {'in S3' if settings['s3'] else 'on disk'}, {settings['gateways']} gateway(s): "
        f"{record['jobs']} jobs of {settings['clients']} clients and {len(record['struck'])} faults in "
        f"{record['seconds']:.0f} s. A fault that is no kill lasts {settings['away_seconds']:g} to "
        f"{settings['pause_seconds']:g} s.",
        "",
        "**Problems:** " + ("none: no job lost, none doubled." if not record["problems"] else ""),
        *(f"* {problem}" for problem in record["problems"]),
        "",
        f"{_counts(record['states'])}; attempts {_counts(record['attempts'])}. {record['files']} files decoded, each "
        f"with its checksum and frames. {record['events']:,} webhook events, delivered {record['deliveries']:,} times "
        f"in all. {record['calls_tried_again']} calls were tried again, {record['replays']} creates were repeated and "
        f"gave the same job. {record['strays']} files were left for the sweeper.",
        "",
        "| fault | times | jobs in hand | seconds until a new job was done |",
        "|---|---:|---|---|",
    ]
    for name, seconds in healing(record).items():
        in_hand = [one["queued"] + one["running"] for one in record["struck"] if one["fault"] == name]
        told = ", ".join("never" if value is None else f"{value:.1f}" for value in seconds)
        lines.append(f"| {name} | {len(seconds)} | {', '.join(map(str, in_hand))} | {told} |")
    if record["left_out"]:
        lines += ["", "Left out:", "", *(f"* {fault}" for fault in record["left_out"])]
    return "\n".join(lines) + "\n"


def _counts(found: Mapping[str, int]) -> str:
    return ", ".join(f"{name}: {count}" for name, count in found.items())
