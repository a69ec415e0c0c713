"""A real Prometheus that scrapes a service every second, with the rules of k8s/monitoring."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from tests.k8s.monitoring.rules import GROUPS
from tests.serving.gateway.harness import until
from tests.serving.seen.service import free_port


@dataclass(frozen=True)
class Prometheus:
    """Where it answers."""

    url: str

    def query(self, text: str) -> list[dict[str, Any]]:
        """Return what an instant query finds now."""
        answer = httpx.get(f"{self.url}/api/v1/query", params={"query": text}).json()
        assert answer["status"] == "success", f"{text}: {answer}"
        found: list[dict[str, Any]] = answer["data"]["result"]
        return found

    def firing(self) -> dict[str, dict[str, str]]:
        """Return the labels of the alerts that fire, by their names."""
        alerts = httpx.get(f"{self.url}/api/v1/alerts").json()["data"]["alerts"]
        return {one["labels"]["alertname"]: one["labels"] for one in alerts if one["state"] == "firing"}


@contextmanager
def prometheus(folder: Path, target: str) -> Iterator[Prometheus]:
    """Scrape ``target``, HOST:PORT, inside the block."""
    port = free_port()
    config = {
        "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
        "rule_files": ["rules.yaml"],
        "scrape_configs": [{"job_name": "zoetrope-processes", "static_configs": [{"targets": [target]}]}],
    }
    (folder / "prometheus.yaml").write_text(json.dumps(config))  # JSON is YAML
    (folder / "rules.yaml").write_text(json.dumps(GROUPS))
    command = ["prometheus", "--config.file=prometheus.yaml", "--storage.tsdb.path=series"]
    with (folder / "prometheus.log").open("w") as log:
        running = subprocess.Popen(
            [*command, f"--web.listen-address=127.0.0.1:{port}"], cwd=folder, stderr=log, stdout=log
        )
    try:
        made = Prometheus(f"http://127.0.0.1:{port}")
        until(lambda: _ready(made.url), 60)
        yield made
    finally:
        running.terminate()
        running.wait()


def _ready(url: str) -> bool:
    try:
        return httpx.get(f"{url}/-/ready").status_code == 200
    except httpx.TransportError:
        return False
