"""How much slower nano becomes where other processes want the same cores, and what it gives not to spin for them.

    python -m benchmarks.busy [--service] [--rounds 3] [--out benchmarks/results/busy.json]

In every round, in turns: each way of using the cores (ours, and a thread for each core that spins while it waits, as
OMP_WAIT_POLICY=ACTIVE has it), on the machine as it is and beside as many busy loops as asked for, which are processes
of this program. Measured is one `zoetrope generate --local` from its start to its end, what it loads included, or with
--service one job of a running service of nano's, from its creation to its end. Each way has a service of its own; only
one runs at a time.
"""

from __future__ import annotations

import argparse
import json
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

from benchmarks.kernels.environment import header
from benchmarks.provenance import busy as loaded
from benchmarks.provenance import commit_of
from model.threads import VARIABLE, WAITING, usable_cores
from serving.cli.service import ServiceProcess, private_env, serve_command
from serving.client import VideoClient

PROMPT = "a red circle moving right on a white background"
SEED = 1
GOAL = 2.5  # times as long beside the busy loops
LOOP = "while True: pass"
READY_SECONDS = 300.0
WAYS: dict[str, dict[str, str]] = {
    "ours": {},
    "spinning": {"OMP_WAIT_POLICY": "ACTIVE", VARIABLE: str(usable_cores())},
}
Make = Callable[[], float]  # makes a clip; the seconds it took


@dataclass(frozen=True)
class Row:
    """Of one way: seconds of each round, and how much longer the median is beside the loops."""

    way: str
    quiet: tuple[float, ...]
    busy: tuple[float, ...]

    @property
    def ratio(self) -> float:
        return statistics.median(self.busy) / statistics.median(self.quiet)


def environment(way: str) -> dict[str, str]:
    """Of a process that uses the cores that way, whatever this one does."""
    bare = {name: value for name, value in private_env().items() if name not in (*WAITING, VARIABLE)}
    return {**bare, **WAYS[way]}


@contextmanager
def busy_loops(count: int) -> Iterator[None]:
    """So many processes that do nothing, as fast as they can."""
    loops = [subprocess.Popen([sys.executable, "-c", LOOP]) for _ in range(count)]
    try:
        yield
    finally:
        for loop in loops:
            loop.kill()
            loop.wait()


def locally(way: str, steps: int, folder: Path) -> Make:
    """One command line each time."""
    command = [sys.executable, "-m", "serving.cli", "generate", PROMPT, "--local", "--model", "nano"]
    command += ["--steps", str(steps), "--seed", str(SEED), "--duration", "2", "--out", str(folder / "busy.mp4")]

    def make() -> float:
        started = time.monotonic()
        subprocess.run(command, env=environment(way), check=True, capture_output=True)
        return time.monotonic() - started

    return make


@contextmanager
def served(way: str, steps: int, folder: Path) -> Iterator[Make]:
    """A service, and one job of it each time; the first one, which warms up, has been made."""
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


def measure(service: bool, rounds: int, steps: int, loops: int, tell: Callable[[str], None]) -> list[Row]:
    """All ways, in turns."""
    seconds: dict[tuple[str, bool], list[float]] = {(way, busy): [] for way in WAYS for busy in (False, True)}
    with tempfile.TemporaryDirectory() as directory:
        for number in range(rounds):
            for way in WAYS:
                with ExitStack() as stack:
                    folder = Path(directory) / f"{number}-{way}"
                    folder.mkdir()
                    make = stack.enter_context(served(way, steps, folder)) if service else locally(way, steps, folder)
                    for busy in (False, True):
                        with busy_loops(loops if busy else 0):
                            took = make()
                        seconds[way, busy].append(round(took, 2))
                        tell(f"round {number + 1}, {way}, {'busy' if busy else 'quiet'}: {took:.1f} s")
    return [Row(way, tuple(seconds[way, False]), tuple(seconds[way, True])) for way in WAYS]


def markdown(record: dict[str, Any]) -> str:
    """The page."""
    about, where = record["measured_on"], record["environment"]
    what = "a job of a service" if about["service"] else "`zoetrope generate --local`"
    lines = [
        "# nano beside others",
        "",
        f"{what[0].upper()}{what[1:]} of {about['steps']} steps, in turns on the machine as it is and beside "
        f"{about['loops']} busy loops, on {about['cores']} cores; medians of {about['rounds']}, all in brackets.",
        f"{commit_of(where)}; `{where['command']}`.",
        "",
        "| threads | quiet | busy | busy / quiet |",
        "| --- | --- | --- | --- |",
    ]
    for row in record["rows"]:
        cells = [f"{statistics.median(row[k]):.1f} s ({', '.join(map(str, row[k]))})" for k in ("quiet", "busy")]
        lines.append(f"| {row['way']} | {cells[0]} | {cells[1]} | {row['ratio']:.1f} |")
    ours = record["rows"][0]["ratio"]
    lines += ["", f"At most {GOAL:g} is wanted of ours; {'met' if ours <= GOAL else 'missed'}."]
    if (warning := loaded(about)) is not None:
        lines += ["", warning]
    return "\n".join(lines) + "\n"


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.busy", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--service", action="store_true", help="a job of a service, not `generate --local`")
    parser.add_argument("--rounds", type=int, default=3, help="of every way (default: 3)")
    parser.add_argument("--steps", type=int, default=30, help="of a clip (default: 30)")
    parser.add_argument("--loops", type=int, default=2, help="busy processes (default: 2)")
    parser.add_argument("--out", type=Path, help="write the figures as JSON, and as Markdown beside it")
    args = parser.parse_args(arguments)
    for name in ("rounds", "steps", "loops"):
        if getattr(args, name) < 1:
            parser.error(f"--{name} is {getattr(args, name)}, at least 1")
    load, cores = os.getloadavg(), os.cpu_count() or 1
    rows = measure(
        args.service, args.rounds, args.steps, args.loops, lambda line: print(line, file=sys.stderr, flush=True)
    )
    command = " ".join(["python -m benchmarks.busy", *(sys.argv[1:] if arguments is None else arguments)])
    record = {
        "environment": header(torch.device("cpu"), command, SEED),
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
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(json.dumps(record, indent=2) + "\n")
        args.out.with_suffix(".md").write_text(page)
    print(page)
    return 0


if __name__ == "__main__":
    sys.exit(main())
