"""`zoetrope bench serve`: its options, and how its results are written."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from zoetrope.serving.cli.options import QuietOption, option

if TYPE_CHECKING:
    from zoetrope.benchmarks.serving_load.plan import ServePlan

DEFAULT_JOBS = 40
PLOT_WORDS = {"-load.png": "Latency and jobs in time over the load", "-timeline.png": "What ran where, and when"}


@dataclass(frozen=True)
class WhereOptions:
    """What is measured."""

    target: Annotated[
        str,
        option("ADDRESS", "Server: grpc://HOST:PORT, or http://HOST:PORT for OpenAI's videos API.", "none"),
    ] = ""
    start: Annotated[str, option("MODEL", "Start a service with this model, and measure it.", "none")] = ""
    model: Annotated[str, option("NAME", "Model to ask the server for.", "its first one")] = ""
    policy: Annotated[
        Sequence[str], option("NAME", "Router's policy, with --start; repeatable, to compare.", "the setting's")
    ] = ()
    set: Annotated[
        Sequence[str],
        option("NAME=VALUE", "Setting of the service that --start starts, as ENGINES=2; repeatable.", "none"),
    ] = ()
    key: Annotated[
        Sequence[str],
        option("TENANT=KEY", "API key of a tenant of the load; repeatable.", "ZOETROPE_API_KEY for all"),
    ] = ()
    preset: Annotated[
        str, option("NAME", "Preset of the model, whose shape tells the tokens of a job.", "the model's name")
    ] = ""
    gpus: Annotated[int | None, option("N", "GPUs of the server.", "as the service tells", min=1)] = None
    gpu_price: Annotated[float | None, option("PRICE", "Cost of a GPU-hour, to price videos.", "none")] = None
    fps: Annotated[int, option("N", "Frames per second that a server of OpenAI's API is asked for.", min=1)] = 16
    poll: Annotated[float, option("SECONDS", "Pause between two looks at a job, with OpenAI's API.")] = 0.5


@dataclass(frozen=True)
class WorkOptions:
    """What is sent."""

    rate: Annotated[Sequence[float], option("JOBS", "Jobs a second, on average; repeatable.", "none")] = ()
    load: Annotated[
        Sequence[float],
        option("SHARE", "As a share of the capacity, measured with the run's jobs; repeatable.", "none"),
    ] = ()
    trace: Annotated[Path | None, option("FILE", "Recorded trace, JSON lines.", "none")] = None
    mix: Annotated[str, option("MIX", "Kinds of jobs: nano-load, mixed, tail, same, distill, nano, or a file.")] = (
        "nano-load"
    )
    arrivals: Annotated[str, option("KIND", "How jobs arrive: poisson, bursty or ramp.")] = "poisson"
    burst: Annotated[float, option("N", "Mean jobs of a burst.")] = 8.0
    tenants: Annotated[int, option("N", "Tenants that send jobs, of unequal size.", min=1)] = 1
    jobs: Annotated[
        int | None, option("N", "Jobs of a run at most.", f"{DEFAULT_JOBS}, or as many as come in --seconds", min=1)
    ] = None
    seconds: Annotated[float | None, option("SECONDS", "Time in which jobs arrive.", "until --jobs have")] = None
    seed: Annotated[int, option("N", "Seed of all that is drawn, and of the first job.", min=0)] = 1


@dataclass(frozen=True)
class CourseOptions:
    """How it is done."""

    warm_up: Annotated[
        int, option("N", "Times that a job of each class is made alone first, for the objective.", min=0)
    ] = 2
    slo: Annotated[float, option("TIMES", "Objective: times the latency of a job alone.")] = 3.0
    drain: Annotated[float, option("SECONDS", "Longest wait for jobs after the last has arrived.")] = 600.0
    fault: Annotated[
        Sequence[str],
        option("ACTION@SECONDS", "Fault in every run: kill-PROCESS, restart or cancel; repeatable.", "none"),
    ] = ()


def serve(
    where: WhereOptions,
    work: WorkOptions,
    course: CourseOptions,
    out: Annotated[Path | None, option("PATH", "Write PATH.json, PATH.md and plots.", "nothing is written")] = None,
    quiet: QuietOption = False,
) -> None:
    """Load a server with jobs, and measure it.

    Jobs are sent when their time has come, however slow the server is. It may be any that speaks our gRPC or OpenAI's
    videos API; faults other than cancel, and policies, need a service that is started by --start. docs/benchmarks.md
    has examples, and the form of a mix.
    """
    from zoetrope.benchmarks import command
    from zoetrope.benchmarks.cli.group import command_typed
    from zoetrope.benchmarks.provenance import header
    from zoetrope.benchmarks.serving_load.plots import point_name
    from zoetrope.benchmarks.serving_load.report import page
    from zoetrope.benchmarks.serving_load.run import run
    from zoetrope.serving.cli.errors import FAILURE, CliError

    plan = make_plan(where, work, course)
    if out is not None:
        from zoetrope.benchmarks.serving_load.plots import check_matplotlib

        check_matplotlib()
        _check_writable(out)
    environment = header(command_typed(), work.seed)
    with _progress(quiet) as tell:
        found = run(plan, tell)
    record: dict[str, Any] = {"environment": environment, "settings": _settings(plan), **found, "plots": {}}
    print(page(record), end="")  # whatever becomes of the files
    if out is not None:
        record["plots"] = _plots(out, record["points"])
        command.write_results(out, record, page(record))
    if record["interrupted"]:
        raise KeyboardInterrupt
    if idle := [point_name(point) for point in record["points"] if not point["figures"]["succeeded"]]:
        raise CliError(f"{idle[0]}: no job succeeded, see the errors above", FAILURE)


def make_plan(where: WhereOptions, work: WorkOptions, course: CourseOptions) -> ServePlan:
    """Check everything that can be checked before anything starts.

    Raises:
        CliError: an option, the mix or the trace is wrong; the message names it.
    """
    from zoetrope.benchmarks.errors import BenchmarkError
    from zoetrope.benchmarks.serving_load import plan
    from zoetrope.benchmarks.simulate.generate import TraceRecipe
    from zoetrope.benchmarks.simulate.trace import TraceError
    from zoetrope.model.families import all_presets
    from zoetrope.serving.cli.errors import BAD_INPUT, CliError, bad_input

    if work.arrivals not in ("poisson", "bursty", "ramp"):
        raise bad_input("arrivals", f"{work.arrivals!r} must be poisson, bursty or ramp")
    if where.preset and where.preset not in all_presets():
        raise bad_input("preset", f"{where.preset!r} must be one of {', '.join(all_presets())}")
    try:
        faults = plan.check_where(where.target, where.start, where.policy, course.fault)
        trace = plan.check_load(work.rate, work.load, work.trace)
        plan.check_numbers(
            burst=work.burst,
            seconds=work.seconds,
            slo=course.slo,
            drain=course.drain,
            gpu_price=where.gpu_price,
            poll=where.poll,
        )
        made = plan.ServePlan(
            target=where.target,
            start=where.start,
            model=where.model,
            keys=plan.parse_keys(where.key, os.environ.get("ZOETROPE_API_KEY", "")),
            policies=tuple(where.policy) or ("",),
            settings=plan.parse_settings(where.set, bool(where.start)),
            rates=tuple(work.rate),
            loads=tuple(work.load),
            trace=tuple(trace),
            trace_file="" if work.trace is None else work.trace.name,
            recipe=TraceRecipe(
                mix=work.mix,
                arrivals=work.arrivals,  # type: ignore[arg-type]  # checked above
                burst=work.burst,
                tenants=work.tenants,
                seed=work.seed,
            ),
            jobs=work.jobs if work.jobs or work.seconds or trace else DEFAULT_JOBS,
            seconds=work.seconds,
            drain=course.drain,
            warm_up=course.warm_up,
            slo=course.slo,
            gpus=where.gpus,
            gpu_price=where.gpu_price,
            faults=faults,
            poll=where.poll,
            fps=where.fps,
            preset=where.preset,
        )
        plan.check_size(made)
        plan.check_classes(made)
    except (BenchmarkError, TraceError) as error:
        raise CliError(str(error), BAD_INPUT) from None
    return made


def _check_writable(out: Path) -> None:
    """Raise CliError if there can be no files beside ``out``, before anything else is done."""
    from zoetrope.serving.cli.errors import bad_input

    folder = out.parent
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise bad_input("out", f"{str(folder)!r} cannot be written: {error.strerror}") from None


def _settings(plan: ServePlan) -> dict[str, Any]:
    shown = ("rates", "loads", "jobs", "seconds", "drain", "warm_up", "slo", "gpu_price")
    recipe = plan.recipe
    return {
        **{name: getattr(plan, name) for name in shown},
        "mix": Path(recipe.mix).name,
        "arrivals": recipe.arrivals,
        "burst": recipe.burst,
        "tenants": recipe.tenants,
        "trace": plan.trace_file,
        "set": plan.settings,
        "faults": [f"{fault.action}@{fault.at:g}" for fault in plan.faults],
    }


def _plots(out: Path, points: Sequence[dict[str, Any]]) -> dict[str, str]:
    from zoetrope.benchmarks.serving_load.plots import plot_load, plot_timeline

    stem = out.with_suffix("") if out.suffix == ".json" else out
    made = {}
    for suffix, draw in (("-load.png", plot_load), ("-timeline.png", plot_timeline)):
        path = stem.with_name(f"{stem.name}{suffix}")
        draw(points, path)
        made[path.name] = PLOT_WORDS[suffix]
    return made


def _progress(quiet: bool) -> Any:
    from zoetrope.benchmarks.serving_load.progress import silent, told_on_stderr

    return silent() if quiet else told_on_stderr()
