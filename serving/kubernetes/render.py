"""Writes an overlay: a folder that `kubectl apply -k` takes, made of the base, components, and what a plan decides."""

from __future__ import annotations

import copy
import shutil
from collections.abc import Iterator
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

import yaml

from zoetrope.serving.kubernetes.elastic import elastic_nodes, engines_more
from zoetrope.serving.kubernetes.flows import all_private, endpoint_of, store_ports
from zoetrope.serving.kubernetes.knobs import Knobs
from zoetrope.serving.kubernetes.objects import Json
from zoetrope.serving.kubernetes.sizing import Sizing
from zoetrope.serving.kubernetes.yaml_text import to_yaml

HEAD = "# Written by `zoetrope k8s render` from knobs.yaml: change that, and render again.\n"
COPIED = ("base", "components", "monitoring")
SECRETS = {
    "zoetrope-database": "url",
    "zoetrope-artifacts": "access-key-id secret-access-key",
    "zoetrope-ray": "auth_token",
    "zoetrope-bootstrap-key": "key",
}
CPUS_EACH, MEMORY_EACH = 4, 32  # of a GPU: CPUs and GiB
CPU_NODE_MEMORY = "8Gi"
STORE_SHARE, SHM_SHARE = 8, 4  # parts of a pod's memory: the object store, and /dev/shm around it
RESTRICTED: Json = {
    "allowPrivilegeEscalation": False,
    "readOnlyRootFilesystem": True,
    "capabilities": {"drop": ["ALL"]},
}
# Labels by which NVIDIA's discovery of GPUs tells the kinds.
PRODUCTS = {
    "h100": "NVIDIA-H100-80GB-HBM3",
    "h200": "NVIDIA-H200",
    "a100": "NVIDIA-A100-SXM4-80GB",
    "l40s": "NVIDIA-L40S",
}
PRODUCT, GPU = "nvidia.com/gpu.product", "nvidia.com/gpu"
DOMAIN, KIND = "ray.io/gpu-domain", "ray.io/accelerator-type"
WEIGHTS, CARDS, CARD_SUFFIX = "/weights", "/cards", ".card.json"


def render(knobs: Knobs, sizing: Sizing, target: Path, above: str = "") -> None:
    """Write the folder ``target``, with copies of the base and the components.

    Args:
        above: path from the target to a folder that has these already; then nothing is copied.

    Raises:
        FileExistsError: the target holds something that this did not write.
    """
    if target.exists() and any(target.iterdir()) and not (target / "knobs.yaml").exists():
        raise FileExistsError(17, "is not empty, and was not written by `zoetrope k8s render`", str(target))
    target.mkdir(parents=True, exist_ok=True)
    data = resources.files("zoetrope.k8s")
    if not above:
        for name in COPIED:
            if (data / name).is_dir():
                shutil.rmtree(target / name, ignore_errors=True)
                _copy(data / name, target / name)
    base = next(iter(yaml.safe_load_all((data / "base" / "ray.yaml").read_text())))
    said = knobs.model_dump(mode="json", exclude_defaults=True)
    if knobs.card:
        (target / f"{knobs.model}{CARD_SUFFIX}").write_bytes(Path(knobs.card).read_bytes())
    files: dict[str, Any] = {
        "knobs.yaml": said,
        "kustomization.yaml": _kustomization(knobs, sizing, above),
        "ray.yaml": list(_ray_patch(knobs, sizing, base)),
    }
    if not knobs.bundled:
        files["weights.yaml"] = _volume(knobs)
    if knobs.elastic_nodes:
        files["elastic.yaml"] = elastic_nodes(next(_groups(knobs, base)), knobs, sizing)
    for name in ("weights.yaml", "elastic.yaml"):  # of an earlier rendering
        (target / name).unlink(missing_ok=True)
    for name, content in files.items():
        head = "" if name == "knobs.yaml" else HEAD
        (target / name).write_text(head + (to_yaml(content)))


def secrets_of(knobs: Knobs) -> dict[str, str]:
    """Return the Secrets that must be made by hand, with their keys."""
    if knobs.dev_stores:
        found: dict[str, str] = {}
    else:
        found = dict(SECRETS)
    if knobs.redis:
        found["zoetrope-redis"] = "password"
    if knobs.tls:
        found["zoetrope-tls"] = "tls.crt tls.key"
    return found


def _kustomization(knobs: Knobs, sizing: Sizing, above: str) -> Json:
    names = {
        "components/fetch-weights": bool(knobs.weights_from) and not knobs.bundled,
        "components/redis": knobs.redis,
        "components/dev-stores": knobs.dev_stores,
        "components/tls": knobs.tls,
        "components/kueue": knobs.kueue,
        "monitoring": knobs.monitoring,
    }
    image, _, tag = knobs.image.rpartition(":")
    by_digest = "@" in knobs.image
    return {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "namespace": knobs.namespace,
        "resources": [f"{above}base", *_written(knobs)],
        "components": [f"{above}{name}" for name, wanted in names.items() if wanted],
        "configMapGenerator": [
            {"name": "zoetrope-settings", "behavior": "merge", "literals": list(_literals(knobs, sizing))},
            *([{"name": "zoetrope-cards", "files": [f"{knobs.model}{CARD_SUFFIX}"]}] if knobs.card else []),
        ],
        "images": [
            {
                "name": "zoetrope",
                "newName": image.partition("@")[0],
                **({"digest": f"sha256:{tag}"} if by_digest else {"newTag": tag}),
            }
        ],
        "patches": list(_patches(knobs)),
    }


def _written(knobs: Knobs) -> list[str]:
    """The files of objects that are in no base."""
    wanted = {"weights.yaml": not knobs.bundled, "elastic.yaml": bool(knobs.elastic_nodes)}
    return [name for name, there in wanted.items() if there]


def _literals(knobs: Knobs, sizing: Sizing) -> Iterator[str]:
    """Variables of the processes beside Ray, which know the model by its card and read no weights."""
    for name, value in _shared(knobs, sizing).items():
        yield f"ZOETROPE_{name.upper()}={_card(knobs) if name == 'model' else value}"
    yield f"ZOETROPE_PUBLIC_URL={knobs.public_url}"


def _card(knobs: Knobs) -> str:
    if knobs.bundled:
        return knobs.model
    return f"{CARDS if knobs.card else WEIGHTS}/{knobs.model}{CARD_SUFFIX}"


def _shared(knobs: Knobs, sizing: Sizing) -> Json:
    """Settings that all processes are told."""
    found: Json = {
        "model": knobs.model_path,
        "engines": f"{sizing.engines}x{sizing.ranks}",
        "cfg_groups": sizing.cfg_groups,
        "artifact_store": knobs.artifact_store,
        "snapshot_store": knobs.snapshot_store,
    }
    if sizing.roles == 2:
        found["noise_experts"] = "apart"
    if knobs.quantize != "none":
        found["quantize"] = knobs.quantize
    if knobs.elastic_nodes:
        found |= {"min_engines": sizing.engines, "max_engines": sizing.engines + engines_more(knobs, sizing)}
    return found


def _patches(knobs: Knobs) -> Iterator[Json]:
    yield {"target": {"kind": "RayService", "name": "zoetrope"}, "path": "ray.yaml"}
    secrets = "".join(f"{name}: {keys}\n" for name, keys in secrets_of(knobs).items())
    operations: list[Json] = [{"op": "add", "path": "/metadata/annotations", "value": {"zoetrope/secrets": secrets}}]
    yield _operations("Namespace", "zoetrope", operations)
    bounds = {"minReplicas": knobs.gateways, "maxReplicas": knobs.max_gateways}
    operations = [{"op": "replace", "path": f"/spec/{name}", "value": count} for name, count in bounds.items()]
    yield _operations("HorizontalPodAutoscaler", "gateway", operations)
    staying = {"op": "replace", "path": "/spec/minAvailable", "value": knobs.nodes - 1}
    yield _operations("PodDisruptionBudget", "ray-worker", [staying])
    if not knobs.dev_stores:
        peers = [{"ipBlock": {"cidr": network}} for network in knobs.store_networks]
        operations = [{"op": "replace", "path": "/spec/egress/0/to", "value": peers}]
        yield _operations("NetworkPolicy", "database", operations)
        ports = [{"protocol": "TCP", "port": port} for port in store_ports(_stores(knobs))]
        operations = [{"op": "replace", "path": "/spec/egress/0/to", "value": [*peers, *_cloud(knobs)]}]
        operations += [{"op": "replace", "path": "/spec/egress/0/ports", "value": ports}]
        yield _operations("NetworkPolicy", "artifacts", operations)
    if not knobs.bundled:
        yield _operations("Deployment", "gateway", list(_card_patch(knobs)))
    if knobs.weights_from and not knobs.bundled:
        yield _operations("Job", "fetch-weights", list(_fetch(knobs)))


def _stores(knobs: Knobs) -> tuple[str, str]:
    return knobs.artifact_store, knobs.snapshot_store


def _cloud(knobs: Knobs) -> list[Json]:
    """The internet as the peer of who uses buckets, if they are a cloud's and nobody says at which addresses."""
    if all(endpoint_of(url) for url in _stores(knobs)) or not all_private(knobs.store_networks):
        return []
    policies = yaml.safe_load_all((resources.files("zoetrope.k8s") / "base" / "network.yaml").read_text())
    (internet,) = [policy for policy in policies if policy["metadata"]["name"] == "internet"]
    found: list[Json] = internet["spec"]["egress"][0]["to"]
    return found


def _operations(kind: str, name: str, operations: list[Json]) -> Json:
    return {"target": {"kind": kind, "name": name}, "patch": to_yaml(operations)}


def _card_patch(knobs: Knobs) -> Iterator[Json]:
    """Give gateways the model's card: one that was exported before, or the one beside the weights, once it is there."""
    pod = "/spec/template/spec"
    mount: Json = _mount()
    volume: Json = _weights_volume()
    if knobs.card:
        mount = {"name": "cards", "mountPath": CARDS, "readOnly": True}
        volume = {"name": "cards", "configMap": {"name": "zoetrope-cards"}}
    yield {"op": "add", "path": f"{pod}/containers/0/volumeMounts/-", "value": mount}
    yield {"op": "add", "path": f"{pod}/volumes/-", "value": volume}
    if not knobs.card:
        yield {"op": "add", "path": f"{pod}/initContainers/-", "value": _waiter(knobs)}


def _waiter(knobs: Knobs) -> Json:
    """Wait for the card beside the weights, which is written last of all."""
    card = f"{WEIGHTS}/{knobs.model}{CARD_SUFFIX}"
    return {
        "name": "wait-for-card",
        "image": "zoetrope",
        "command": ["sh", "-c", f"until [ -f {card} ]; do echo 'waiting for {card}'; sleep 5; done"],
        "securityContext": RESTRICTED,
        "resources": {name: {"cpu": "50m", "memory": "64Mi"} for name in ("requests", "limits")},
        "volumeMounts": [_mount()],
    }


def _fetch(knobs: Knobs) -> Iterator[Json]:
    from zoetrope.model.families import PRESETS

    preset = PRESETS.get(knobs.model)
    derived = knobs.model if preset is not None and preset.upcycling is not None else ""
    for number, value in enumerate((knobs.model, knobs.weights_from, derived)):
        path = f"/spec/template/spec/containers/0/env/{number}/value"
        yield {"op": "replace", "path": path, "value": value}


def _ray_patch(knobs: Knobs, sizing: Sizing, base: Json) -> Iterator[Json]:
    def put(path: str, value: Any) -> Json:
        return {"op": "add", "path": path, "value": value}

    yield put("/metadata/annotations/zoetrope~1longest-job-seconds", str(sizing.job_seconds))
    yield put("/spec/rayClusterDeletionDelaySeconds", 2 * sizing.job_seconds)
    yield put("/spec/upgradeStrategy/type", "None" if knobs.upgrade == "in-place" else "NewCluster")
    yield put("/spec/serveConfigV2", _serve_config(knobs, sizing, base))
    amounts = {"cpu": str(knobs.head_cpus), "memory": knobs.head_memory}
    head = "/spec/rayClusterConfig/headGroupSpec/template/spec"
    yield put(f"{head}/containers/0/resources", {"requests": amounts, "limits": amounts})
    if not knobs.bundled:  # the application is built there, from the model's configurations
        yield put(f"{head}/containers/0/volumeMounts/-", _mount())
        yield put(f"{head}/volumes/-", _weights_volume())
        if not knobs.card:
            yield put(f"{head}/initContainers/-", _waiter(knobs))
    yield put("/spec/rayClusterConfig/workerGroupSpecs", list(_groups(knobs, base)))


def _serve_config(knobs: Knobs, sizing: Sizing, base: Json) -> str:
    config = yaml.safe_load(base["spec"]["serveConfigV2"])
    args = config["applications"][0]["args"]
    args |= _shared(knobs, sizing)
    args |= {"rank_device": "gpu" if knobs.on_gpus else "cpu", "gang_place": sizing.place}
    args["warmup_shapes"] = sizing.clip
    return to_yaml(config)


def _groups(knobs: Knobs, base: Json) -> Iterator[Json]:
    """One group of workers for each NVLink domain, which is what a group's labels can say; one without GPUs."""
    template = base["spec"]["rayClusterConfig"]["workerGroupSpecs"][0]
    nodes_each = max(1, knobs.domain // knobs.gpus_per_node)
    domains = -(-knobs.nodes // nodes_each) if knobs.on_gpus else 1
    for number in range(domains):
        group = copy.deepcopy(template)
        nodes = min(nodes_each, knobs.nodes - number * nodes_each) if knobs.on_gpus else knobs.nodes
        if domains > 1:
            group["groupName"] = f"engines-{number + 1}"
        group |= dict.fromkeys(("replicas", "minReplicas", "maxReplicas"), nodes)
        _fill(group, knobs, f"domain-{number + 1}")
        yield group


def _fill(group: Json, knobs: Knobs, domain: str) -> None:
    cpus = knobs.node_cpus or CPUS_EACH * (knobs.gpus_per_node if knobs.on_gpus else 1)
    memory = knobs.node_memory or (f"{MEMORY_EACH * knobs.gpus_per_node}Gi" if knobs.on_gpus else CPU_NODE_MEMORY)
    amount = _bytes(memory)
    group["resources"] = {"CPU": str(cpus)}
    group["rayStartParams"]["object-store-memory"] = str(int(amount) // STORE_SHARE)
    pod = group["template"]["spec"]
    container = pod["containers"][0]
    amounts: Json = {"cpu": str(cpus), "memory": memory}
    for volume in pod["volumes"]:
        if volume["name"] == "shm":
            volume["emptyDir"]["sizeLimit"] = f"{int(amount) // SHM_SHARE // 2**20}Mi"
    labels = dict(knobs.node_labels)
    if knobs.on_gpus:
        group["resources"]["GPU"] = str(knobs.gpus_per_node)
        group["labels"] |= {DOMAIN: domain, KIND: knobs.gpu.upper()}
        amounts[GPU] = knobs.gpus_per_node
        pod["tolerations"] = [{"key": GPU, "operator": "Exists", "effect": "NoSchedule"}]
        if knobs.gpu in PRODUCTS:
            labels.setdefault(PRODUCT, PRODUCTS[knobs.gpu])
    if labels:
        pod["nodeSelector"] = labels
    container["resources"] = {"requests": amounts, "limits": dict(amounts)}
    if not knobs.bundled:
        pod["volumes"].append(_weights_volume())
        container["volumeMounts"].append(_mount())
        pod["initContainers"] = [_verifier(knobs, container)]


def _verifier(knobs: Knobs, beside: Json) -> Json:
    """Compare what is mounted with SHA256SUMS before anything is loaded; the hashes are kept for the engines."""
    return {
        "name": "verify-weights",
        "image": "zoetrope",
        "args": ["models", "verify", f"{WEIGHTS}/{knobs.model}"],
        "securityContext": RESTRICTED,
        "resources": {"requests": {"cpu": "4", "memory": "2Gi"}, "limits": {"cpu": "8", "memory": "2Gi"}},
        "volumeMounts": [_mount(), *(mount for mount in beside["volumeMounts"] if mount["name"] in ("data", "tmp"))],
    }


def _volume(knobs: Knobs) -> Json:
    spec: Json = {
        "accessModes": ["ReadWriteMany"],
        "resources": {"requests": {"storage": knobs.weights_size}},
    }
    if knobs.weights_class:
        spec["storageClassName"] = knobs.weights_class
    return {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": "weights"}, "spec": spec}


def _weights_volume() -> Json:
    return {"name": "weights", "persistentVolumeClaim": {"claimName": "weights", "readOnly": True}}


def _mount() -> Json:
    return {"name": "weights", "mountPath": WEIGHTS, "readOnly": True}


def _bytes(text: str) -> float:
    from zoetrope.serving.kubernetes.pods import quantity

    amount = quantity(text)
    assert amount is not None, "knobs are checked"
    return amount


def _copy(source: Traversable, target: Path) -> None:
    target.mkdir(parents=True)
    for child in source.iterdir():
        if child.is_dir():
            _copy(child, target / child.name)
        else:
            (target / child.name).write_bytes(child.read_bytes())
