"""The page of a run, made from its record."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from zoetrope.benchmarks.provenance import busy, commit_of

MIB = 2**20


def page(record: Mapping[str, Any]) -> str:
    """Format the page."""
    where, about = record["environment"], record["model"]
    clock = "processor time" if about["clock"] == "processor" else "time"
    warning = busy(where["machine"])
    lines = [
        "# Steps of one model",
        "",
        f"`{where['command']}`",
        "",
        f"{where['date']}, {commit_of(where)}, {where['device']} ({where['machine']['processor']}), torch "
        f"{where['torch']}.",
        "",
        *([f"**{warning}**", ""] if warning else []),
        f"{about['name']}: {about['parameters']:,} parameters, {about['weight_bytes'] / MIB:.1f} MiB of weights in "
        f"{about['dtype']}, {about['threads']} thread(s). Seconds are {clock}, medians of {record['repeats']} clips.",
        *(
            ["Text encoder and autoencoder are small stand-ins with random weights: their times are not the model's."]
            if about["stand_ins"]
            else []
        ),
        "",
        *_clips(record),
        "",
        *_parts(record),
        "",
        *_diffusers(record),
    ]
    return "\n".join([*lines, ""])


def _clips(record: Mapping[str, Any]) -> list[str]:
    hardware = record["hardware"]
    return [
        "## A clip",
        "",
        "The text is two prompts. The first step also computes the keys and values of the text, which the others keep. "
        "Memory is what a step needs beside weights and latents, at its peak. The roofline is "
        f"`cluster.planning.step_time` for {hardware['name']} ({hardware['source']}), a prediction.",
        "",
        "| clip | tokens | branches | text (s) | first step (s) | step (s) | decoding (s) | memory (MiB) | "
        "roofline (s) |",
        "|---|---|---|---|---|---|---|---|---|",
        *(
            f"| {_clip(row)} | {row['tokens']:,} | {row['forwards']} | {row['text']:.4f} | {row['first_step']:.4f} | "
            f"{row['step']:.4f} | {row['decode']:.4f} | {_memory(row['working_bytes'])} | "
            f"{row['roofline']['seconds']:.4f} |"
            for row in record["clips"]
        ),
    ]


def _parts(record: Mapping[str, Any]) -> list[str]:
    rows = record["clips"]
    sizes = [f"{row['tokens']:,} tokens" for row in rows]
    kinds = {"attention": "attention", "products": "matrix products", "rest": "all other"}
    return [
        "## A step by part",
        "",
        "Shares of a step after the first; the second table is of the same step by kind of operation.",
        "",
        _line(["part", *sizes]),
        _line(["---"] * (1 + len(rows))),
        *(_line([part, *(f"{row['shares'][part]:.1%}" for row in rows)]) for part in rows[0]["shares"]),
        "",
        _line(["operations", *sizes]),
        _line(["---"] * (1 + len(rows))),
        *(_line([label, *(f"{row['operations'][kind]:.1%}" for row in rows)]) for kind, label in kinds.items()),
    ]


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _diffusers(record: Mapping[str, Any]) -> list[str]:
    found = record["diffusers"]
    lines = ["## Against diffusers", ""]
    if found["not_run"]:
        return [*lines, f"Not run: {found['not_run']}."]
    lines += [
        f"diffusers {record['environment']['packages']['diffusers']}'s WanPipeline on the same weights with as many "
        f"threads, in turns with ours: prompt to latents, {record['steps']} steps, both branches of guidance. Speed is "
        "its time over ours, the median of the pairs: above 1 ours is faster. The difference is that of the latents, "
        "relative, the largest.",
        "",
        "| way | clip | tokens | ours (s) | diffusers (s) | speed | difference |",
        "|---|---|---|---|---|---|---|",
        *(
            f"| {row['way']} | {_clip(row)} | {row['tokens']:,} | {row['ours']:.3f} | {row['diffusers']:.3f} | "
            f"{row['speed']:.2f} | {row['difference']:.1e} |"
            for row in found["rows"]
        ),
    ]
    if batch := found["batch"]:
        lines += [
            "",
            f"{batch['jobs']} mixed small clips (4 sizes; 8, 12 and 20 steps): diffusers one after another "
            f"{batch['diffusers']:.2f} s, ours one after another {batch['one_by_one']:.2f} s, ours in one batch "
            f"{batch['together']:.2f} s: {batch['speed']:.2f} times as fast as diffusers.",
        ]
    eager = [row for row in found["rows"] if row["way"] == "eager"]
    if eager:
        most = max(record["clips"], key=lambda row: row["tokens"])
        same = most["operations"]["attention"] + most["operations"]["products"]
        lines += [
            "",
            f"What bounds the rest: at {most['tokens']:,} tokens {same:.0%} of our step is in torch's attention and "
            "matrix products, the same calls as diffusers'. What is ours to save beside them is the text's keys and "
            "values, computed once a clip, passes over the rows, and the cost of calls, which both branches share.",
        ]
    if reason := found.get("not_compiled"):
        lines += ["", f"Nothing was compiled: {reason}."]
    return lines


def _clip(row: Mapping[str, Any]) -> str:
    return f"{row['size']}, {row['frames']} frames"


def _memory(found: int | None) -> str:
    return "unknown" if found is None else f"{found / MIB:.1f}"
