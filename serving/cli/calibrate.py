"""`zoetrope calibrate`: measures the ratios from which ``quality`` chooses the steps to compute."""

from __future__ import annotations

import json
import os
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.progress import MofNCompleteColumn

from zoetrope.serving.cli.console import stderr
from zoetrope.serving.cli.errors import bad_input
from zoetrope.serving.cli.load_options import ModelLoadOptions
from zoetrope.serving.cli.options import QuietOption, add_commands, option

if TYPE_CHECKING:
    from zoetrope.model.caching.ratios import RatioList
    from zoetrope.model.media.inputs import Inputs
    from zoetrope.model.pipeline import LocalPipeline
    from zoetrope.model.request.specs import VideoSpec
    from zoetrope.model.request.tasks import ModelCard

    Clips = dict[str, list[tuple[VideoSpec, Inputs]]]  # by kind of task

SEED = 24680  # neither of nano's training nor of its evaluation
MAX_REQUESTS = 1_000
# Of a text to video model, where no requests are given: still and moving, near and far, people, animals and things.
PROMPTS = (
    "A lighthouse on a cliff at dusk, waves breaking below, seen from a slowly rising drone",
    "Close-up of a potter's hands shaping a bowl of wet clay on a turning wheel",
    "Two dogs chase each other through fresh snow in a park, low winter sun",
    "A tram crosses a busy square in the rain, reflections on the cobbles, people with umbrellas",
    "An old woman laughs at a kitchen table, steam rising from a cup of tea",
    "A red kite climbs over a green hill, the camera follows it from below",
    "A glass marble rolls down a wooden staircase and comes to rest against a wall",
    "Time lapse of clouds over a mountain lake, their shadows moving across the water",
)


def calibrate(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL", help="Preset with weights, checkpoint folder or file; the list is kept with it."
        ),
    ],
    load: ModelLoadOptions,
    requests: Annotated[
        Path | None,
        option(
            "FILE", "Requests to measure with, as JSON, one a line, with paths of local media.", "own prompts or cases"
        ),
    ] = None,
    count: Annotated[int | None, option("N", "Clips to measure for each task.", "8, or all requests", min=1)] = None,
    steps: Annotated[int | None, option("N", "Denoising steps of the list.", "the model's")] = None,
    quiet: QuietOption = False,
) -> None:
    """Measure a model for faster levels of quality.

    Clips are made with every step computed; the mean change of their velocities from step to step is printed and kept
    in MODEL/step_ratios.json, or beside a single file. From it a request's quality, balanced or fast, chooses the steps
    to compute.
    """
    from dataclasses import replace

    from zoetrope.model.caching.levels import MIN_STEPS
    from zoetrope.model.caching.ratios import ratios_file, write_lists
    from zoetrope.model.catalog.checks import checked, transformer_files
    from zoetrope.model.catalog.presets import find_model

    card = checked(find_model(model, load.resolved()))  # its present list may be of other weights
    console = stderr()
    for warning in card.warnings:
        console.print(f"warning: {warning}", markup=False)
    if card.profile is not None:
        raise bad_input("model", f"{card.name} runs profile {card.profile.name}, of which every step is computed")
    if card.adapters:
        raise bad_input("lora", f"cannot be given: a list belongs to the weights of {card.name} itself")
    folder = ratios_file(Path(card.directory)).parent
    if not os.access(folder, os.W_OK):
        raise bad_input("model", f"{folder} cannot be written to, where the list would be kept")
    clips = _clips(card, requests, count, steps)
    least = min(spec.steps for made in clips.values() for spec, _ in made)
    if least < MIN_STEPS:
        raise bad_input("steps", f"{least} must be {MIN_STEPS} or more: with fewer, every step is computed")
    if not quiet:
        console.print(f"loading {card.name}")
    from zoetrope.model.pipeline import LocalPipeline

    pipeline = LocalPipeline.load(card)
    found = []
    with count_steps(quiet) as bar:
        for kind, made in clips.items():
            task = bar.add_task(kind, total=sum(spec.steps for spec, _ in made))
            found.append(_measure(pipeline, kind, made, lambda task=task: bar.advance(task)))
            for line in _lines(found[-1], replace(card, step_ratios=tuple(found))):
                print(line)
    words = ["zoetrope", "calibrate", model, *(["--requests", requests.name] if requests else [])]
    words += ["--count", str(count)] if count else []
    words += ["--steps", str(steps)] if steps else []
    print(f"wrote {write_lists(Path(card.directory), found, transformer_files(card), ' '.join(words))}")


def count_steps(quiet: bool) -> Any:
    from zoetrope.serving.cli.progress import count_bar

    return count_bar(stderr(), "{task.description}", MofNCompleteColumn(), quiet=quiet)


def _clips(card: ModelCard, requests: Path | None, count: int | None, steps: int | None) -> Clips:
    """Return what to make. Raises CliError or InvalidRequest for requests that cannot be measured."""
    if requests is not None:
        return _requested(card, requests, count, steps)
    if card.family == "nano":
        from zoetrope.model.nano.cases import held_out
        from zoetrope.model.nano.samples import TASKS

        found = {kind: held_out(kind, card, count or 8, SEED, steps) for kind in TASKS}
        return {kind: [(case.spec, case.inputs) for case in cases] for kind, cases in found.items()}
    if "text_to_video" not in card.tasks:
        raise bad_input("requests", f"must be given: {card.name} makes no clips of words alone")
    if count is not None and count > len(PROMPTS):
        raise bad_input("count", f"{count} must be at most {len(PROMPTS)}, the number of own prompts; give --requests")
    rows = [{"task": {"kind": "text_to_video", "prompt": prompt}, "seed": i} for i, prompt in enumerate(PROMPTS)]
    return _resolved(card, rows, count, steps, "prompts")


def _requested(card: ModelCard, path: Path, count: int | None, steps: int | None) -> Clips:
    try:
        lines = [line for line in path.read_text().splitlines() if line.strip()]
        rows = [json.loads(line) for line in lines]
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not text"
        raise bad_input("requests", f"{path} cannot be read: {reason}") from None
    except ValueError as error:
        raise bad_input("requests", f"{path} must hold one JSON object a line: {error}") from None
    if not 1 <= len(rows) <= MAX_REQUESTS or not all(isinstance(row, dict) for row in rows):
        raise bad_input("requests", f"{path} must hold 1 to {MAX_REQUESTS} JSON objects, one a line")
    return _resolved(card, rows, count, steps, str(path))


def _resolved(
    card: ModelCard, rows: Sequence[dict[str, Any]], count: int | None, steps: int | None, where: str
) -> Clips:
    from zoetrope.model.request.resolve import resolve
    from zoetrope.model.request.tasks import InvalidRequest, parse_request
    from zoetrope.serving.media.task_inputs import examine, load

    clips: Clips = {}
    for number, row in enumerate(rows, 1):
        try:
            request = parse_request({**row, **({} if steps is None else {"steps": steps})})
            media = examine(request.task)
            spec = resolve(request, card, number, media)
        except InvalidRequest as error:
            raise bad_input("requests", f"{where}, number {number}: {error}") from None
        made = clips.setdefault(spec.task.kind, [])
        if spec.quality != "exact":
            raise bad_input("requests", f"{where}, number {number}: quality is {spec.quality}, must be exact")
        if made and made[0][0].steps != spec.steps:
            other = f"has {spec.steps} steps, others of {spec.task.kind} have {made[0][0].steps}"
            raise bad_input("requests", f"{where}, number {number}: {other}; give --steps")
        if count is None or len(made) < count:
            made.append((spec, load(spec, card, media)))
    return clips


def _measure(pipeline: LocalPipeline, kind: str, clips: list[tuple[VideoSpec, Inputs]], advance: Any) -> RatioList:
    """Make the clips one by one; a list is the mean over them."""
    from zoetrope.model.caching.ratios import RatioList
    from zoetrope.model.denoising.velocity_ratios import velocity_ratios

    def on_step(_step: int, _steps: int) -> None:
        advance()

    each = [velocity_ratios(pipeline.denoiser, [pipeline.start(*clip)], on_step)[0] for clip in clips]
    spec = clips[0][0]
    return RatioList(
        kind=kind,
        values=(tuple(round(statistics.fmean(column), 5) for column in zip(*each, strict=True)),),
        steps=spec.steps,
        sampler=str(pipeline.denoiser.scheduler_config["_class_name"]),
        flow_shift=spec.flow_shift,
        guidance=spec.guidance,
        clips=len(clips),
    )


def _lines(found: RatioList, card: ModelCard) -> list[str]:
    """Say what was measured, and what the levels of quality make of it."""
    from zoetrope.model.caching.levels import level_of
    from zoetrope.model.caching.mask import COMPUTED, high_noise_steps, step_mask

    lines = [f"{found.kind}: {found.steps} steps, {found.clips} clip{'s' if found.clips != 1 else ''}"]
    lines.append(f"  ratios   {' '.join(f'{value:.4f}' for value in found.values[0])}")
    split = None
    if card.boundary is not None and found.flow_shift is not None:
        split = high_noise_steps(found.steps, found.flow_shift, card.boundary)
    for quality in ("balanced", "fast"):
        level = level_of(quality, card.boundary is not None)
        assert level is not None
        mask = step_mask(found.values, found.steps, level, split)
        lines.append(f"  {quality:8} {mask} {mask.count(COMPUTED)} of {found.steps} steps computed")
    return lines


def register(app: typer.Typer, section: str) -> None:
    add_commands(app, section, calibrate)
