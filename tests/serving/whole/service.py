"""`zoetrope serve` with nano, as a user runs it."""

from __future__ import annotations

import os
from pathlib import Path

import psutil

from tests.serving.gateway.harness import until
from zoetrope.serving.cli.service import Addresses, ServiceProcess, serve_command
from zoetrope.serving.client import VideoClient

READY_SECONDS = 300.0


class Service:
    """A service that can be killed and started again on its data directory."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.start()

    def start(self) -> Addresses:
        # What the tester's own shell says of threads would stand.
        environment = {name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "GOMP_"))}
        environment["ZOETROPE_ALLOW_NETWORKS"] = '["127.0.0.0/8"]'  # where the tests receive webhooks
        command = serve_command("nano", self.directory / "data")
        self.process = ServiceProcess(command, self.directory / "log", environment)
        self.addresses = self.process.wait_ready(READY_SECONDS)
        self.client = VideoClient(self.addresses.grpc)
        return self.addresses

    def find(self, words: str) -> psutil.Process:
        """The one process of this service whose command line contains ``words``."""
        return until(lambda: next((p for p in self.family() if words in " ".join(command_line(p))), None))

    def family(self) -> list[psutil.Process]:
        supervisor = psutil.Process(self.process.pid)
        return [supervisor, *supervisor.children(recursive=True)]

    def stop(self) -> None:
        """Stop it; nothing may have to be killed, and no process may be left."""
        self.client.close()
        family = self.family()
        assert self.process.stop() == [], "nothing had to be killed"
        assert not [p for p in family if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]


def command_line(process: psutil.Process) -> list[str]:
    try:
        line: list[str] = process.cmdline()
    except psutil.Error:
        return []
    return line
