"""The page: what each peer took, with which version and which command."""

from __future__ import annotations

from typing import Any

from zoetrope.benchmarks.provenance import commit_of

NOTE = (
    "Each peer makes the same clip by its own command, in a process of its own, in turn with the others. A step is the "
    "difference between runs of many steps and of few, over the steps between: loading, texts and decoding are in "
    "both. Figures are medians over the repeats."
)
UNITS = {
    "cpu": "Seconds are of the processor, all cores together, which other work on the machine disturbs least.",
    "cuda": "Seconds are those that went by.",
}


def page(record: dict[str, Any]) -> str:
    """Format the page."""
    where, work, theirs = record["environment"], record["work"], record["reference"]
    clip = f"{work['frames']} frames of {work['width']}x{work['height']}, {work['steps']} steps"
    lines = [
        "# Peers on one machine",
        "",
        f"`{where['command']}`",
        "",
        f"{where['date']}, {commit_of(where)}, torch {where['torch']}, {where['device']}.",
        "",
        f"{record['model']}: {clip}, guidance {work['guidance']:g}, seed {work['seed']}, prompt '{work['prompt']}'. "
        f"{record['repeats']} repeat(s), {record['threads']} thread(s) for products on a CPU.",
        "",
        f"{NOTE} {UNITS[record['clock']]}",
        "",
        f"| peer | version | whole run, s | a step, s | times the speed of {theirs} | frames against {theirs} |",
        "|---|---|---|---|---|---|",
        *(_line(row) for row in record["peers"]),
        "",
        "## Commands",
        "",
    ]
    for row in record["peers"]:
        typed = f" `{row['command']}`" if "command" in row else ""
        lines.append(f"* {row['name']}: {row['source']}.{typed}")
    return "\n".join([*lines, ""])


def _line(row: dict[str, Any]) -> str:
    if "seconds" not in row:
        return f"| {row['name']} | {row.get('version', '')} | {row['outcome']} | | | |"
    step = "too short to tell" if row["step"] is None else f"{row['step']:.4f}"
    speed = "" if row["speed"] is None else f"{row['speed']:.2f}"
    alike = "" if row["psnr"] is None else "equal" if row["equal"] else f"{row['psnr']:.1f} dB"
    return f"| {row['name']} | {row['version']} | {row['seconds']:.2f} | {step} | {speed} | {alike} |"
