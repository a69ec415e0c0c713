"""Checks PodDisruptionBudgets: each pod that must not go at any time has one, and none forbids what must happen."""

from __future__ import annotations

from collections.abc import Iterator

from zoetrope.serving.kubernetes.objects import Fault, PodTemplate, Tree, mapping


def budget_findings(tree: Tree) -> Iterator[Fault]:
    """Yield pods without a budget or with two, budgets without pods, and those that no eviction could ever keep."""
    covered: dict[int, list[str]] = {}
    for budget in tree.of("PodDisruptionBudget"):
        selector = mapping(budget.spec.get("selector"))
        pods = tree.selected(selector) if selector else []
        if not pods:
            yield budget.finding("spec.selector", "fits no pod")
        for pod in pods:
            covered.setdefault(id(pod), []).append(budget.name)
        least, most = budget.spec.get("minAvailable"), budget.spec.get("maxUnavailable")
        if (least is None) == (most is None):
            yield budget.finding("spec", "must have one of minAvailable and maxUnavailable")
        elif any(pod.owner.kind == "RayService" for pod in pods) and not isinstance(least, int):
            # Kubernetes counts the pods that there should be by their controller's scale, and allows none to go
            # where it cannot.
            field = "minAvailable" if most is None else "maxUnavailable"
            message = "must be minAvailable, a number: a RayCluster has no scale, so no pod would be evicted"
            yield budget.finding(f"spec.{field}", message)
        pods_in_all = sum(pod.replicas for pod in pods)
        if isinstance(least, int) and pods_in_all > 1 and least >= pods_in_all:
            message = f"{least} of {pods_in_all} pods: no node with one of them could ever be drained"
            yield budget.finding("spec.minAvailable", message)
        if most in (0, "0%"):
            yield budget.finding("spec.maxUnavailable", f"{most}: no node with one of the pods could ever be drained")
    for pod in tree.pods:
        budgets = covered.get(id(pod), [])
        if len(budgets) > 1:
            message = f"have several PodDisruptionBudgets ({', '.join(budgets)}): no eviction works then"
            yield pod.finding("metadata.labels", message)
        if not budgets and _needs_one(pod):
            yield pod.finding("metadata.labels", "no PodDisruptionBudget covers these pods")


def _needs_one(pod: PodTemplate) -> bool:
    """All but what ends by itself, and what may be away for a minute: a Deployment of one."""
    return pod.runs_for_ever and not (pod.owner.kind == "Deployment" and pod.replicas == 1)
