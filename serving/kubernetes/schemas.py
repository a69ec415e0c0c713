"""Checks objects strictly against the schemas of Kubernetes and of custom resources.

Kubernetes' own are those of the package kubernetes-validate, those of custom resources lie in `zoetrope.k8s`. Both
refuse unknown fields. So does a kind that has no schema: what nobody can check, nobody should apply.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from functools import cache
from importlib import resources
from typing import Any

import jsonschema

from zoetrope.serving.kubernetes.objects import CLUSTER_WIDE, Fault, Json, Tree, mapping

VERSION = "1.37"  # of Kubernetes
CUSTOM = {  # apiVersion, kind -> file in k8s/schemas
    ("ray.io/v1", "RayService"): "rayservice.ray.io_v1.json",
    ("monitoring.coreos.com/v1", "PodMonitor"): "podmonitor.monitoring.coreos.com_v1.json",
    ("monitoring.coreos.com/v1", "PrometheusRule"): "prometheusrule.monitoring.coreos.com_v1.json",
    ("keda.sh/v1alpha1", "ScaledObject"): "scaledobject.keda.sh_v1alpha1.json",
}
NAME = re.compile(r"[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?")
KIND, API_VERSION = re.compile(r"[A-Z][A-Za-z]{0,62}"), re.compile(r"([a-z0-9][a-z0-9.-]{0,252}/)?v[0-9][a-z0-9]{0,30}")
META = ("name", "namespace", "labels", "annotations")
MESSAGE_CHARS = 200


def schema_findings(tree: Tree) -> Iterator[Fault]:
    """Yield what an API server with strict validation would refuse in an object by itself."""
    seen = set()
    for manifest in tree.manifests:
        if (key := (manifest.kind, str(manifest.metadata.get("namespace")), manifest.name)) in seen:
            yield manifest.finding("metadata.name", "is the name of another object of that kind")
        seen.add(key)
        if not NAME.fullmatch(manifest.name):
            yield manifest.finding("metadata.name", f"{manifest.name!r} is not a name of Kubernetes: a-z, 0-9, - and .")
        if manifest.kind not in CLUSTER_WIDE and not manifest.metadata.get("namespace"):
            yield manifest.finding("metadata.namespace", "is missing: it would land in whichever one is current")
        for field, message in _validated(json.dumps(manifest.data, sort_keys=True, default=str)):
            yield manifest.finding(field, message)


@cache
def _validated(text: str) -> tuple[tuple[str, str], ...]:
    """Return (field, message) of what the object's schema refuses. Kept, because the same objects come again."""
    data: Json = json.loads(text)
    wrong = [
        (field, "is missing" if field not in data else f"{str(data[field])[:MESSAGE_CHARS]!r} is none of Kubernetes")
        for field, form in (("kind", KIND), ("apiVersion", API_VERSION))
        if not isinstance(data.get(field), str) or not form.fullmatch(data[field])
    ]
    wrong += [(field, "is null: leave it out") for field in _nulls(data, "") if field != "metadata.creationTimestamp"]
    if wrong:
        return tuple(wrong)
    file = CUSTOM.get((data["apiVersion"], data["kind"]))
    found = _custom(file, data) if file is not None else _builtin(data, data["kind"], data["apiVersion"])
    return tuple(found)


def _nulls(value: Any, field: str) -> Iterator[str]:
    if value is None:
        yield field
    elif isinstance(value, dict):
        for name, part in value.items():
            yield from _nulls(part, f"{field}.{name}".lstrip("."))
    elif isinstance(value, list):
        for number, part in enumerate(value):
            yield from _nulls(part, f"{field}[{number}]")


def _builtin(data: Json, kind: str, version: str) -> Iterator[tuple[str, str]]:
    import kubernetes_validate

    try:
        kubernetes_validate.validate(data, VERSION, strict=True)
    except kubernetes_validate.SchemaNotFoundError:
        known = ", ".join(sorted({kind for _, kind in CUSTOM}))
        yield (
            "kind",
            f"{kind} of {version} has no schema here, so it cannot be checked; known are those of Kubernetes {VERSION} "
            f"and {known}",
        )
    except kubernetes_validate.ValidationError as error:
        yield _place(error, data), _said(error)


def _custom(file: str, data: Json) -> Iterator[tuple[str, str]]:
    for name in mapping(data.get("metadata")):
        if name not in META:
            yield f"metadata.{name}", f"is unknown; it may have {', '.join(META)}"
    schema, validator = _schema(file)
    for error in validator.iter_errors(data):
        yield _place(error, data), _said(error)
    yield from _rules(schema, data, "")


@cache
def _schema(file: str) -> tuple[Json, jsonschema.Draft202012Validator]:
    schema: Json = json.loads((resources.files("zoetrope.k8s") / "schemas" / file).read_text())
    strict = _strict(schema)
    strict["properties"] = {**strict["properties"], "metadata": {"type": "object"}}
    return schema, jsonschema.Draft202012Validator(strict)


def _strict(schema: Any) -> Any:
    """Return a structural schema as one that refuses unknown fields and null."""
    if not isinstance(schema, dict):
        return schema
    found = dict(schema)
    if found.get("x-kubernetes-int-or-string"):
        found.pop("type", None)
        found["anyOf"] = [{"type": "integer"}, {"type": "string"}]
    if "properties" in found:
        found["properties"] = {name: _strict(part) for name, part in found["properties"].items()}
        open_ended = "additionalProperties" in found or found.get("x-kubernetes-preserve-unknown-fields")
        if not open_ended:
            found["additionalProperties"] = False
    for name in ("items", "additionalProperties"):
        found |= {name: _strict(found[name])} if name in found else {}
    return found


def _place(error: Any, data: Json) -> str:
    """Name the field of an error; lists whose items have names by those, and the key that is unknown."""
    here: Any = data
    parts: list[str] = []
    for step in error.absolute_path:
        here = here[step] if not isinstance(here, dict) or step in here else None
        if isinstance(step, int):
            name = (
                next((here[key] for key in ("name", "groupName") if key in here), step)
                if isinstance(here, dict)
                else step
            )
            parts[-1:] = [f"{parts[-1]}[{name}]"]
        else:
            parts.append(str(step))
    if error.validator == "additionalProperties" and isinstance(here, dict):
        known = error.schema.get("properties", {})
        parts += [",".join(sorted(key for key in here if key not in known))]
    elif error.validator == "required" and isinstance(here, dict):
        parts += [",".join(name for name in error.validator_value if name not in here)]
    return ".".join(parts) or "(the whole object)"


def _said(error: Any) -> str:
    if error.validator == "additionalProperties":
        return f"is unknown; it may have {', '.join(sorted(error.schema.get('properties', {})))}"[:MESSAGE_CHARS]
    if error.validator == "required":
        return "is missing"
    return str(error.message)[:MESSAGE_CHARS]


def _rules(schema: Mapping[str, Any], value: Any, field: str) -> Iterator[tuple[str, str]]:
    """Evaluate the CEL rules of a schema, except those that compare with an older state."""
    for rule in schema.get("x-kubernetes-validations", ()):
        if "oldSelf" not in rule["rule"] and not _holds(rule["rule"], value):
            yield field, str(rule["message"])
    if isinstance(value, dict):
        free = schema.get("additionalProperties")
        for name, part in value.items():
            below = schema.get("properties", {}).get(name) or (free if isinstance(free, dict) else None)
            if below and name != "metadata":
                yield from _rules(below, part, f"{field}.{name}".lstrip("."))
    elif isinstance(value, list) and isinstance(schema.get("items"), dict):
        for number, part in enumerate(value):
            yield from _rules(schema["items"], part, f"{field}[{number}]")


def _holds(rule: str, value: Any) -> bool:
    import celpy
    from celpy.adapter import json_to_cel

    environment = celpy.Environment()
    return bool(environment.program(environment.compile(rule)).evaluate({"self": json_to_cel(value)}))
