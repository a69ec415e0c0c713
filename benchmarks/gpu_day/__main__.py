"""The command line of the GPU day; see the package docstring."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

import zoetrope.benchmarks.gpu_day as package
from zoetrope.benchmarks.command import write_json
from zoetrope.benchmarks.gpu_day import archive, carried, compiled
from zoetrope.benchmarks.gpu_day.outcome import StageOutcome
from zoetrope.benchmarks.gpu_day.runner import DayMachine, DayRun
from zoetrope.benchmarks.gpu_day.stages import PLAN, DayStage, due
from zoetrope.benchmarks.provenance import COMMIT, REPOSITORY, output_of

COMMAND = "python -m zoetrope.benchmarks.gpu_day"
OUT = REPOSITORY / "out" / "gpu-day"
BUDGET = 525.0  # seconds of a call, so that it ends inside nine minutes
JOBS = 12  # correctness stages side by side: each has its own context on the GPU
DRY_DEVICE = "fake CUDA device or CPU, a dry run"
PREPARE_SECONDS = 1800.0  # for one stage of the preparation


def main(arguments: Sequence[str] | None = None) -> int:
    args = _parser().parse_args(arguments)
    try:
        return int(args.act(args))
    except (ValueError, subprocess.CalledProcessError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def _run(args: argparse.Namespace) -> int:
    stages = due(PLAN, args.call, args.only)
    base = OUT / "dry-run" if args.dry_run else OUT
    out, work = args.out or base, args.work or base / "work"
    carry = args.carry or carried.CARRY
    if args.carry and not args.carry.is_dir():
        raise ValueError(f"--carry: {args.carry} is not a folder; `{COMMAND} prepare --carry FOLDER` fills one")
    for option, folder in (("--out", out), ("--work", work)):
        _check_writable(option, folder)
    device = DRY_DEVICE if args.dry_run else output_of("nvidia-smi", "--query-gpu=name", "--format=csv,noheader")
    if device is None:
        raise ValueError("there is no GPU here (nvidia-smi names none); --dry-run enters every stage without one")
    for path in (out / archive.NAME, carry / archive.NAME):
        if path.is_file() and not (args.dry_run and path.parent == carry):
            print(f"taken over from {path}: {', '.join(archive.unpack(path, work)) or 'nothing new'}", flush=True)
    site, cache = work.parent / "site", work.parent / "triton"
    installed = carried.install(carry, site)
    kernels = compiled.unpack(carry / carried.CACHE, cache) if (carry / carried.CACHE).is_file() else 0
    print(f"{device}: {len(installed)} wheels installed, {kernels} compiled kernels unpacked", flush=True)
    commit = carried.commit(carry)
    machine = DayMachine(device, commit, args.dry_run, args.jobs, environment(site, cache, commit))
    run = DayRun(machine, work, out, args.budget, lambda line: print(line, flush=True))
    found = run.go(stages, again=bool(args.only))
    write_json(out / "summary.json", {"stages": [{**asdict(one), "tail": ""} for one in found]})
    print("\n".join(table(found)))
    return 0 if all(one.complete for one in found) else 1


def _check_writable(option: str, folder: Path) -> None:
    """Find out before the first stage whether results can be kept. Raises ValueError that names the option if not."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise ValueError(f"{option}: {folder} cannot be written to: {error.strerror}") from None


def _seconds(text: str) -> float:
    """Parse a time that is above 0. Raises ValueError."""
    if not float(text) > 0:
        raise argparse.ArgumentTypeError(f"{text} must be above 0")
    return float(text)


def _processes(text: str) -> int:
    """Parse a number of processes. Raises ValueError."""
    if int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} must be 1 or more")
    return int(text)


def environment(site: Path, cache: Path, commit: str | None) -> dict[str, str]:
    """Return the environment of all stages: where packages, this code and compiled kernels are, and the commit."""
    path = [str(site), str(REPOSITORY), *filter(None, [os.environ.get("PYTHONPATH")])]
    values = {"PYTHONPATH": os.pathsep.join(path), "TRITON_CACHE_DIR": str(cache), "PYTHONUNBUFFERED": "1"}
    return values | ({COMMIT: commit} if commit else {})


def table(found: Sequence[StageOutcome]) -> list[str]:
    """Return the short table that ends a call."""
    width = max((len(one.stage) for one in found), default=0)
    return [f"{one.stage:{width}}  {one.state:8} {one.seconds:6.1f} s  {one.reason[:100]}".rstrip() for one in found]


def _prepare(args: argparse.Namespace) -> int:
    """Fill the folder to carry."""
    args.carry.mkdir(parents=True, exist_ok=True)
    commit = carried.commit(args.carry)
    (args.carry / carried.CARRIED_COMMIT).write_text(f"{commit or ''}\n")
    print(f"commit {commit}")
    if args.packages:
        carried.download(args.carry, args.packages)
        print(f"{len(list((args.carry / carried.WHEELS).iterdir()))} wheels in {args.carry / carried.WHEELS}")
    if not args.kernels:
        return 0
    with tempfile.TemporaryDirectory(prefix="zoetrope-gpu-day-") as scratch:
        work, cache = Path(scratch) / "work", Path(scratch) / "triton"
        machine = DayMachine(DRY_DEVICE, None, True, args.jobs, environment(Path(scratch) / "site", cache, None))
        only = ["cache", *args.only] if args.only else []  # it tells which build of Triton this is
        stages = [at_full_size(stage) for stage in due(PLAN, only=only) if stage.fake]
        found = DayRun(machine, work, work, float("inf"), lambda line: print(line, flush=True)).go(stages)
        about = json.loads((work / "cache" / "cache.json").read_text())
        kernels = compiled.pack(cache, args.carry / carried.CACHE, {"triton_key": about["triton_key"]})
    print("\n".join(table(found)))
    print(f"{kernels} compiled kernels in {args.carry / carried.CACHE}")
    return 0 if all(one.complete for one in found) else 1


def at_full_size(stage: DayStage) -> DayStage:
    """Return a stage whose dry run launches what the GPU will: for the kernels that this compiles."""
    return replace(
        stage, dry=stage.ahead or stage.command, seconds=PREPARE_SECONDS, beside="prepare", proved=False, files=()
    )


def _merge(args: argparse.Namespace) -> int:
    from zoetrope.benchmarks.gpu_day.merge import merge  # torch is not needed for the rest

    print("\n".join(merge(args.archive, args.results, args.data)))
    return 0


def _list(args: argparse.Namespace) -> int:
    for stage in due(PLAN, args.call):
        print(
            f"{stage.call} {stage.name:32} {stage.seconds:4.0f} s  python -m {' '.join(stage.arguments(args.dry_run))}"
        )
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=COMMAND, description=package.__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(required=True, metavar="{run,prepare,merge,list}")
    run = commands.add_parser("run", help="go through the stages; benchmarks/gpu_day.sh calls this")
    run.add_argument("--call", type=int, choices=(1, 2), help="leave out what later calls do (default: nothing)")
    run.add_argument("--only", nargs="+", default=[], metavar="STAGE", help="just these, even if they are done")
    run.add_argument("--budget", type=_seconds, default=BUDGET, help="seconds of the call (default: %(default)g)")
    jobs = min(JOBS, os.cpu_count() or 1)
    run.add_argument("--jobs", type=_processes, default=jobs, help="correctness stages side by side")
    run.add_argument("--out", type=Path, help=f"folder of {archive.NAME} (default: {OUT}, or dry-run in it)")
    run.add_argument("--work", type=Path, help="folder of the stages (default: work in the default of --out)")
    run.add_argument("--carry", type=Path, help=f"what was brought along (default: {carried.CARRY}, if it is there)")
    run.add_argument("--dry-run", action="store_true", help="enter every stage at toy sizes, without a GPU")
    run.set_defaults(act=_run)

    prepare = commands.add_parser("prepare", help="fill the folder to carry, with the GPU machine's Python and Triton")
    prepare.add_argument("--carry", type=Path, default=carried.CARRY, help="folder to fill (default: %(default)s)")
    prepare.add_argument(
        "--packages",
        nargs="*",
        choices=carried.groups(),
        default=["base", "model"],
        help="groups of wheels to fetch (default: base model)",
    )
    prepare.add_argument("--no-kernels", dest="kernels", action="store_false", help="compile no kernels")
    prepare.add_argument("--only", nargs="+", default=[], metavar="STAGE", help="compile for these stages")
    prepare.add_argument(
        "--jobs", type=_processes, default=os.cpu_count() or 1, help="processes (default: %(default)s)"
    )
    prepare.set_defaults(act=_prepare)

    merge = commands.add_parser("merge", help="put results into the repository")
    merge.add_argument("archive", type=Path, help=f"a {archive.NAME} that came back")
    merge.add_argument(
        "--results", type=Path, default=REPOSITORY / "benchmarks" / "results", help="folder of the tables"
    )
    merge.add_argument("--data", type=Path, default=REPOSITORY / "kernels" / "data", help="folder of proofs and tiles")
    merge.set_defaults(act=_merge)

    listed = commands.add_parser("list", help="print the plan")
    listed.add_argument("--call", type=int, choices=(1, 2), help="of this call and those before it")
    listed.add_argument("--dry-run", action="store_true", help="the commands of a dry run")
    listed.set_defaults(act=_list)
    return parser


if __name__ == "__main__":
    sys.exit(main())
