"""Broken manifests: objects that name what is not there; each refused with object and field."""

from __future__ import annotations

import pytest

from tests.serving.kubernetes.broken import (
    BOX,
    CLUSTER,
    DEV,
    GATEWAY,
    ONE,
    SERVICE,
    Broken,
    cluster,
    find,
    gateway,
    pod,
    put,
    refuse,
    without,
)

BROKEN = (
    Broken(
        "a ConfigMap that is not there",
        DEV,
        put(gateway, envFrom=[{"configMapRef": {"name": "settings"}}]),
        GATEWAY,
        f"{BOX}.envFrom[0].configMapRef",
        "'settings' is not in the tree",
    ),
    Broken(
        "a Secret that nobody makes",
        ONE,
        lambda t: gateway(t)["env"][0]["valueFrom"]["secretKeyRef"].update(name="db"),
        GATEWAY,
        f"{BOX}.env[ZOETROPE_DATABASE].valueFrom.secretKeyRef",
        "'db' is not in the tree",
    ),
    Broken(
        "a key that a Secret has not",
        ONE,
        lambda t: gateway(t)["env"][0]["valueFrom"]["secretKeyRef"].update(key="uri"),
        GATEWAY,
        f"{BOX}.env[ZOETROPE_DATABASE].valueFrom.secretKeyRef",
        "has no key 'uri'",
    ),
    Broken(
        "a token's Secret",
        ONE,
        lambda t: cluster(t)["authOptions"].update(secretName="tokens"),
        SERVICE,
        f"{CLUSTER}.authOptions.secretName",
        "'tokens'",
    ),
    Broken(
        "a volume's claim",
        ONE,
        lambda t: without(t, "PersistentVolumeClaim", "weights"),
        GATEWAY,
        "spec.template.spec.volumes[weights].persistentVolumeClaim.claimName",
        "'weights'",
    ),
    Broken(
        "a mount without a volume",
        DEV,
        lambda t: gateway(t)["volumeMounts"].append({"name": "cache", "mountPath": "/cache"}),
        GATEWAY,
        f"{BOX}.volumeMounts[cache]",
        "no volume",
    ),
    Broken(
        "a service account",
        DEV,
        put(lambda t: pod(t, "Deployment", "sweeper"), serviceAccountName="sweep"),
        "Deployment/sweeper",
        "spec.template.spec.serviceAccountName",
        "'sweep'",
    ),
    Broken(
        "a priority class",
        DEV,
        put(lambda t: pod(t, "Deployment", "sweeper"), priorityClassName="high"),
        "Deployment/sweeper",
        "spec.template.spec.priorityClassName",
        "'high'",
    ),
    Broken(
        "a Service without pods",
        DEV,
        lambda t: find(t, "Service", "gateway")["spec"]["selector"].update({"app.kubernetes.io/component": "gate"}),
        "Service/gateway",
        "spec.selector",
        "fits no pod",
    ),
    Broken(
        "a Service's port",
        DEV,
        lambda t: find(t, "Service", "gateway")["spec"]["ports"][0].update(targetPort="rpc"),
        "Service/gateway",
        "spec.ports[grpc].targetPort",
        "'rpc'",
    ),
    Broken(
        "a selector of other pods",
        DEV,
        lambda t: find(t, "Deployment", "gateway")["spec"].update(
            selector={"matchLabels": {"app.kubernetes.io/component": "sweeper"}}
        ),
        GATEWAY,
        "spec.selector",
        "does not fit",
    ),
    Broken(
        "an autoscaler's target",
        DEV,
        lambda t: find(t, "HorizontalPodAutoscaler", "gateway")["spec"]["scaleTargetRef"].update(name="gate"),
        "HorizontalPodAutoscaler/gateway",
        "spec.scaleTargetRef",
        "'gate'",
    ),
    Broken(
        "replicas beside an autoscaler",
        DEV,
        put(lambda t: find(t, "Deployment", "gateway")["spec"], replicas=2),
        GATEWAY,
        "spec.replicas",
        "HorizontalPodAutoscaler/gateway",
    ),
)


@pytest.mark.parametrize("broken", BROKEN, ids=lambda broken: broken.what)
def test_it_is_refused(broken: Broken) -> None:
    refuse(broken)
