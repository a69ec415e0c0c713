"""Measure how much busy neighbours on the same cores slow nano down, and what passive waiting gains.

    python -m zoetrope.benchmarks.busy [--service] [--rounds 3] [--out benchmarks/results/busy.json]

Each round measures, in turn, two ways of using the cores (ours, and one spinning thread per core as with
OMP_WAIT_POLICY=ACTIVE), each on the quiet machine and alongside busy loops started by this program. It times one whole
`zoetrope generate --local`, including loading, or with --service one job of a running nano service, from creation to
end. Each way has its own service; only one runs at a time.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from zoetrope.benchmarks import command
from zoetrope.benchmarks.environment import header
from zoetrope.benchmarks.provenance import busy as loaded
from zoetrope.benchmarks.provenance import commit_of
from zoetrope.model.runtime.threads import VARIABLE, WAITING, usable_cores
from zoetrope.serving.cli.service import ServiceProcess, private_env, serve_command
from zoetrope.serving.client import VideoClient

PROMPT = "a red circle moving right on a white background"
SEED = 1
GOAL = 2.5  # maximum slowdown alongside the busy loops
LOOP = "while True: pass"
READY_SECONDS = 300.0
OURS = "ours"
WAYS: dict[str, dict[str, str]] = {
    OURS: {},
    "spinning": {"OMP_WAIT_POLICY": "ACTIVE", VARIABLE: str(usable_cores())},
}
Make = Callable[[], float]  # makes a clip and returns the seconds


@dataclass(frozen=True)
class BusyRow:
    """Seconds of each round of one way, on the quiet machine and alongside the busy loops."""

    way: str
    quiet: tuple[float, ...]
    busy: tuple[float, ...]

    @property
    def ratio(self) -> float:
        """Return the ratio of the medians."""
        return statistics.median(self.busy) / statistics.median(self.quiet)


def environment(way: str) -> dict[str, str]:
    """Return the environment of a process that uses the cores in this way, independent of our own."""
    bare = {name: value for name, value in private_env().items() if name not in (*WAITING, VARIABLE)}
    return {**bare, **WAYS[way]}


@contextmanager
def busy_loops(count: int) -> Iterator[None]:
    """Run ``count`` processes in busy loops within the context."""
    loops = [subprocess.Popen([sys.executable, "-c", LOOP]) for _ in range(count)]
    try:
        yield
    finally:
        for loop in loops:
            loop.kill()
            loop.wait()


def locally(way: str, steps: int, folder: Path) -> Make:
    """Return a function that runs one `zoetrope generate --local`."""
    generate = [sys.executable, "-m", "zoetrope.serving.cli", "generate", PROMPT, "--local", "--model", "nano"]
    generate += ["--steps", str(steps), "--seed", str(SEED), "--duration", "2", "--out", str(folder / "busy.mp4")]

    def make() -> float:
        started = time.monotonic()
        subprocess.run(generate, env=environment(way), check=True, capture_output=True)
        return time.monotonic() - started

    return make


@contextmanager
def served(way: str, steps: int, folder: Path) -> Iterator[Make]:
    """Start a warmed-up service and yield a function that runs one job."""
    with ExitStack() as stack:
        process = ServiceProcess(serve_command("nano", folder / way), folder / f"{way}.log", environment(way))
        stack.callback(process.stop)
        client = stack.enter_context(VideoClient(process.wait_ready(READY_SECONDS).grpc))

        def make() -> float:
            started = time.monotonic()
            name = client.create(prompt=PROMPT, steps=steps, seed=SEED, duration_seconds=2.0)
            status = client.wait(name)
            if status.state != "succeeded":
                raise RuntimeError(f"the job {status.state}: {status.error}")
            return time.monotonic() - started

        make()
        yield make


def measure(
    service: bool, ways: Sequence[str], rounds: int, steps: int, loops: int, log: Callable[[str], None]
) -> list[BusyRow]:
    """Measure these ways in turn."""
    seconds: dict[tuple[str, bool], list[float]] = {(way, busy): [] for way in ways for busy in (False, True)}
    with tempfile.TemporaryDirectory() as directory:
        for number in range(rounds):
            for way in ways:
                with ExitStack() as stack:
                    folder = Path(directory) / f"{number}-{way}"
                    folder.mkdir()
                    make = stack.enter_context(served(way, steps, folder)) if service else locally(way, steps, folder)
                    for busy in (False, True):
                        with busy_loops(loops if busy else 0):
                            took = make()
                        seconds[way, busy].append(round(took, 2))
                        log(f"round {number + 1}, {way}, {'busy' if busy else 'quiet'}: {took:.1f} s")
    return [BusyRow(way, tuple(seconds[way, False]), tuple(seconds[way, True])) for way in ways]


def markdown(record: dict[str, Any]) -> str:
    """Format the page."""
    about, where = record["measured_on"], record["environment"]
    what = "a job of a service" if about["service"] else "`zoetrope generate --local`"
    lines = [
        "# nano alongside busy loops",
        "",
        f"{what[0].upper()}{what[1:]} of {about['steps']} steps, in turn on the quiet machine and alongside "
        f"{about['loops']} busy loops, on {about['cores']} cores; medians of {about['rounds']} (values in brackets).",
        f"{commit_of(where)}; `{where['command']}`.",
        "",
        "| threads | quiet | busy | busy / quiet |",
        "| --- | --- | --- | --- |",
    ]
    for row in record["rows"]:
        cells = [f"{statistics.median(row[k]):.1f} s ({', '.join(map(str, row[k]))})" for k in ("quiet", "busy")]
        lines.append(f"| {row['way']} | {cells[0]} | {cells[1]} | {row['ratio']:.1f} |")
    ours = record["rows"][0]["ratio"]
    lines += ["", f"Goal: a ratio of at most {GOAL:g} for ours: {'met' if ours <= GOAL else 'missed'}."]
    if (warning := loaded(about)) is not None:
        lines += ["", warning]
    return "\n".join(lines) + "\n"


def main(arguments: Sequence[str] | None = None) -> int:
    parser, positive = command.parser("busy", __doc__), command.at_least(1)
    parser.add_argument("--service", action="store_true", help="measure a job of a service, not `generate --local`")
    parser.add_argument("--ours", action="store_true", help="leave out the threads that spin while they wait")
    parser.add_argument("--rounds", type=positive, default=3, help="measurements of each way (default: 3)")
    parser.add_argument("--steps", type=positive, default=30, help="denoising steps of the clip (default: 30)")
    parser.add_argument("--loops", type=positive, default=2, help="busy processes (default: 2)")
    parser.add_argument("--out", type=Path, help=command.OUT_HELP)
    args = parser.parse_args(arguments)
    load, cores = os.getloadavg(), os.cpu_count() or 1
    ways = (OURS,) if args.ours else tuple(WAYS)
    rows = measure(
        args.service, ways, args.rounds, args.steps, args.loops, lambda line: print(line, file=sys.stderr, flush=True)
    )
    record = {
        "environment": header(torch.device("cpu"), command.command_line("busy", arguments), SEED),
        "measured_on": {
            "service": args.service,
            "rounds": args.rounds,
            "steps": args.steps,
            "loops": args.loops,
            "cores": cores,
            "load_average": load,
            "idle": load[0] < 0.5,
        },
        "goal": GOAL,
        "goal_met": rows[0].ratio <= GOAL,
        "rows": [{**asdict(row), "ratio": round(row.ratio, 3)} for row in rows],
    }
    page = markdown(record)
    command.write_results(args.out, record, page)
    print(page)
    return 0


if __name__ == "__main__":
    sys.exit(main())
