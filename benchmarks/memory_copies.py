"""Count the bytes that a function copies between host and device, from the profiler's trace."""

from __future__ import annotations

import json
import tempfile
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch.profiler import ProfilerActivity, profile, supported_activities


def copied_bytes(work: Callable[[], object]) -> dict[str, int] | None:
    """Run ``work``; return the bytes by kind of copy, such as ``HtoD (Pinned -> Device)``. None if the profiler sees no
    GPU; ``work`` does not run then."""
    if ProfilerActivity.CUDA not in supported_activities():
        return None
    with profile(activities=[ProfilerActivity.CUDA]) as trace:
        work()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trace.json"
        trace.export_chrome_trace(str(path))
        return copies_in(json.loads(path.read_text()))


def copies_in(trace: Mapping[str, Any]) -> dict[str, int]:
    """Add up the copies of a trace in Chrome's format; those within the device do not count."""
    found: Counter[str] = Counter()
    for event in trace["traceEvents"]:
        kind = event.get("name", "").removeprefix("Memcpy ")
        if event.get("cat") == "gpu_memcpy" and kind.startswith(("HtoD", "DtoH")):
            found[kind] += int(event["args"]["bytes"])
    return dict(found)
