"""Report the figures as JSON and as a page."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import torch

from zoetrope.benchmarks.environment import header
from zoetrope.benchmarks.packed_throughput.served import ServedRun
from zoetrope.benchmarks.provenance import busy, commit_of

GOAL_BUSY, GOAL_DIFFUSERS = 0.95, 1.5


def record(
    command: str,
    about: dict[str, Any],
    jobs: int,
    nano: tuple[ServedRun, ServedRun],
    dense: tuple[ServedRun, ServedRun],
    diffusers: dict[int, float],
    error: float,
) -> dict[str, Any]:
    """Return the record to write as JSON, in seconds.

    Args:
        nano, dense: one after another, and all at once.
        diffusers: seconds of its pipeline by threads. error: relative, of its latents against ours.
    """
    best = min(diffusers, key=diffusers.__getitem__)
    return {
        "environment": header(torch.device("cpu"), command, 0),
        "machine": about,
        "jobs": jobs,
        "goals": {"busy": GOAL_BUSY, "diffusers": GOAL_DIFFUSERS},
        "nano": _both(*nano),
        "dense": {**_both(*dense), "diffusers": diffusers, "threads": best, "latents_error": error},
        "ratio_to_diffusers": diffusers[best] / dense[1].makespan,
    }


def _both(alone: ServedRun, together: ServedRun) -> dict[str, Any]:
    return {
        "one_by_one": _run(alone),
        "together": _run(together),
        "ratio": alone.makespan / together.makespan,
    }


def _run(run: ServedRun) -> dict[str, Any]:
    return {**asdict(run), "busy_of_makespan": run.busy_share, "busy_of_denoising": run.dense_share}


def markdown(values: dict[str, Any]) -> str:
    """Format the page."""
    where, about, dense = values["environment"], values["machine"], values["dense"]
    lines = [
        "# Many small jobs: together, one by one, and by diffusers",
        "",
        f"`{where['command']}`",
        "",
        f"{where['date']}, {commit_of(where)}, {about['processor']}, {about['usable_cores']} cores, torch "
        f"{where['torch']}; load average {about['load_average'][0]:.2f} before.",
        "",
    ]
    if (text := busy(about)) is not None:
        lines += [f"**{text}**", ""]
    lines += [
        f"{values['jobs']} jobs through one service with one engine, each run in the same process: nano's are of four "
        "tasks, four shapes, three lengths and three step counts; the dense model's are text to video in four sizes, "
        "three lengths and three step counts.",
        "",
        "| model | jobs | makespan (s) | engine's steps | segments a step | engine busy (s) | of its first to last "
        "step | of the makespan | longest pause (ms) |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for model in ("nano", "dense"):
        for way, words in (("one_by_one", "one by one"), ("together", "together")):
            run = values[model][way]
            lines.append(
                f"| {model} | {words} | {run['makespan']:.2f} | {run['steps']} | {run['segments']:.1f} | "
                f"{run['busy']:.2f} | {100 * run['busy_of_denoising']:.1f} % | {100 * run['busy_of_makespan']:.1f} % | "
                f"{1e3 * run['longest_pause']:.0f} |"
            )
    seconds = ", ".join(f"{count} threads: {found:.2f} s" for count, found in dense["diffusers"].items())
    lines += [
        "",
        f"Together, nano's jobs take 1 / {values['nano']['ratio']:.2f} of the time that they take one by one, the "
        f"dense model's 1 / {dense['ratio']:.2f}.",
        "",
        f"diffusers' WanPipeline makes the dense model's jobs one after another, decoded but not encoded as files "
        f"({seconds}). The service takes 1 / {values['ratio_to_diffusers']:.2f} of its better time, files included "
        f"(goal: {values['goals']['diffusers']:g}). Relative difference of the first job's latents: "
        f"{dense['latents_error']:.1e}.",
        "",
        f"Goal for the engine's share of the time from its first to its last step: {values['goals']['busy']:g}. The "
        "makespan also has the conditioning of the first jobs and the decoding of the last, when there is nothing to "
        "denoise.",
    ]
    return "\n".join(lines) + "\n"
