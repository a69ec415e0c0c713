"""Prometheus' own tool on the rules: each alert fires where it should, and none on a healthy service."""

from __future__ import annotations

import json
import shutil
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.k8s.monitoring.rules import ALERTS, GROUPS, ROOT, RULES

promtool = pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed (`make promtool`)")
HEALTHY = {
    'up{job="z/zoetrope-ray", namespace="z", pod="head"}': "1x200",
    'zoetrope_jobs{namespace="z", pod="gateway-1", state="queued"}': "2x200",
    'zoetrope_jobs{namespace="z", pod="gateway-1", state="running"}': "3x200",
    'zoetrope_engines{namespace="z", pod="gateway-1", state="ready"}': "2x200",
    'zoetrope_engines{namespace="z", pod="gateway-1", state="out"}': "0x200",
    'zoetrope_gang_restarts_total{namespace="z", pod="gateway-1", engine="e1", reason="died"}': "0x200",
    'zoetrope_engine_step_seconds{namespace="z", pod="gateway-1", engine="e1"}': "1.1x200",
    'zoetrope_engine_step_predicted_seconds{namespace="z", pod="gateway-1", engine="e1"}': "1x200",
    'zoetrope_expert_imbalance_ratio_sum{namespace="z", pod="worker", model="m"}': "0+9x200",
    'zoetrope_expert_imbalance_ratio_count{namespace="z", pod="worker", model="m"}': "0+6x200",
    'zoetrope_job_queue_seconds_bucket{namespace="z", pod="head", model="m", task="t", le="60"}': "0+10x200",
    'zoetrope_job_queue_seconds_bucket{namespace="z", pod="head", model="m", task="t", le="+Inf"}': "0+10x200",
    'zoetrope_queued_gpu_seconds{namespace="z", pod="gateway-1", model="m"}': "9000x200",
    'zoetrope_requests_total{namespace="z", pod="gateway-1", api="grpc", method="a", code="OK"}': "0+100x200",
    'zoetrope_requests_total{namespace="z", pod="gateway-1", api="grpc", method="a", code="INTERNAL"}': "0+1x200",
    'zoetrope_request_seconds_bucket{namespace="z", pod="gateway-1", api="grpc", method="VideoService/CreateVideo",'
    ' le="0.5"}': "0+100x200",
    'zoetrope_request_seconds_bucket{namespace="z", pod="gateway-1", api="grpc", method="VideoService/CreateVideo",'
    ' le="+Inf"}': "0+100x200",
    'zoetrope_jobs_ended_total{namespace="z", pod="head", model="m", state="succeeded", code="OK"}': "0+30x200",
    'zoetrope_jobs_ended_total{namespace="z", pod="head", model="m", state="failed", code="INTERNAL"}': "0+1x200",
    'zoetrope_leases_lost_total{namespace="z", pod="head"}': "0x100 1x100",
    'zoetrope_snapshots_total{namespace="z", pod="worker", outcome="failed"}': "0x200",
    'zoetrope_snapshots_total{namespace="z", pod="worker", outcome="written"}': "0+10x200",
    'zoetrope_store_errors_total{namespace="z", pod="worker", store="database"}': "0x100 2x100",
    'zoetrope_stage_failures_total{namespace="z", pod="worker", stage="decoding", code="INTERNAL"}': "0x100 1x100",
    'zoetrope_waiting_latents_bytes{namespace="z", pod="gateway-1", place="spilled"}': "1000000x200",
    'zoetrope_sweep_timestamp_seconds{namespace="z", pod="sweeper"}': "0+60x200",
    'zoetrope_webhooks_total{namespace="z", pod="sweeper", outcome="given_up"}': "0x200",
    'zoetrope_webhooks_total{namespace="z", pod="sweeper", outcome="delivered"}': "0+10x200",
    'zoetrope_eta_error_ratio_bucket{namespace="z", pod="gateway-1", model="m", stage="queued", le="0.5"}': "0+9x200",
    'zoetrope_eta_error_ratio_bucket{namespace="z", pod="gateway-1", model="m", stage="queued", le="+Inf"}': "0+10x200",
}


@dataclass(frozen=True)
class Case:
    """What is different from HEALTHY, from the start on; None: the series is not there. The alert fires at ``minute``
    with these labels, and not at ``quiet``."""

    changes: dict[str, str | None]
    labels: dict[str, str] = field(default_factory=dict)
    minute: int = 130
    quiet: int = 0


def of(part: str) -> str:
    """The one series of HEALTHY that has this text."""
    (found,) = [series for series in HEALTHY if part in series]
    return found


def bucket(part: str, bound: str) -> str:
    """Another bucket of the histogram whose series in HEALTHY has this text."""
    found = of(part)
    return found[: found.rindex('le="')] + f'le="{bound}"}}'


ENGINE, MODEL, SPACE = {"engine": "e1", "namespace": "z"}, {"model": "m", "namespace": "z"}, {"namespace": "z"}
QUEUED, CREATED, FORESEEN = 'task="t", le="60"', 'CreateVideo", le="0.5"', 'stage="queued", le="0.5"'
CASES = {
    "ZoetropeMetricsMissing": Case({of('state="queued"}'): None, of('state="running"}'): None}, {}, quiet=4),
    "ZoetropeTargetDown": Case({of("up{"): "0x200"}, {**SPACE, "job": "z/zoetrope-ray", "pod": "head"}, quiet=4),
    "ZoetropeNoEngine": Case({of('state="ready"'): "2x100 0x100"}, SPACE, quiet=104),
    "ZoetropeEngineOut": Case({of('state="out"'): "0x100 1x100"}, SPACE, quiet=101),
    "ZoetropeGangRestarted": Case({of("gang_restarts"): "0x100 1x100"}, {**ENGINE, "reason": "died"}, 105, 100),
    "ZoetropeGangsFailing": Case({of("gang_restarts"): "0x100 1x5 2x5 4x100"}, ENGINE, 120, 109),
    "ZoetropeStepsSlow": Case({of("engine_step_seconds"): "1.1x100 3.5x100"}, ENGINE, quiet=109),
    "ZoetropeExpertsUneven": Case({of("imbalance_ratio_sum"): "0+60x200"}, MODEL, quiet=25),
    "ZoetropeQueueSlow": Case({of(QUEUED): "0x200", bucket(QUEUED, "3600"): "0+10x200"}, MODEL, quiet=10),
    "ZoetropeBacklogGrows": Case({of("queued_gpu_seconds"): "8000+60x200"}, MODEL, quiet=25),
    "ZoetropeRequestsFail": Case({of('method="a", code="INTERNAL"'): "0+5x200"}, SPACE, quiet=8),
    "ZoetropeCreateSlow": Case({of(CREATED): "0+10x200", bucket(CREATED, "5"): "0+100x200"}, SPACE, quiet=8),
    "ZoetropeJobsFail": Case({of('state="failed", code="INTERNAL"'): "0+4x200"}, MODEL, quiet=3),
    "ZoetropeLeasesLost": Case({of("leases_lost"): "0x100 6x100"}, SPACE, 105, 100),
    "ZoetropeSnapshotsFail": Case({of('worker", outcome="failed"'): "0x100 0+1x100"}, SPACE, quiet=104),
    "ZoetropeStoreErrors": Case({of("store_errors"): "0x100 0+3x100"}, {**SPACE, "store": "database"}, quiet=103),
    "ZoetropeStagesFail": Case({of("stage_failures"): "0x100 4x100"}, {**SPACE, "stage": "decoding"}, 105, 100),
    "ZoetropeLatentsWait": Case({of("waiting_latents"): "0x100 12000000000x100"}, SPACE, quiet=114),
    "ZoetropeSweeperStalled": Case({of("sweep_timestamp"): "0+60x100 6000x100"}, SPACE, quiet=104),
    "ZoetropeWebhooksGivenUp": Case({of("given_up"): "0x100 1x100"}, SPACE, 105, 100),
    "ZoetropeEtaWrong": Case({of(FORESEEN): "0+1x200", bucket(FORESEEN, "2"): "0+9x200"}, MODEL, quiet=50),
}


def scenario(changes: dict[str, str | None], expectations: list[dict[str, Any]]) -> dict[str, Any]:
    """A test of promtool: series a minute apart, and what is asked of them when."""
    series = {name: values for name, values in {**HEALTHY, **changes}.items() if values is not None}
    return {
        "interval": "1m",
        "input_series": [{"series": name, "values": values} for name, values in series.items()],
        "promql_expr_test": expectations,
    }


def fires(alert: str, case: Case) -> dict[str, Any]:
    labels = {
        "alertname": alert,
        "alertstate": "firing",
        "severity": ALERTS[alert]["labels"]["severity"],
        **case.labels,
    }
    text = ", ".join(f'{name}="{value}"' for name, value in sorted(labels.items()))
    query = f'ALERTS{{alertname="{alert}", alertstate="firing"}}'
    return scenario(
        case.changes,
        [
            {"expr": query, "eval_time": f"{case.quiet}m", "exp_samples": []},
            {
                "expr": query,
                "eval_time": f"{case.minute}m",
                "exp_samples": [{"labels": f"ALERTS{{{text}}}", "value": 1}],
            },
        ],
    )


def rules_of(alert: str) -> dict[str, Any]:
    """The alert and the records that it reads: the tool evaluates all that it is given in every minute of a test."""
    expr = ALERTS[alert]["expr"]
    kept = [rule for rule in RULES if rule is ALERTS[alert] or ("record" in rule and rule["record"] in expr)]
    return {"groups": [{**GROUPS["groups"][0], "rules": kept}]}


def write_case(folder: Path, name: str, groups: dict[str, Any], test: dict[str, Any]) -> str:
    """Write a test of promtool with its rules, and return its name."""
    (folder / f"{name}-rules.yaml").write_text(json.dumps(groups))
    unit = {
        "rule_files": [f"{name}-rules.yaml"],
        "evaluation_interval": "1m",
        "tests": [{**test, "name": name}],
    }
    (folder / f"{name}.yaml").write_text(json.dumps(unit))
    return f"{name}.yaml"


def run(folder: Path, *arguments: str) -> str:
    done = subprocess.run(["promtool", *arguments], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "rules.yaml").write_text(json.dumps(GROUPS))  # JSON is YAML
    return tmp_path


@promtool
def test_prometheus_takes_the_rules(folder: Path) -> None:
    assert f"{len(GROUPS['groups'][0]['rules']) + len(ALERTS)} rules found" in run(
        folder, "check", "rules", "rules.yaml"
    )


@promtool
def test_each_alert_fires_where_it_should_and_none_on_a_healthy_service(folder: Path) -> None:
    quiet = [
        {"expr": 'ALERTS{alertstate="firing"}', "eval_time": f"{minute}m", "exp_samples": []}
        for minute in (60, 120, 195)
    ]
    files = [write_case(folder, "healthy", GROUPS, scenario({}, quiet))]
    files += [write_case(folder, alert, rules_of(alert), fires(alert, case)) for alert, case in CASES.items()]
    said = run(folder, "test", "rules", *files)
    assert said.count("SUCCESS") == len(files)


@promtool
def test_an_alert_names_the_engine_and_the_cause(folder: Path) -> None:
    test = scenario({of("gang_restarts"): "0x100 1x100"}, [])
    test["alert_rule_test"] = [
        {
            "eval_time": "105m",
            "alertname": "ZoetropeGangRestarted",
            "exp_alerts": [
                {
                    "exp_labels": {**ENGINE, "reason": "died", "severity": "warning"},
                    "exp_annotations": {
                        "summary": "Engine e1 lost a gang: died.",
                        "description": ALERTS["ZoetropeGangRestarted"]["annotations"]["description"],
                    },
                }
            ],
        }
    ]
    (folder / "test.yaml").write_text(
        json.dumps({"rule_files": ["rules.yaml"], "evaluation_interval": "1m", "tests": [test]})
    )
    assert "SUCCESS" in run(folder, "test", "rules", "test.yaml")


def test_every_alert_is_tried_and_explained() -> None:
    assert list(CASES) == list(ALERTS)
    page = (ROOT / "docs/operations/monitoring.md").read_text()
    for alert, rule in ALERTS.items():
        assert f"\n### {alert}\n" in page, f"docs/operations/monitoring.md says nothing of {alert}"
        assert set(rule["annotations"]) == {"summary", "description"}
        assert rule["labels"]["severity"] in ("critical", "warning", "info")
