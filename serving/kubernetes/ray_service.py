"""Checks a RayService beyond its schema: what only KubeRay's operator or a failing upgrade would tell."""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from zoetrope.serving.kubernetes.flows import RAY
from zoetrope.serving.kubernetes.objects import Fault, Json, Manifest, PodTemplate, Tree, mapping, sequence
from zoetrope.serving.kubernetes.pods import quantity
from zoetrope.serving.kubernetes.serve_config import application_args

UPGRADES = ("NewCluster", "None", "NewClusterWithIncrementalUpgrade")  # the schema has no list of them
CLUSTER = "spec.rayClusterConfig"
GATED = ("networkPolicy", "tlsOptions", "historyServerOptions")  # behind gates of KubeRay that are off
INITIALIZING, LONGEST = "ray.io/initializing-timeout", "zoetrope/longest-job-seconds"
DOMAIN = "ray.io/gpu-domain"
DURATION = re.compile(r"(\d+h)?(\d+m)?(\d+s)?")
DRAIN = re.compile(r"ray_host\.drain .*?--seconds (\d+)")
MIN_DRAIN, AFTER_DRAIN = 90, 30  # seconds that a drain gets at least, and that a pod lives after it
LABELS = ("router_labels", "stage_labels", "engine_labels")
GPU = "nvidia.com/gpu"
EXPORT = "metrics-export-port"


def ray_findings(tree: Tree) -> Iterator[Fault]:
    """Yield what is wrong with the RayServices of a tree."""
    for service in tree.of("RayService"):
        pods = [pod for pod in tree.pods if pod.owner is service]
        yield from _lives(service)
        yield from _cluster(service)
        for pod in pods:
            yield from _memory(service, pod)
            yield from _metrics_port(service, pod)
            if pod.group != "head":
                yield from _worker(service, pod)
        yield from _room(service)
        yield from _weights(service, tree)


def _lives(service: Manifest) -> Iterator[Fault]:
    strategy = mapping(service.spec.get("upgradeStrategy")).get("type")
    if strategy not in UPGRADES:
        yield service.finding("spec.upgradeStrategy.type", f"{strategy!r} must be one of {', '.join(UPGRADES)}")
    if service.spec.get("excludeHeadPodFromServeSvc") is not True:
        yield service.finding("spec.excludeHeadPodFromServeSvc", "must be true: the head serves nothing")
    longest, delay = service.annotations.get(LONGEST), service.spec.get("rayClusterDeletionDelaySeconds", 60)
    if longest is None or not longest.isdigit():
        yield service.finding(f"metadata.annotations.{LONGEST}", f"{longest!r} must be the seconds of the longest job")
    elif isinstance(delay, int) and delay <= int(longest):
        message = f"{delay} must be above the {longest} s of the longest job: the old cluster would end under it"
        yield service.finding("spec.rayClusterDeletionDelaySeconds", message)
    timeout = service.annotations.get(INITIALIZING, "")
    if not (timeout and DURATION.fullmatch(timeout)):
        message = f"{timeout!r} must be a duration, such as 45m: the operator gives up on engines that load for longer"
        yield service.finding(f"metadata.annotations.{INITIALIZING}", message)


def _cluster(service: Manifest) -> Iterator[Fault]:
    cluster = mapping(service.spec.get("rayClusterConfig"))
    try:
        installed = version("ray")
    except PackageNotFoundError:
        installed = ""
    if installed and cluster.get("rayVersion") != installed:
        message = f"{cluster.get('rayVersion')!r} is not the Ray of this release, {installed}"
        yield service.finding(f"{CLUSTER}.rayVersion", message)
    auth = mapping(cluster.get("authOptions"))
    if auth.get("mode") != "token":
        yield service.finding(f"{CLUSTER}.authOptions.mode", "must be token: whoever reaches Ray runs code in it")
    if not auth.get("secretName"):
        yield service.finding(f"{CLUSTER}.authOptions.secretName", "is missing: name the Secret with the token")
    if auth.get("enableK8sTokenAuth"):
        yield service.finding(f"{CLUSTER}.authOptions.enableK8sTokenAuth", "KubeRay refuses it for a RayService")
    for name in GATED:
        if name in cluster:
            yield service.finding(
                f"{CLUSTER}.{name}", "is behind a gate of KubeRay that is off: the operator refuses it"
            )
    redis = mapping(cluster.get("gcsFaultToleranceOptions"))
    if "externalStorageNamespace" in redis:
        yield service.finding(f"{CLUSTER}.gcsFaultToleranceOptions.externalStorageNamespace", "must be left to KubeRay")
    if redis.get("backend", "redis") != "redis":
        yield service.finding(f"{CLUSTER}.gcsFaultToleranceOptions.backend", "must be redis, the supported one")
    head = mapping(cluster.get("headGroupSpec"))
    cpus = mapping(head.get("resources")).get("CPU", mapping(head.get("rayStartParams")).get("num-cpus"))
    if str(cpus) != "0":
        place = f"{CLUSTER}.headGroupSpec.resources.CPU"
        yield service.finding(place, f"{cpus!r} must be 0: replicas on the head would die with it")
    for group in _groups(service):
        least, now, most = (group.get(name) for name in ("minReplicas", "replicas", "maxReplicas"))
        if not (isinstance(least, int) and isinstance(now, int) and isinstance(most, int) and least <= now <= most):
            message = f"minReplicas {least}, replicas {now} and maxReplicas {most} must be there, in ascending order"
            yield service.finding(f"{_place(group)}.replicas", message)


def _memory(service: Manifest, pod: PodTemplate) -> Iterator[Fault]:
    """The object store lies in /dev/shm, which counts as the container's memory."""
    start = mapping(_group_of(service, pod).get("rayStartParams"))
    store = quantity(start.get("object-store-memory"))
    place = f"{pod.field.removesuffix('.template')}.rayStartParams.object-store-memory"
    if store is None:
        yield service.finding(place, "is missing: Ray would take a third of the memory")
        return
    mounts = {
        mount.get("name"): mount.get("mountPath")
        for _, box in pod.containers
        for mount in sequence(box.get("volumeMounts"))
    }
    shm = next((volume for _, volume in pod.volumes if mounts.get(volume.get("name")) == "/dev/shm"), None)
    empty = mapping(mapping(shm).get("emptyDir"))
    size = quantity(empty.get("sizeLimit"))
    if empty.get("medium") != "Memory" or size is None:
        yield pod.finding("spec.volumes", "none of /dev/shm, an emptyDir of medium Memory with a sizeLimit")
    elif size < store:
        message = f"{start['object-store-memory']} bytes do not fit into the {empty['sizeLimit']} of /dev/shm"
        yield service.finding(place, message)
    for field, container in pod.containers:
        limit = quantity(mapping(mapping(container.get("resources")).get("limits")).get("memory"))
        if size is not None and limit is not None and size >= limit:
            message = f"is not above the {empty['sizeLimit']} of /dev/shm, which counts as memory"
            yield service.finding(f"{field}.resources.limits.memory", message)


def _metrics_port(service: Manifest, pod: PodTemplate) -> Iterator[Fault]:
    exported = mapping(_group_of(service, pod).get("rayStartParams")).get(EXPORT)
    ports = {p.get("name"): p.get("containerPort") for _, box in pod.containers for p in sequence(box.get("ports"))}
    if exported is not None and str(ports.get("metrics")) != exported:
        place = f"{pod.field.removesuffix('.template')}.rayStartParams.{EXPORT}"
        yield service.finding(place, f"{exported} is not the port `metrics` of the container, {ports.get('metrics')}")


def _worker(service: Manifest, pod: PodTemplate) -> Iterator[Fault]:
    for field, container in pod.containers[:1]:
        probe = mapping(mapping(container.get("readinessProbe")).get("httpGet")).get("path")
        if probe != "/api/healthz":
            message = f"{probe!r} must be /api/healthz: KubeRay's own probe asks a proxy of Serve, which is disabled"
            yield service.finding(f"{field}.readinessProbe.httpGet.path", message)
        command = mapping(mapping(mapping(container.get("lifecycle")).get("preStop")).get("exec")).get("command")
        drain = DRAIN.search(" ".join(map(str, sequence(command))))
        if drain is None or int(drain[1]) < MIN_DRAIN:
            message = f"must drain the node for at least {MIN_DRAIN} s (-m zoetrope.serving.ray_host.drain --seconds N)"
            yield service.finding(f"{field}.lifecycle.preStop", message)
        grace = pod.spec.get("terminationGracePeriodSeconds", 30)
        if drain is not None and isinstance(grace, int) and grace <= int(drain[1]) + AFTER_DRAIN:
            message = f"{grace} must be above the {drain[1]} s of the drain and {AFTER_DRAIN} s more"
            yield pod.finding("spec.terminationGracePeriodSeconds", message)
        group = _group_of(service, pod)
        limits = mapping(mapping(container.get("resources")).get("limits"))
        offered, has = str(mapping(group.get("resources")).get("GPU", "0")), str(limits.get(GPU, "0"))
        if quantity(offered) != quantity(has):
            yield service.finding(
                f"{_place(group)}.resources.GPU", f"{offered} is not the {has} {GPU} of the container"
            )


def _room(service: Manifest) -> Iterator[Fault]:
    """Check that the engines that the application starts have nodes: nothing else would say why they wait for ever."""
    args, groups = application_args(service), _groups(service)
    place = "spec.serveConfigV2.args"
    for name in LABELS:
        for pair in filter(None, str(args.get(name, "")).split(",")):
            key, _, value = pair.partition("=")
            if not any(mapping(group.get("labels")).get(key) == value for group in groups):
                yield service.finding(f"{place}.{name}", f"no group of workers has the label {pair}")
    device = args.get("rank_device")
    if device not in ("cpu", "gpu"):
        yield service.finding(f"{place}.rank_device", f"{device!r} must be cpu or gpu: there are no nodes yet to ask")
        return
    resource = "GPU" if device == "gpu" else "CPU"
    roles = 2 if args.get("noise_experts") == "apart" else 1
    split = 2 if args.get("gang_place") == "domains" else 1
    rooms = _rooms(groups, resource, by_node=args.get("gang_place", "node") == "node")
    for engine in sorted(_engines(args), reverse=True):
        for _ in range(roles * split):
            each = engine // split
            best = max(range(len(rooms)), key=lambda number: rooms[number], default=None)
            if best is None or rooms[best] < each:
                message = f"{args.get('engines')} do not fit: no node or NVLink domain has {each} {resource}s left"
                yield service.finding(f"{place}.engines", message)
                return
            rooms[best] -= each


def _engines(args: Json) -> list[int]:
    """The ranks of each engine that the application starts with."""
    found = []
    for text in str(args.get("engines", "1")).split(","):
        count, _, ranks = text.partition("x")
        if count.isdigit() and (ranks or str(args.get("ranks", 1))).isdigit():
            found += [int(ranks or args.get("ranks", 1))] * int(count)
    return found


def _rooms(groups: list[Json], resource: str, *, by_node: bool) -> list[float]:
    """What each node has, or each domain."""
    nodes: dict[Any, float] = {}
    for number, group in enumerate(groups):
        amount = quantity(mapping(group.get("resources")).get(resource, "0")) or 0.0
        for node in range(group.get("replicas", 1) if isinstance(group.get("replicas", 1), int) else 0):
            domain = None if by_node else mapping(group.get("labels")).get(DOMAIN)
            key = domain if domain is not None else (number, node)
            nodes[key] = nodes.get(key, 0.0) + amount
    return list(nodes.values())


def _weights(service: Manifest, tree: Tree) -> Iterator[Fault]:
    """A model that is a folder is mounted, read-only, wherever it is read; the head reads its configurations."""
    for model in str(application_args(service).get("model", "")).split(","):
        if not model.startswith("/"):
            continue
        for pod in tree.pods:
            if pod.component not in RAY:
                continue
            for field, container in pod.containers:
                mounts = [
                    m
                    for m in sequence(container.get("volumeMounts"))
                    if model.startswith(str(m.get("mountPath")) + "/")
                ]
                if not mounts:
                    yield pod.owner.finding(f"{field}.volumeMounts", f"none holds the model, {model}")
                for mount in mounts:
                    if mount.get("readOnly") is not True:
                        yield pod.owner.finding(
                            f"{field}.volumeMounts[{mount['name']}].readOnly", "must be true: weights"
                        )


def _groups(service: Manifest) -> list[Json]:
    groups = sequence(mapping(service.spec.get("rayClusterConfig")).get("workerGroupSpecs"))
    return [group for group in groups if isinstance(group, dict)]


def _group_of(service: Manifest, pod: PodTemplate) -> Json:
    if pod.group == "head":
        return mapping(mapping(service.spec.get("rayClusterConfig")).get("headGroupSpec"))
    return next((group for group in _groups(service) if str(group.get("groupName")) == pod.group), {})


def _place(group: Json) -> str:
    return f"{CLUSTER}.workerGroupSpecs[{group.get('groupName')}]"
