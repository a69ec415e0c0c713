"""A Ray cluster as a deployment has it: a head and workers as processes of their own, with token authentication.

A node is what `ray start --block` starts. Its processes are found by a mark in their environment, so that a node can be
killed as a machine that loses its power.
"""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from tests.serving.soak.service import free_port, until
from zoetrope.serving.config.process_marks import MARK, kill_all_marked

START_SECONDS = 120.0
STARTS = 3  # of a node: Ray gives it 30 s, which a busy machine may exceed; Kubernetes starts it again as well
STARTED = b"Ray runtime started"
KILL_SECONDS = 20.0
STORE_BYTES = 128 << 20
RAY = str(Path(sys.executable).parent / "ray")


@dataclass
class Node:
    """``name`` is its label of this name; ``process`` is `ray start --block`."""

    name: str
    mark: str
    process: subprocess.Popen[bytes]

    def kill(self) -> None:
        """Kill everything on it at once."""
        assert kill_all_marked(self.mark, KILL_SECONDS)
        self.process.wait()


@dataclass
class RayCluster:
    """``environment``: of every process. ``redis``: HOST:PORT, which keeps what the head knows; "": nothing does."""

    environment: Mapping[str, str]
    logs: Path
    redis: str = ""
    token: str = field(default_factory=lambda: secrets.token_hex(32))
    port: int = field(default_factory=free_port)
    dashboard: int = field(default_factory=free_port)
    directory: str = field(default_factory=lambda: tempfile.mkdtemp(prefix="zr-"))  # short: it holds sockets
    nodes: list[Node] = field(default_factory=list)

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def variables(self) -> dict[str, str]:
        """The environment of whoever talks to the cluster."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "OMP_", "GOMP_"))}
        return {
            **kept,
            **self.environment,
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": self.token,
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_SERVE_LOG_TO_STDERR": "0",
            "RAY_SERVE_FORCE_STOP_UNHEALTHY_REPLICAS": "1",
            "RAY_worker_niceness": "0",
        }

    def start_head(self) -> Node:
        """Start the head, without CPUs for others; again after it was killed."""
        kept = {"RAY_REDIS_ADDRESS": self.redis, "RAY_external_storage_namespace": "apart"} if self.redis else {}
        options = [
            "--head",
            f"--port={self.port}",
            "--num-cpus=0",
            "--include-dashboard=true",
            "--dashboard-host=127.0.0.1",
            f"--dashboard-port={self.dashboard}",
            f"--ray-client-server-port={free_port()}",
            f"--temp-dir={self.directory}",
        ]
        # A container that starts again has no files of the one before, by which Ray would take the workers' for a head.
        (Path(self.directory) / "ray_current_cluster").unlink(missing_ok=True)
        node = self._start("head", options, kept)
        until(lambda: self._answers("/api/version"), START_SECONDS, "the head's API answers")
        return node

    def add_node(self, name: str, cpus: int, labels: Mapping[str, str]) -> Node:
        """Add a worker."""
        given = ",".join(f"{label}={value}" for label, value in {**labels, "name": name}.items())
        return self._start(name, [f"--address={self.address}", f"--num-cpus={cpus}", f"--labels={given}"], {})

    def _start(self, name: str, options: list[str], more: Mapping[str, str]) -> Node:
        for number in range(STARTS):
            log = self.logs / f"ray-{name}-{len(self.nodes)}.log"
            node = self._launch(name, options, more, log)
            self.nodes.append(node)
            if _joined(node, log):
                return node
            node.kill()
            assert number + 1 < STARTS, log.read_text()
        raise AssertionError(f"node {name} does not start")

    def _launch(self, name: str, options: list[str], more: Mapping[str, str], log: Path) -> Node:
        mark = f"zoetrope-{secrets.token_hex(8)}/"
        common = [
            "--block",
            "--node-ip-address=127.0.0.1",
            "--num-gpus=0",
            f"--object-store-memory={STORE_BYTES}",
            "--min-worker-port=0",
            "--max-worker-port=0",
            f"--dashboard-agent-listen-port={free_port()}",
            "--disable-usage-stats",
        ]
        with log.open("wb") as file:
            process = subprocess.Popen(
                [RAY, "start", *common, *options],
                env={**self.variables(), **more, MARK: mark},
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
                start_new_session=True,
            )
        return Node(name, mark, process)

    def api(self, method: str, path: str, body: Any = None, *, token: str | None = None) -> httpx.Response:
        """Call the head's REST API."""
        headers = {"Authorization": f"Bearer {self.token if token is None else token}"} if token != "" else {}
        return httpx.request(
            method, f"http://127.0.0.1:{self.dashboard}{path}", json=body, headers=headers, timeout=30.0
        )

    def _answers(self, path: str) -> bool:
        with suppress(httpx.TransportError):
            return self.api("GET", path).is_success
        return False

    def deploy(self, config: Mapping[str, Any]) -> None:
        """Put a Serve config."""
        answer = self.api("PUT", "/api/serve/applications/", config)
        assert answer.is_success, answer.text

    def application(self) -> dict[str, Any]:
        """The application's status as the API tells it; empty while the API does not answer."""
        with suppress(httpx.TransportError):
            answer = self.api("GET", "/api/serve/applications/")
            if answer.is_success:
                found: dict[str, Any] = answer.json()["applications"].get("zoetrope", {})
                return found
        return {}

    def replicas(self, deployment: str) -> list[dict[str, Any]]:
        """The replicas of a deployment, as the API lists them."""
        found: list[dict[str, Any]] = self.application().get("deployments", {}).get(deployment, {}).get("replicas", [])
        return found

    def close(self) -> None:
        """Kill all nodes, and remove what they left."""
        for node in self.nodes:
            node.kill()
        shutil.rmtree(self.directory, ignore_errors=True)


def _joined(node: Node, log: Path) -> bool:
    """Wait until a node has started; False if it did not."""
    until(lambda: node.process.poll() is not None or STARTED in log.read_bytes(), START_SECONDS, f"{node.name} starts")
    return node.process.poll() is None
