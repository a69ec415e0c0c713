"""Memory that a step frees is there for the next one, without page faults."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from zoetrope.model.runtime.freed_memory import VARIABLES

PROGRAM = """
import resource, sys
from zoetrope.model.runtime.freed_memory import keep_freed_memory

kept = sys.argv[1] == "keep" and keep_freed_memory()

def step():
    parts = [bytearray(8 << 20) for _ in range(4)]

step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5):
    step()
print(kept, resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(what: str, **environment: str) -> tuple[str, int]:
    clean = {name: value for name, value in os.environ.items() if name not in VARIABLES}
    command = [sys.executable, "-c", PROGRAM, what]
    done = subprocess.run(command, env=clean | environment, capture_output=True, text=True, check=True, timeout=60)
    kept, count = done.stdout.split()
    return kept, int(count)


@pytest.mark.skipif(sys.platform != "linux", reason="of glibc")
def test_steps_that_free_their_memory_cost_no_faults() -> None:
    (_, plain), (kept, few) = faults("no"), faults("keep")
    assert kept == "True" and few < plain / 10


def test_the_environment_decides() -> None:
    assert faults("keep", MALLOC_TRIM_THRESHOLD_="1000")[0] == "False"
