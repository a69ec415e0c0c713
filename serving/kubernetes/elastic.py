"""Nodes that come and go with the work: pods that join the Ray cluster by themselves, counted by KEDA.

KubeRay's groups have a fixed size, and Ray's own autoscaler would need a token of the API server in the head's pod.
KEDA reads the metric of the engines that are wanted, which follows the queued GPU-seconds.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

from zoetrope.serving.kubernetes.objects import COMPONENT, Json
from zoetrope.serving.kubernetes.sizing import Sizing

if TYPE_CHECKING:
    from zoetrope.serving.kubernetes.knobs import Knobs

NAME = "elastic-engines"
PART_OF = "app.kubernetes.io/part-of"
POOL = "zoetrope/pool"  # tells these pods from KubeRay's
HEAD = "zoetrope-head-svc:6379"  # the Service that KubeRay keeps at the newest cluster
COOLDOWN_SECONDS = 600  # above scale_down_seconds: a pod leaves after its engine


def engines_more(knobs: Knobs, sizing: Sizing) -> int:
    """Return how many engines the elastic nodes have room for."""
    return knobs.elastic_nodes * (knobs.gpus_per_node // sizing.ranks)


def elastic_nodes(group: Json, knobs: Knobs, sizing: Sizing) -> list[Json]:
    """Return a Deployment of Ray workers like those of a group, and what scales it.

    Args:
        group: of KubeRay's workers, as rendered.
    """
    template = copy.deepcopy(group["template"])
    template["metadata"]["labels"][POOL] = NAME
    container = template["spec"]["containers"][0]
    container["command"] = ["bash", "-c", f"ulimit -n 65536; exec {_ray_start(group)}"]
    token = {"secretKeyRef": {"name": "zoetrope-ray", "key": "auth_token"}}
    container["env"] += [
        {"name": "RAY_AUTH_MODE", "value": "token"},
        {"name": "RAY_AUTH_TOKEN", "valueFrom": token},
    ]
    labels = {PART_OF: "zoetrope", COMPONENT: "ray-worker", POOL: NAME}
    deployment: Json = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": NAME, "labels": labels},
        "spec": {"selector": {"matchLabels": labels}, "strategy": {"type": "Recreate"}, "template": template},
    }
    each = knobs.gpus_per_node // sizing.ranks
    wanted = 'max(zoetrope_desired_engines{deployment="Engine"})'
    query = f"clamp_min(ceil({wanted} / {each}) - {knobs.nodes}, 0)"
    scaled: Json = {
        "apiVersion": "keda.sh/v1alpha1",
        "kind": "ScaledObject",
        "metadata": {"name": NAME},
        "spec": {
            "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": NAME},
            "minReplicaCount": 0,
            "maxReplicaCount": knobs.elastic_nodes,
            "cooldownPeriod": COOLDOWN_SECONDS,
            "triggers": [
                {
                    "type": "prometheus",
                    "metadata": {"serverAddress": knobs.prometheus, "query": query, "threshold": "1"},
                }
            ],
        },
    }
    return [deployment, scaled]


def _ray_start(group: Json) -> str:
    options = {"address": HEAD, **group["rayStartParams"], "num-cpus": group["resources"]["CPU"]}
    if "GPU" in group["resources"]:
        options["num-gpus"] = group["resources"]["GPU"]
    labels = {name: value for name, value in group["labels"].items() if name != "ray.io/gpu-domain"}
    options["labels"] = ",".join(f"{name}={value}" for name, value in labels.items())
    return "ray start --block " + " ".join(f"--{name}={value}" for name, value in options.items())
