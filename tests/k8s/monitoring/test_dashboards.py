"""Dashboards and rules ask for metrics that exist, by labels that these have."""

from __future__ import annotations

import json
import re

import pytest

from tests.k8s.monitoring.rules import (
    DASHBOARDS,
    GROUPED,
    MATCHED,
    MONITORING,
    NAME,
    RECORDS,
    RULES,
    SELECTED,
    queries,
)
from zoetrope.cluster.telemetry import metrics  # noqa: F401  # which describes them
from zoetrope.cluster.telemetry.catalogue import ALL, Description

# What Prometheus and its operator add.
ADDED = {"namespace", "pod", "instance", "job", "le"}
ASKED = [*queries(), *((rule.get("alert") or rule["record"], rule["expr"]) for rule in RULES)]


def described(name: str) -> Description | None:
    """The metric of a series; None if there is none."""
    if name in ALL and ALL[name].kind != "histogram":
        return ALL[name]
    base = re.sub(r"_(bucket|sum|count)$", "", name)
    return ALL[base] if base != name and base in ALL and ALL[base].kind == "histogram" else None


@pytest.mark.parametrize(("place", "query"), ASKED, ids=[place for place, _ in ASKED])
def test_a_query_asks_for_what_is_exported(place: str, query: str) -> None:
    names = NAME.findall(query)
    assert names or "up{" in query, f"{place} asks for nothing of ours: {query}"
    for name in names:
        assert name in RECORDS or described(name) is not None, f"{place} asks for {name}, which nothing exports"
    labels = {label for name in names if (found := described(name)) for label in found.labels} | ADDED
    if not RECORDS.intersection(names) and "up{" not in query:
        grouped = {label.strip() for labels in GROUPED.findall(query) for label in labels.split(",")}
        assert grouped <= labels, f"{place} groups by {grouped - labels}, which {names} lack"
    for name, matchers in SELECTED.findall(query):
        metric = described(name)
        assert metric is not None
        asked = set(MATCHED.findall(matchers))
        assert asked <= {*metric.labels, *ADDED}, f"{place} selects {name} by {asked}"


def test_counters_are_read_as_rates_and_gauges_as_they_are() -> None:
    for place, query in ASKED:
        for name in NAME.findall(query):
            metric = described(name)
            rated = re.search(rf"(?:rate|increase)\({re.escape(name)}\b", query) is not None
            if metric is not None:
                assert rated == (metric.kind != "gauge"), f"{place}: {name} is a {metric.kind}"


def test_every_metric_is_on_a_dashboard() -> None:
    shown = {found.name for _, query in queries() for name in NAME.findall(query) if (found := described(name))}
    assert sorted(set(ALL) - shown) == []


def test_dashboards_are_complete_and_listed() -> None:
    listed = (MONITORING / "kustomization.yaml").read_text()
    boards = [json.loads(path.read_text()) for path in DASHBOARDS]
    assert len({board["uid"] for board in boards}) == len(boards)
    for path, board in zip(DASHBOARDS, boards, strict=True):
        assert f"dashboards/{path.name}" in listed
        assert {variable["name"] for variable in board["templating"]["list"]} == {"datasource", "namespace"}
        spots = set[tuple[int, int]]()
        for panel in board["panels"]:
            at = panel["gridPos"]
            covered = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
            assert not covered & spots, f"{path.name}: {panel['title']} lies on another panel"
            spots |= covered
            assert at["x"] + at["w"] <= 24


def test_no_label_grows_with_jobs_or_callers() -> None:
    forbidden = {"job", "job_id", "id", "owner", "tenant", "key", "prompt", "host", "url", "trace"}
    for metric in ALL.values():
        assert not forbidden & set(metric.labels), metric.name
