"""Prints the table of small GPUs in docs/gpus.md, from the planner.

python -m tests.docs.small_gpus_table
"""

from __future__ import annotations

from collections.abc import Iterator

from zoetrope.model.families import PRESETS
from zoetrope.model.families.config import TEXT_TOKENS
from zoetrope.model.request.load_options import LoadOptions
from zoetrope.model.request.sizes import RATIOS
from zoetrope.serving.cli.small_gpu import gpu_of, sizes_on

GIB = 2**30
DURATION = 5.0
MODELS = (
    ("wan2.2-ti2v-5b", "none"),
    ("wan2.1-t2v-14b", "none"),
    ("wan2.1-t2v-14b", "fp8"),
    ("wan2.2-t2v-a14b", "none"),
    ("wan2.2-t2v-a14b", "fp8"),
)
GPUS = (("rtx4090", "RTX 4090", 24.0), ("l40s", "L40S", 48.0), ("h100", "H100", 80.0))
SIZES = ("480p", "720p")
HEAD = (
    "| model | weights | GPU | size | GPU memory | host | seconds a step | how |",
    "| --- | --- | --- | --- | --- | --- | --- | --- |",
)


def rows() -> Iterator[str]:
    """Lines of the table."""
    for model, form in MODELS:
        load = LoadOptions(quantize="fp8") if form == "fp8" else LoadOptions()
        for kind, name, memory in GPUS:
            found = sizes_on(PRESETS[model], gpu_of(kind, memory), load, RATIOS[0], DURATION, TEXT_TOKENS, SIZES[0])
            for row in (row for row in found if row.size in SIZES):
                assert row.fits
                figures = f"{row.gpu_bytes / GIB:.1f} | {row.host_bytes / GIB:.1f} | {row.step_seconds:.1f}"
                weights = "bf16" if form == "none" else form
                yield f"| {model} | {weights} | {name}, {memory:g} | {row.size} | {figures} | {row.way} |"


def table() -> str:
    """The whole table."""
    return "\n".join((*HEAD, *rows())) + "\n"


if __name__ == "__main__":
    print(table(), end="")
