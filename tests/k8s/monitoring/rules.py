"""The rules and dashboards as the tests read them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[3]
MONITORING = ROOT / "k8s" / "monitoring"
DASHBOARDS = sorted((MONITORING / "dashboards").glob("*.json"))
GROUPS: dict[str, Any] = {"groups": yaml.safe_load((MONITORING / "rules.yaml").read_text())["spec"]["groups"]}
RULES: list[dict[str, Any]] = [rule for group in GROUPS["groups"] for rule in group["rules"]]
ALERTS: dict[str, dict[str, Any]] = {rule["alert"]: rule for rule in RULES if "alert" in rule}
RECORDS = {rule["record"] for rule in RULES if "record" in rule}
NAME = re.compile(r"\bzoetrope(?::[a-z0-9_]+){2}|\bzoetrope_[a-z0-9_]+")
SELECTED = re.compile(r"\b(zoetrope_[a-z0-9_]+)\{([^}]*)\}")
GROUPED = re.compile(r"\b(?:by|on) \(([^)]*)\)")
MATCHED = re.compile(r"([a-z_]+)\s*(?:=~|!~|!=|=)\s*\"")


def queries() -> Iterator[tuple[str, str]]:
    """Every query of every dashboard: where it stands, and what it asks."""
    for path in DASHBOARDS:
        for panel in json.loads(path.read_text())["panels"]:
            for target in panel["targets"]:
                yield f"{path.name}: {panel['title']}", target["expr"]
