"""What a process does once at its start so that it can be seen."""

from __future__ import annotations

from typing import Literal, TypeAlias

from zoetrope.cluster.telemetry.exposition import serve_in_background
from zoetrope.cluster.telemetry.logs import about_process
from zoetrope.cluster.telemetry.traces import start_tracing

Component: TypeAlias = Literal["gateway", "sweeper", "host", "router", "conditioner", "decoder", "engine", "rank"]


def begin(component: Component) -> None:
    """Show metrics and send traces, where the environment asks for them, and name the process in its logs."""
    about_process(component=component)
    start_tracing(component)
    serve_in_background()
