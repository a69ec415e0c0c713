"""Broken manifests: objects that Kubernetes itself would refuse, each with a line that names object and field."""

from __future__ import annotations

import pytest

from tests.serving.kubernetes.broken import (
    CLUSTER,
    DEV,
    GATEWAY,
    RAY_WORKER,
    SERVICE,
    Broken,
    find,
    put,
    ray,
    refuse,
    worker,
    worker_pod,
)
from tests.serving.kubernetes.overlays import built
from zoetrope.serving.kubernetes.check import check
from zoetrope.serving.kubernetes.objects import TreeError, read_tree

BROKEN = (
    Broken(
        "an unknown field",
        DEV,
        put(lambda t: find(t, "Deployment", "gateway")["spec"], replica=2),
        GATEWAY,
        "spec.replica",
        "unknown",
    ),
    Broken(
        "a probe with a typo in Ray's pods",
        DEV,
        put(lambda t: worker_pod(t)["containers"][0], redinessProbe={}),
        SERVICE,
        f"{RAY_WORKER}.redinessProbe",
        "unknown",
    ),
    Broken(
        "a number as text",
        DEV,
        put(worker, replicas="1"),
        SERVICE,
        f"{CLUSTER}.workerGroupSpecs[engines].replicas",
        "not of type 'integer'",
    ),
    Broken(
        "a field that is missing",
        DEV,
        lambda t: worker(t).pop("template"),
        SERVICE,
        f"{CLUSTER}.workerGroupSpecs[engines].template",
        "missing",
    ),
    Broken("a rule of the schema", DEV, put(ray, managedBy="me"), SERVICE, "spec.managedBy", "kuberay-operator"),
    Broken(
        "a kind without a schema",
        DEV,
        put(lambda t: find(t, "Service", "gateway"), kind="Servise"),
        "Servise/gateway",
        "kind",
        "no schema",
    ),
    Broken(
        "no namespace",
        DEV,
        lambda t: find(t, "Service", "gateway")["metadata"].pop("namespace"),
        "Service/gateway",
        "metadata.namespace",
        "missing",
    ),
)


@pytest.mark.parametrize("broken", BROKEN, ids=lambda broken: broken.what)
def test_it_is_refused(broken: Broken) -> None:
    refuse(broken)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (("kind: Namespace\n", "kind: Namespace\nkind: Namespace\n"), "the key 'kind' is there twice"),
        (("kind: Namespace\n", "kind: [Namespace\n"), "not YAML"),
        (("apiVersion: v1\n", "- 1\n---\napiVersion: v1\n"), "document 1 is a list, not an object"),
    ],
    ids=["a key twice", "no YAML", "a list"],
)
def test_what_is_no_tree_is_refused(change: tuple[str, str], words: str) -> None:
    with pytest.raises(TreeError, match=words):
        read_tree(built(DEV).replace(*change, 1))


def test_nothing_at_all_is_refused() -> None:
    with pytest.raises(TreeError, match="no objects"):
        check(read_tree("---\n"))
