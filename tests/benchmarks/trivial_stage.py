"""A stage of a GPU day that takes no time: ``python -m tests.benchmarks.trivial_stage WHAT FILE [COUNTER]``."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path


def main(what: str, file: str, counter: str = "") -> int:
    """Write FILE and end as WHAT says; a line in COUNTER tells that it ran."""
    if counter:
        with Path(counter).open("a") as log:
            log.write(f"{Path(file).name}\n")
    if what == "nothing":
        return 0
    if what == "partial":  # goes on from what it has
        if Path(file).exists():
            what = "pass"
        else:
            print("out of time: run again")
    if what == "twice":  # fails at first
        what = "raise" if len(Path(counter).read_text().splitlines()) == 1 else "pass"
    if what != "hang":
        Path(file).write_text(f'{{"what": "{what}"}}')
    if what == "raise":
        raise RuntimeError("it cannot be")
    if what == "hang":  # with a child, as a benchmark may have
        with subprocess.Popen([sys.executable, "-c", "import signal; print(1, flush=True); signal.pause()"]) as child:
            print(f"child {child.pid}", flush=True)
            signal.pause()
    return 1 if what == "wrong" else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
