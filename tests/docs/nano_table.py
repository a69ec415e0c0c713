"""Writes the table of docs/nano.md, from the committed evaluation.

python -m tests.docs.nano_table
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from tests.docs.tables import put_table
from zoetrope.benchmarks.provenance import REPOSITORY
from zoetrope.benchmarks.results_files import RESULTS

PAGE, RESULT = REPOSITORY / "docs" / "nano.md", RESULTS / "nano.json"
HEAD = ("| task | measure | measured | target | cases |", "| --- | --- | --- | --- | --- |")
TASKS = {
    "text_to_video": "text to video",
    "image_to_video": "image to video",
    "first_last_frame": "first and last frame",
    "grid_to_video": "3x3 grid",
    "reference_to_video": "reference to video",
    "edit_video": "edit",
}
DIGITS = {"%": 1, "dB": 1, "IoU": 2}


def rows(record: dict[str, Any]) -> Iterator[str]:
    """Yield a line for each measure that has a target."""
    for kind, task in TASKS.items():
        for name, row in record["tasks"][kind]["measures"].items():
            if row["target"] is not None:
                told, unit = f"{row['value']:.{DIGITS[row['unit']]}f} {row['unit']}", row["unit"]
                yield f"| {task} | {british(name)} | {told} | {row['target']:g} {unit} | {row['cases']} |"
    vae = record["autoencoder"]
    yield f"| autoencoder | PSNR | {vae['psnr_db']:.1f} dB | {vae['target']:g} dB | {vae['clips']} |"


def british(name: str) -> str:
    """Return the name of a measure as documents spell it."""
    return name.replace("color", "colour")


def table() -> str:
    """Return the table."""
    return "\n".join((*HEAD, *rows(json.loads(RESULT.read_text()))))


if __name__ == "__main__":
    put_table(PAGE, HEAD[0], table())
