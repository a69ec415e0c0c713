"""`zoetrope serve` with a collector of traces, and a receiver of webhooks, beside it."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from tests.serving.gateway.harness import until
from tests.serving.outbound.receiver import Answer, receiving
from tests.serving.whole.service import Service


@dataclass(frozen=True)
class Seen:
    """A running service and what is known of it from outside."""

    service: Service
    spans_file: Path
    hook: str
    hooks: list[dict[str, str]] = field(default_factory=list)  # headers

    def spans(self) -> list[dict[str, Any]]:
        """Return every span that the collector has received so far."""
        found = []
        for line in self.spans_file.read_text().splitlines():
            if '"traceId"' in line or '"trace_id"' in line:
                found.append(json.loads(line))
        return found


@contextmanager
def seen_service(directory: Path, delay: int = 200, **settings: str) -> Iterator[Seen]:
    """Run a service with JSON logs that sends traces, at the latest after ``delay`` milliseconds; the block may stop
    it."""
    spans_file, hooks = directory / "spans.ndjson", list[dict[str, str]]()

    def take(headers: dict[str, str], body: bytes) -> Answer:
        hooks.append(headers)
        return Answer()

    port = free_port()
    with spans_file.open("w") as out, receiving(take) as hook:
        collector = subprocess.Popen([sys.executable, "-m", "oteltap", "--port", str(port)], stdout=out)
        environment = {
            "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{port}",
            "OTEL_BSP_SCHEDULE_DELAY": str(delay),
            "ZOETROPE_LOG_FORMAT": "json",
            **{f"ZOETROPE_{name}": value for name, value in settings.items()},
        }
        before = dict(os.environ)
        try:
            until(lambda: any(c.laddr.port == port for c in psutil.Process(collector.pid).net_connections("inet")))
            os.environ.update(environment)
            service = Service(directory)
        finally:
            os.environ.clear()
            os.environ.update(before)
        try:
            yield Seen(service, spans_file, hook, hooks)
        finally:
            if psutil.pid_exists(service.process.pid):
                service.stop()
            collector.terminate()
            collector.wait()


def free_port() -> int:
    """Return a port on loopback that nobody has now."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])
