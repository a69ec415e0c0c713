"""Broken manifests: budgets and network policies; each refused with object and field."""

from __future__ import annotations

import pytest

from tests.serving.kubernetes.broken import (
    CLUSTER,
    DEV,
    GATEWAY,
    MANY,
    ONE,
    SERVICE,
    Broken,
    find,
    policy,
    put,
    refuse,
    without,
)

BROKEN = (
    Broken(
        "a budget that fits no pod",
        DEV,
        lambda t: find(t, "PodDisruptionBudget", "gateway")["spec"]["selector"].update(matchLabels={"a": "b"}),
        "PodDisruptionBudget/gateway",
        "spec.selector",
        "fits no pod",
    ),
    Broken(
        "pods without a budget",
        DEV,
        lambda t: without(t, "PodDisruptionBudget", "ray-worker"),
        SERVICE,
        f"{CLUSTER}.workerGroupSpecs[engines].template.metadata.labels",
        "no PodDisruptionBudget",
    ),
    Broken(
        "a budget with both bounds",
        DEV,
        put(lambda t: find(t, "PodDisruptionBudget", "gateway")["spec"], minAvailable=1),
        "PodDisruptionBudget/gateway",
        "spec",
        "one of",
    ),
    Broken(
        "a budget that forbids every drain",
        MANY,
        lambda t: find(t, "PodDisruptionBudget", "gateway").update(
            spec={"minAvailable": 3, "selector": find(t, "PodDisruptionBudget", "gateway")["spec"]["selector"]}
        ),
        "PodDisruptionBudget/gateway",
        "spec.minAvailable",
        "3 of 3",
    ),
    Broken(
        "a budget of workers that Kubernetes cannot count",
        DEV,
        lambda t: find(t, "PodDisruptionBudget", "ray-worker").update(
            spec={"maxUnavailable": 1, "selector": find(t, "PodDisruptionBudget", "ray-worker")["spec"]["selector"]}
        ),
        "PodDisruptionBudget/ray-worker",
        "spec.maxUnavailable",
        "has no scale",
    ),
    Broken(
        "a budget of the head as a share",
        MANY,
        put(lambda t: find(t, "PodDisruptionBudget", "ray-head")["spec"], minAvailable="50%"),
        "PodDisruptionBudget/ray-head",
        "spec.minAvailable",
        "has no scale",
    ),
    Broken(
        "a cloud's bucket that engines cannot reach",
        MANY,
        lambda t: policy("artifacts")(t)["egress"][0].update(to=[{"ipBlock": {"cidr": "10.0.0.0/8"}}]),
        SERVICE,
        "(NetworkPolicies of ray-worker) spec.egress",
        "ray-worker -> internet at 443/TCP",
    ),
    Broken(
        "pods that nothing isolates",
        DEV,
        lambda t: without(t, "NetworkPolicy", "default-deny"),
        "Job/migrate",
        "spec.template.metadata.labels",
        "type Ingress",
    ),
    Broken(
        "a flow that nothing admits",
        DEV,
        lambda t: without(t, "NetworkPolicy", "scrape"),
        GATEWAY,
        "(NetworkPolicies of gateway) spec.ingress",
        "monitoring -> gateway at 9090/TCP",
    ),
    Broken(
        "a flow to a port that is not there",
        DEV,
        lambda t: policy("database")(t)["egress"][0]["ports"][0].update(port=5433),
        GATEWAY,
        "(NetworkPolicies of gateway) spec.egress",
        "postgres at 5432/TCP",
    ),
    Broken(
        "the whole private network",
        ONE,
        lambda t: policy("artifacts")(t)["egress"][0].pop("ports"),
        "NetworkPolicy/artifacts",
        "spec.egress[0]",
        "private-network",
    ),
    Broken(
        "the metadata of the cloud",
        ONE,
        lambda t: policy("internet")(t)["egress"][0]["to"][0]["ipBlock"].pop("except"),
        "NetworkPolicy/internet",
        "spec.egress[0]",
        "cloud-metadata",
    ),
    Broken(
        "Ray open to all",
        DEV,
        lambda t: policy("ray")(t)["ingress"][0].pop("from"),
        "NetworkPolicy/ray",
        "spec.ingress[0]",
        "internet -> ray-head",
    ),
    Broken(
        "Redis open to its neighbours",
        MANY,
        lambda t: policy("redis")(t)["ingress"][0].update({"from": [{"podSelector": {}}]}),
        "NetworkPolicy/redis",
        "spec.ingress[0]",
        "pod-without-labels -> redis",
    ),
    Broken(
        "a component without declared flows",
        DEV,
        lambda t: find(t, "Deployment", "sweeper")["spec"]["template"]["metadata"]["labels"].update(
            {"app.kubernetes.io/component": "broom"}
        ),
        "Deployment/sweeper",
        "spec.selector",
        "does not fit",
    ),
)


@pytest.mark.parametrize("broken", BROKEN, ids=lambda broken: broken.what)
def test_it_is_refused(broken: Broken) -> None:
    refuse(broken)
