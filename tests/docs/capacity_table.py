"""Prints the capacity table of docs/operations/runbook.md, from the planner.

python -m tests.docs.capacity_table
"""

from __future__ import annotations

from collections.abc import Iterator

from zoetrope.model.request.sizes import RATIOS
from zoetrope.serving.cli.plan import GIB, make_plan
from zoetrope.serving.cli.plan_price import planned_job

DURATION = 5.0
GPU = "h100"
# Model, GPUs of an engine, size.
PLANS = (
    ("wan2.7-27b", 8, "480p"),
    ("wan2.7-27b", 8, "720p"),
    ("wan2.7-27b", 4, "720p"),
    ("wan2.2-t2v-a14b", 8, "480p"),
    ("wan2.2-t2v-a14b", 8, "720p"),
    ("wan2.2-ti2v-5b", 1, "480p"),
    ("wan2.2-ti2v-5b", 1, "720p"),
    ("wan2.1-t2v-1.3b", 1, "480p"),
)
COLUMNS = (
    "model",
    "GPUs of an engine",
    "size",
    "memory of a GPU, GiB",
    "step, s",
    "steps",
    "GPU-seconds of a job",
    "jobs an hour of an engine",
)


def rows() -> Iterator[str]:
    """Lines of the table."""
    for model, gpus, size in PLANS:
        plan, _, wanted = make_plan(model, gpus, size, RATIOS[0], DURATION, GPU, 8)
        job = planned_job(wanted, plan, DURATION, None, "exact")
        ranks = plan.ranks * plan.gangs
        memory = f"{plan.memory.total / GIB:.0f} of {plan.memory.available / GIB:.0f}"
        figures = (
            f"{plan.time.total:.2f}",
            job.steps,
            f"{job.gpu_seconds:,.0f}",
            f"{3600 * ranks / job.denoising:,.0f}",
        )
        yield f"| {' | '.join(map(str, (model, ranks, size, memory, *figures)))} |"


def table() -> str:
    """The whole table."""
    head = (f"| {' | '.join(COLUMNS)} |", f"| {' | '.join('---' for _ in COLUMNS)} |")
    return "\n".join((*head, *rows())) + "\n"


if __name__ == "__main__":
    print(table(), end="")
