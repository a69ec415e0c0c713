"""The objects of a rendered tree, and the pods that they make."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import yaml

Json = dict[str, Any]
COMPONENT = "app.kubernetes.io/component"
WORKLOADS = ("Deployment", "StatefulSet", "DaemonSet", "Job")  # whose pods are described at spec.template
MOST_LEVELS, MOST_NODES = 64, 1_000_000  # of YAML; the overlays have 20 and 10,000
MERGE = "tag:yaml.org,2002:merge"
CLUSTER_WIDE = ("Namespace", "PriorityClass", "ClusterRole", "ClusterRoleBinding", "StorageClass")


@dataclass(frozen=True)
class Fault:
    """What is wrong: with which object (``Kind/name``), in which field of it, and why."""

    object: str
    field: str
    message: str

    def __str__(self) -> str:
        return f"{self.object}: {self.field}: {self.message}"


class TreeError(ValueError):
    """A tree cannot be read at all; the message is one line."""


@dataclass(frozen=True)
class Manifest:
    """One object."""

    data: Json

    @property
    def kind(self) -> str:
        return str(self.data.get("kind", ""))

    @property
    def name(self) -> str:
        return str(self.metadata.get("name", ""))

    @property
    def metadata(self) -> Json:
        return mapping(self.data.get("metadata"))

    @property
    def spec(self) -> Json:
        return mapping(self.data.get("spec"))

    @property
    def annotations(self) -> Mapping[str, str]:
        return mapping(self.metadata.get("annotations"))

    def __str__(self) -> str:
        return f"{self.kind or 'an object without a kind'}/{self.name or '?'}"

    def finding(self, field: str, message: str) -> Fault:
        return Fault(str(self), field, message)


@dataclass(frozen=True)
class PodTemplate:
    """The pods that an object makes: its owner, the field that describes them, and how many there are at the least."""

    owner: Manifest
    field: str
    data: Json
    replicas: int
    group: str = ""  # of Ray's workers; "head" for the head

    @property
    def labels(self) -> Mapping[str, str]:
        return mapping(mapping(self.data.get("metadata")).get("labels"))

    @property
    def component(self) -> str:
        return str(self.labels.get(COMPONENT, ""))

    @property
    def spec(self) -> Json:
        return mapping(self.data.get("spec"))

    @property
    def containers(self) -> list[tuple[str, Json]]:
        """The containers that run for as long as the pod, each with its field."""
        return named_items(f"{self.field}.spec.containers", self.spec.get("containers"))

    @property
    def all_containers(self) -> list[tuple[str, Json]]:
        """Init containers too."""
        return named_items(f"{self.field}.spec.initContainers", self.spec.get("initContainers")) + self.containers

    @property
    def volumes(self) -> list[tuple[str, Json]]:
        return named_items(f"{self.field}.spec.volumes", self.spec.get("volumes"))

    @property
    def runs_for_ever(self) -> bool:
        return self.owner.kind != "Job"

    def finding(self, field: str, message: str) -> Fault:
        """``field`` is below the pod's template."""
        return self.owner.finding(f"{self.field}.{field}", message)


@dataclass(frozen=True)
class Tree:
    """All objects of a deployment."""

    manifests: tuple[Manifest, ...]

    @cached_property
    def pods(self) -> tuple[PodTemplate, ...]:
        return tuple(pod for manifest in self.manifests for pod in _pods(manifest, self))

    def of(self, *kinds: str) -> list[Manifest]:
        return [manifest for manifest in self.manifests if manifest.kind in kinds]

    def find(self, kind: str, name: str) -> Manifest | None:
        return next((found for found in self.of(kind) if found.name == name), None)

    def selected(self, selector: Mapping[str, Any]) -> list[PodTemplate]:
        """Return the pods that a label selector means (``matchLabels`` and ``matchExpressions``)."""
        return [pod for pod in self.pods if selects(selector, pod.labels)]


def read_tree(text: str) -> Tree:
    """Read YAML documents.

    Raises:
        TreeError: it is no YAML, a key is there twice, a document is no object, or it is too much of either.
    """
    found: list[Any] = []
    try:
        _check_extent(text)
        for number, document in enumerate(yaml.load_all(text, Loader=_StrictLoader), 1):
            if document is None:
                continue
            if not isinstance(document, dict):
                raise TreeError(f"document {number} is a {type(document).__name__}, not an object")
            items = document["items"] if document.get("kind") == "List" else None
            of_list = items if isinstance(items, list) else [document]
            if any(not isinstance(item, dict) for item in of_list):
                raise TreeError(f"document {number} lists something that is no object")
            found += of_list
    except yaml.YAMLError as error:
        raise TreeError(f"not YAML: {' '.join(str(error).split())}") from None
    return Tree(tuple(map(Manifest, found)))


def _check_extent(text: str) -> None:
    """Refuse nesting that would exhaust the stack, and references that would exhaust the memory, before either is
    followed.

    Raises:
        TreeError: as said. yaml.YAMLError: it is no YAML.
    """
    nodes = 0  # as if each reference were written out
    opened: list[tuple[str | None, int]] = []  # of collections: the anchor, and the nodes before
    sizes: dict[str, int] = {}  # of what anchors name
    for event in yaml.parse(text, Loader=yaml.CSafeLoader):
        line = event.start_mark.line + 1 if event.start_mark is not None else 0
        if isinstance(event, yaml.AliasEvent):
            if event.anchor not in sizes:
                raise TreeError(f"line {line}: *{event.anchor} names nothing, or something that it is part of")
            nodes += sizes[event.anchor]
        elif isinstance(event, yaml.CollectionStartEvent):
            opened.append((event.anchor, nodes))
            nodes += 1
            if len(opened) > MOST_LEVELS:
                raise TreeError(f"line {line}: is nested deeper than {MOST_LEVELS} levels")
        elif isinstance(event, yaml.CollectionEndEvent):
            anchor, before = opened.pop()
            if anchor:
                sizes[anchor] = nodes - before
        elif isinstance(event, yaml.ScalarEvent):
            nodes += 1
            if event.anchor:
                sizes[event.anchor] = 1
        elif isinstance(event, yaml.DocumentStartEvent):
            sizes = {}
        if nodes > MOST_NODES:
            raise TreeError(f"has more than {MOST_NODES:,} values, with those that it repeats by reference")


def selects(selector: Mapping[str, Any], labels: Mapping[str, str]) -> bool:
    """Tell whether a label selector fits; an empty one fits everything."""
    if any(labels.get(key) != value for key, value in mapping(selector.get("matchLabels")).items()):
        return False
    return all(_fits(expression, labels) for expression in selector.get("matchExpressions") or ())


def _fits(expression: Mapping[str, Any], labels: Mapping[str, str]) -> bool:
    value, values = labels.get(str(expression.get("key"))), expression.get("values") or ()
    match expression.get("operator"):
        case "In":
            return value in values
        case "NotIn":
            return value not in values
        case "Exists":
            return value is not None
        case _:
            return value is None


def mapping(value: Any) -> dict[str, Any]:
    """Return a mapping, or an empty one for what is none: the schemas report that."""
    return value if isinstance(value, dict) else {}


def sequence(value: Any) -> list[Any]:
    """Return a list, or an empty one for what is none."""
    return value if isinstance(value, list) else []


def named_items(field: str, items: Any) -> list[tuple[str, Json]]:
    """Return the objects of a list, each with its field, such as ``spec.volumes[data]``."""
    found = [item for item in sequence(items) if isinstance(item, dict)]
    return [(f"{field}[{item.get('name', number)}]", item) for number, item in enumerate(found)]


def _pods(manifest: Manifest, tree: Tree) -> Iterator[PodTemplate]:
    spec = manifest.spec
    if manifest.kind in WORKLOADS:
        yield PodTemplate(manifest, "spec.template", mapping(spec.get("template")), _replicas(manifest, tree))
    elif manifest.kind == "CronJob":
        template = mapping(mapping(mapping(spec.get("jobTemplate")).get("spec")).get("template"))
        yield PodTemplate(manifest, "spec.jobTemplate.spec.template", template, 1)
    elif manifest.kind == "RayService":
        cluster = mapping(spec.get("rayClusterConfig"))
        head = mapping(mapping(cluster.get("headGroupSpec")).get("template"))
        yield PodTemplate(manifest, "spec.rayClusterConfig.headGroupSpec.template", head, 1, "head")
        for number, group in enumerate(sequence(cluster.get("workerGroupSpecs"))):
            name = str(mapping(group).get("groupName", number))
            field = f"spec.rayClusterConfig.workerGroupSpecs[{name}].template"
            replicas = mapping(group).get("replicas", 1)
            count = replicas if isinstance(replicas, int) else 1
            yield PodTemplate(manifest, field, mapping(mapping(group).get("template")), count, name)


def _replicas(manifest: Manifest, tree: Tree) -> int:
    """The number that is written, or the least of an autoscaler."""
    written = manifest.spec.get("replicas")
    if isinstance(written, int):
        return written
    for scaler in tree.of("HorizontalPodAutoscaler"):
        target = mapping(scaler.spec.get("scaleTargetRef"))
        if (target.get("kind"), target.get("name")) == (manifest.kind, manifest.name):
            least = scaler.spec.get("minReplicas", 1)
            return least if isinstance(least, int) else 1
    return 1


class _StrictLoader(yaml.CSafeLoader):
    """Refuses a key that is there twice, as an API server does."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key_node, _ in node.value:
            if not isinstance(key_node, yaml.ScalarNode) or key_node.tag == MERGE:
                raise TreeError(f"line {key_node.start_mark.line + 1}: a key must be a text, and << is not taken")
            key = self.construct_object(key_node, deep=True)
            if key in seen:
                raise TreeError(f"line {key_node.start_mark.line + 1}: the key {key!r} is there twice")
            seen.add(key)
        return super().construct_mapping(node, deep)
