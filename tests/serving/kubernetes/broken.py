"""Broken variants of the overlays: how they are made, and what must be said of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tests.serving.kubernetes.overlays import tree_of
from zoetrope.serving.kubernetes.check import check
from zoetrope.serving.kubernetes.objects import Json, Manifest, Tree

DEV, ONE, MANY = "cpu-dev", "h100x8", "multi-node"
SETTINGS = "zoetrope-settings"


@dataclass(frozen=True)
class Broken:
    """A variant of an overlay, and where it must be said to be wrong."""

    what: str
    overlay: str
    change: Callable[[Tree], object]
    object: str
    field: str
    words: str = ""


def find(tree: Tree, kind: str, name: str) -> Json:
    """The data of an object, whose name may have a suffix."""
    return next(each.data for each in tree.of(kind) if each.name == name or each.name.startswith(f"{name}-"))


def pod(tree: Tree, kind: str, name: str) -> Json:
    found: Json = find(tree, kind, name)["spec"]["template"]["spec"]
    return found


def box(tree: Tree, kind: str, name: str) -> Json:
    """The container of a workload."""
    found: Json = pod(tree, kind, name)["containers"][0]
    return found


def ray(tree: Tree) -> Json:
    found: Json = find(tree, "RayService", "zoetrope")["spec"]
    return found


def cluster(tree: Tree) -> Json:
    found: Json = ray(tree)["rayClusterConfig"]
    return found


def worker(tree: Tree) -> Json:
    found: Json = cluster(tree)["workerGroupSpecs"][0]
    return found


def worker_pod(tree: Tree) -> Json:
    found: Json = worker(tree)["template"]["spec"]
    return found


def serve(tree: Tree, old: str, new: str) -> None:
    """Replace a part of serveConfigV2."""
    text = ray(tree)["serveConfigV2"]
    assert old in text
    ray(tree)["serveConfigV2"] = text.replace(old, new)


def setting(tree: Tree, **values: str) -> None:
    found = find(tree, "ConfigMap", SETTINGS)["data"]
    found |= {f"ZOETROPE_{name.upper()}": value for name, value in values.items()}


def without(tree: Tree, kind: str, name: str) -> Tree:
    return Tree(tuple(each for each in tree.manifests if (each.kind, each.name) != (kind, name)))


def put(place: Callable[[Tree], Json], **values: Any) -> Callable[[Tree], object]:
    """A change that sets keys of a part of the tree."""
    return lambda tree: place(tree).update(values)


def policy(name: str) -> Callable[[Tree], Json]:
    return lambda tree: find(tree, "NetworkPolicy", name)["spec"]


def gateway(tree: Tree) -> Json:
    return box(tree, "Deployment", "gateway")


def redis(tree: Tree) -> Json:
    found: Json = cluster(tree)["gcsFaultToleranceOptions"]
    return found


def security(tree: Tree) -> Json:
    found: Json = gateway(tree)["securityContext"]
    return found


GATEWAY, SERVICE = "Deployment/gateway", "RayService/zoetrope"
CLUSTER = "spec.rayClusterConfig"
WORKER = f"{CLUSTER}.workerGroupSpecs[engines].template.spec"
RAY_WORKER = f"{WORKER}.containers[ray-worker]"
BOX = "spec.template.spec.containers[gateway]"
ARGS = "spec.serveConfigV2.args"
APPLICATION = "spec.serveConfigV2.applications[zoetrope]"


def refuse(broken: Broken) -> None:
    """Break the overlay, and hold the check to a line that names the object, the field and the reason."""
    tree = tree_of(broken.overlay)
    changed = broken.change(tree)
    findings = check(changed if isinstance(changed, Tree) else Tree(tuple(Manifest(m.data) for m in tree.manifests)))
    found = [f for f in findings if f.object == broken.object and f.field.startswith(broken.field)]
    assert any(broken.words in each.message for each in found), "\n".join(map(str, findings)) or "nothing was found"
