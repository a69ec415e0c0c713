"""Format the page of `benchmarks.attention_error`."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import Any

EXPLAINED = """\
The reference is float64 attention of the unrounded inputs. The 8-bit results come from the plain torch reference on a
CPU, which rounds where the kernel does: `int8` has 8-bit queries and keys, with probabilities and values in bfloat16;
`int8 + fp8` has probabilities and values in e4m3. Both get inputs rounded to bfloat16, as on a GPU; the row `bf16`
shows the error of that rounding alone. Smoothing subtracts the mean key from the keys before rounding.

Sparse attention is computed in float64, so that its error comes only from the omitted blocks of 128 queries and 64
keys. Its mask is a simple one, to study the cost of masking: queries and keys are averaged over tiles, the softmax of
the products of averages estimates each tile's share, and each tile of queries keeps the largest shares up to the given
mass. `oracle` selects by the true shares, which no fast method knows.

Errors are ||result - reference|| / ||reference|| over all elements, the cosine of the two, and the largest absolute
difference. 8-bit and sparse attention are off by default."""

Row = dict[str, Any]
Show = Callable[[Row], str]


def table(rows: Sequence[Row], columns: dict[str, Show]) -> list[str]:
    """Format a Markdown table."""
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    return lines + ["| " + " | ".join(show(row) for show in columns.values()) + " |" for row in rows]


def by_part(rows: Sequence[Row], methods: Sequence[str], show: Show) -> list[str]:
    """Format a table with a row for each part and a column for each method."""
    cells: dict[str, Row] = defaultdict(dict)
    for row in rows:
        if row["method"] not in methods:
            continue
        cells[row["part"]][row["method"]] = row

    def column(method: str) -> Show:
        return lambda line: show(line[method]) if method in line else ""

    columns: dict[str, Show] = {"": lambda line: str(line["part"])}
    lines = [{"part": part, **found} for part, found in cells.items()]
    return table(lines, columns | {method: column(method) for method in methods})


def unique(names: Iterable[str]) -> list[str]:
    """Remove duplicates, keeping the order."""
    return list(dict.fromkeys(names))


def error(row: Row) -> str:
    return f"{row['relative_l2']:.1e}"


def share(row: Row) -> str:
    return f"{row['relative_l2']:.1e} ({100 * row['density']:.0f} %)"


def markdown(record: Row) -> str:
    """Format the page."""
    rows: list[Row] = record["rows"]
    figures: dict[str, Show] = {
        "method": lambda row: str(row["method"]),
        "relative L2": lambda row: f"{row['relative_l2']:.2e}",
        "1 - cosine": lambda row: f"{max(1 - row['cosine'], 0.0):.1e}",
        "max abs": lambda row: f"{row['max_abs']:.2e}",
    }
    dense = unique(row["method"] for row in rows if not row["method"].startswith("mass"))
    masses = unique(row["method"] for row in rows if row["method"].startswith("mass") and "oracle" not in row["method"])
    lines = ["# Error of 8-bit and of block-sparse attention", "", EXPLAINED]
    took = f"{record['cpu_seconds']:.0f} s of one core"
    where = record["environment"]
    lines += ["", f"`{where['command']}`, {where['device']}, torch {where['torch']}, {took}."]
    for source, description in record["sources"].items():
        mine = [row for row in rows if row["source"] == source]
        lines += ["", f"## {source}", "", description]
        whole = [row for row in mine if row["part"] == "all"]
        eight = [row for row in whole if row["method"] in dense]
        if eight:
            lines += ["", *table(eight, figures)]
        blocks = [row for row in whole if row["method"].startswith("mass")]
        if blocks:
            computed = {"blocks computed": lambda row: f"{100 * row['density']:.0f} %"}
            lines += ["", "Block-sparse self-attention:", "", *table(blocks, figures | computed)]
        parts = [row for row in mine if row["part"] != "all"]
        lines += ["", "Relative L2 by part, 8 bits:", "", *by_part(parts, dense, error)]
        lines += ["", "Relative L2 by part and mass (share of blocks computed):", "", *by_part(parts, masses, share)]
    if record["generations"]:
        lines += ["", "## A whole generation", "", f"{record['generated']} against the same clip in float32.", ""]
        lines += table(
            record["generations"],
            {
                "method": lambda row: str(row["method"]),
                "relative L2 of the latents": lambda row: f"{row['relative_l2']:.2e}",
                "PSNR of the frames, dB": lambda row: "equal" if row["psnr"] is None else f"{row['psnr']:.1f}",
            },
        )
    return "\n".join(lines) + "\n"
