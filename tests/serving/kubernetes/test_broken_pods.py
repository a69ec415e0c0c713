"""Broken manifests: pods that would not start, end or be confined as they should; each by object and field."""

from __future__ import annotations

import pytest

from tests.serving.kubernetes.broken import (
    BOX,
    DEV,
    GATEWAY,
    SERVICE,
    WORKER,
    Broken,
    gateway,
    pod,
    put,
    refuse,
    security,
    setting,
    worker_pod,
)

BROKEN = (
    Broken(
        "a quantity",
        DEV,
        put(lambda t: gateway(t)["resources"]["limits"], memory="2 GB"),
        GATEWAY,
        f"{BOX}.resources.limits.memory",
        "no quantity",
    ),
    Broken(
        "a request above its limit",
        DEV,
        put(lambda t: gateway(t)["resources"]["requests"], cpu="8"),
        GATEWAY,
        f"{BOX}.resources.requests.cpu",
        "above its limit",
    ),
    Broken("the newest image", DEV, put(gateway, image="zoetrope:latest"), GATEWAY, f"{BOX}.image", "latest"),
    Broken(
        "a probe's port",
        DEV,
        put(lambda t: gateway(t)["livenessProbe"]["httpGet"], port="admin"),
        GATEWAY,
        f"{BOX}.livenessProbe.httpGet.port",
        "'admin'",
    ),
    Broken("no probe", DEV, lambda t: gateway(t).pop("readinessProbe"), GATEWAY, f"{BOX}.readinessProbe", "missing"),
    Broken(
        "a port that nothing listens at",
        DEV,
        lambda t: setting(t, management="0.0.0.0:9191"),
        GATEWAY,
        f"{BOX}.ports[management].containerPort",
        "0.0.0.0:9191",
    ),
    Broken(
        "an address that no pod reaches",
        DEV,
        lambda t: setting(t, grpc="127.0.0.1:50051"),
        GATEWAY,
        f"{BOX}.envFrom",
        "reaches no other pod",
    ),
    Broken(
        "a variable with a typo",
        DEV,
        lambda t: gateway(t)["env"].append({"name": "ZOETROPE_KEY", "value": "auto"}),
        GATEWAY,
        f"{BOX}.env[ZOETROPE_KEY]",
        "not a setting",
    ),
    Broken(
        "a setting's value",
        DEV,
        lambda t: setting(t, keys="never"),
        GATEWAY,
        f"{BOX}.envFrom[ConfigMap/zoetrope-settings",
        "ZOETROPE_KEYS",
    ),
    Broken(
        "too little time to stop",
        DEV,
        put(lambda t: pod(t, "Deployment", "gateway"), terminationGracePeriodSeconds=20),
        GATEWAY,
        "spec.template.spec.terminationGracePeriodSeconds",
        "below 45",
    ),
    Broken(
        "root",
        DEV,
        put(lambda t: worker_pod(t)["securityContext"], runAsNonRoot=False),
        SERVICE,
        f"{WORKER}.securityContext.runAsNonRoot",
        "must be true",
    ),
    Broken(
        "no seccomp profile",
        DEV,
        lambda t: worker_pod(t)["securityContext"].pop("seccompProfile"),
        SERVICE,
        f"{WORKER}.securityContext.seccompProfile.type",
        "RuntimeDefault",
    ),
    Broken(
        "capabilities",
        DEV,
        put(security, capabilities={"add": ["NET_ADMIN"]}),
        GATEWAY,
        f"{BOX}.securityContext.capabilities.drop",
        "ALL",
    ),
    Broken(
        "a root file system that can be written",
        DEV,
        put(security, readOnlyRootFilesystem=False),
        GATEWAY,
        f"{BOX}.securityContext.readOnlyRootFilesystem",
        "must be true",
    ),
    Broken(
        "a folder of the node",
        DEV,
        lambda t: pod(t, "Deployment", "gateway")["volumes"][0].update({"hostPath": {"path": "/"}}),
        GATEWAY,
        "spec.template.spec.volumes[data].hostPath",
        "restricted",
    ),
    Broken(
        "a service account's token",
        DEV,
        put(worker_pod, automountServiceAccountToken=True),
        SERVICE,
        f"{WORKER}.automountServiceAccountToken",
        "must be false",
    ),
)


@pytest.mark.parametrize("broken", BROKEN, ids=lambda broken: broken.what)
def test_it_is_refused(broken: Broken) -> None:
    refuse(broken)
