"""Show on standard error how a run goes: one line that changes in a terminal, else a line now and then."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from zoetrope.benchmarks.serving_load.drive import LoadRun
from zoetrope.benchmarks.serving_load.run import Teller
from zoetrope.serving.cli.console import stderr

LINE_SECONDS = 15.0  # between two lines where it is no terminal


@contextmanager
def silent() -> Iterator[Teller]:
    """Show nothing."""
    yield Teller(lambda words: None, lambda run: None)


@contextmanager
def told_on_stderr() -> Iterator[Teller]:
    """Show the phase, and how many jobs were sent and are over."""
    console = stderr()
    if not console.is_terminal:
        yield _lines(lambda words: console.print(words, soft_wrap=True))
        return
    with console.status("starting") as status:
        phase = ""

        def begin(words: str) -> None:
            nonlocal phase
            phase = words
            status.update(words)

        yield Teller(begin, lambda run: status.update(f"{phase}: {described(run)}"))


def described(run: LoadRun) -> str:
    """Say how a run goes."""
    bad = sum(record.state in ("failed", "refused") for record in run.records)
    words = f"{run.over} of {len(run.records)} over, {len(run.under_way())} under way, {run.now:.0f} s"
    return f"{words}, {bad} failed" if bad else words


def _lines(say: Callable[[str], None]) -> Teller:
    last = [0.0]

    def told(run: LoadRun) -> None:
        if time.monotonic() - last[0] >= LINE_SECONDS or run.over == len(run.records):
            last[0] = time.monotonic()
            say(f"  {described(run)}")

    return Teller(say, told)
