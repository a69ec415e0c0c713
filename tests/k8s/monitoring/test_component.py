"""The component as kustomize renders it, and what its monitors scrape."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.k8s.monitoring.rules import DASHBOARDS, MONITORING

KUBECTL = Path(sys.executable).with_name("kubectl")
LABELS = {"app.kubernetes.io/part-of": "zoetrope", "app.kubernetes.io/component": "monitoring"}


@pytest.fixture(scope="module")
def objects(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[dict[str, Any]]]:
    """Its objects, by kind."""
    folder = tmp_path_factory.mktemp("overlay").resolve()
    overlay = {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "namespace": "videos",
        "components": [os.path.relpath(MONITORING, folder)],
    }
    (folder / "kustomization.yaml").write_text(json.dumps(overlay))  # JSON is YAML
    done = subprocess.run([KUBECTL, "kustomize", folder], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found: dict[str, list[dict[str, Any]]] = {}
    for one in yaml.safe_load_all(done.stdout):
        assert one["metadata"]["namespace"] == "videos" and LABELS.items() <= one["metadata"]["labels"].items()
        found.setdefault(one["kind"], []).append(one)
    return found


def test_it_brings_monitors_rules_and_all_dashboards(objects: dict[str, list[dict[str, Any]]]) -> None:
    assert {kind: len(them) for kind, them in objects.items()} == {"ConfigMap": 1, "PodMonitor": 2, "PrometheusRule": 1}
    boards = objects["ConfigMap"][0]
    assert sorted(boards["data"]) == [path.name for path in DASHBOARDS]
    assert boards["metadata"]["labels"]["grafana_dashboard"] == "1"


def test_every_component_with_metrics_is_scraped_once(objects: dict[str, list[dict[str, Any]]]) -> None:
    scraped: list[tuple[str, str]] = []
    for monitor in objects["PodMonitor"]:
        spec = monitor["spec"]
        assert monitor["metadata"]["name"].startswith("zoetrope-"), "ZoetropeTargetDown goes by the name"
        assert spec["selector"]["matchLabels"] == {"app.kubernetes.io/part-of": "zoetrope"}
        (among,) = spec["selector"]["matchExpressions"]
        ports = [endpoint["port"] for endpoint in spec["podMetricsEndpoints"]]
        scraped += [(component, port) for component in among["values"] for port in ports]
    assert sorted(scraped) == [
        ("gateway", "management"),
        ("ray-head", "metrics"),
        ("ray-head", "zoe-metrics"),
        ("ray-worker", "metrics"),
        ("ray-worker", "zoe-metrics"),
        ("sweeper", "management"),
    ]
