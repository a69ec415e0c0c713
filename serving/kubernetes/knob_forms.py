"""Forms of what a knob may be: whatever passes may stand in YAML, in a variable and in a command as it is."""

from __future__ import annotations

import ipaddress
import math
import re
from collections.abc import Mapping
from urllib.parse import parse_qs, urlsplit

from zoetrope.serving.kubernetes.pods import quantity

NAME = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
CLASS = re.compile(r"[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?")
MODEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
PATH = r"[a-z0-9]+(?:[._-]+[a-z0-9]+)*"  # a part of an image's name
IMAGE = re.compile(
    rf"(?:[A-Za-z0-9.-]+(?::[0-9]{{1,5}})?/)?{PATH}(?:/{PATH})*(?::[A-Za-z0-9_][A-Za-z0-9_.-]{{0,127}}|@sha256:[0-9a-f]{{64}})"
)
REPOSITORY = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}/[A-Za-z0-9][A-Za-z0-9._-]{0,95}")
LABEL = re.compile(r"[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?")
ADDRESS = re.compile(r"[!#-&(-;=?-_a-z~]+")  # printable, but for quotes, spaces and what shells and YAML take for more
STORES = ("s3",)


def check_namespace(value: str) -> str:
    if not NAME.fullmatch(value) or value.startswith("kube-"):
        raise ValueError(f"{value!r} must be up to 63 of a-z, 0-9 and -, and not begin with kube-")
    return value


def check_model(value: str) -> str:
    if not MODEL.fullmatch(value):
        raise ValueError(f"{value!r} must be the name of a preset or of a folder on the volume of weights")
    return value


def check_image(value: str) -> str:
    if not IMAGE.fullmatch(value) or value.endswith(":latest"):
        raise ValueError(f"{value!r} must be an image with a tag other than latest, or with a digest")
    return value


def check_quantity(value: str) -> str:
    """A number of bytes; "" where something else decides."""
    amount = quantity(value) if value else 1.0
    if amount is None or not 1 <= amount < math.inf:
        raise ValueError(f"{value!r} must be a quantity, such as 256Gi")
    return value


def check_networks(networks: tuple[str, ...]) -> tuple[str, ...]:
    for network in networks:
        try:
            ipaddress.ip_network(network)
        except ValueError:
            raise ValueError(f"{network!r} must be ADDRESS/BITS, such as 10.20.0.0/16") from None
    return networks


def check_class(value: str) -> str:
    if value and not CLASS.fullmatch(value):
        raise ValueError(f"{value!r} must be the name of a StorageClass")
    return value


def check_repository(value: str) -> str:
    if value and not REPOSITORY.fullmatch(value):
        raise ValueError(f"{value!r} must be ORG/NAME")
    return value


def check_labels(labels: Mapping[str, str]) -> Mapping[str, str]:
    for key, value in labels.items():
        prefix, _, name = key.rpartition("/")
        if not LABEL.fullmatch(name) or (prefix and not CLASS.fullmatch(prefix)) or key.startswith("/"):
            raise ValueError(f"{key!r} must be the key of a label, such as example.com/pool")
        if value and not LABEL.fullmatch(value):
            raise ValueError(f"{key}: {value!r} must be up to 63 letters, digits, -, _ and .")
    return labels


def check_url(value: str) -> str:
    if not _is_web(value) or urlsplit(value).query:
        raise ValueError(f"{value!r} must be http://HOST or https://HOST, with a port and a path if need be")
    return value


def check_store(value: str) -> str:
    parts = urlsplit(value) if ADDRESS.fullmatch(value) else urlsplit("")
    endpoints = parse_qs(parts.query).get("endpoint", [])
    if parts.scheme not in STORES or not CLASS.fullmatch(parts.netloc) or not all(map(_is_web, endpoints)):
        raise ValueError(f"{value!r} must be s3://BUCKET/PREFIX, or the same with ?endpoint=http://HOST:PORT")
    return value


def _is_web(text: str) -> bool:
    try:
        parts = urlsplit(text)
        return bool(
            ADDRESS.fullmatch(text)
            and parts.scheme in ("http", "https")
            and parts.hostname
            and parts.port != 0
            and "@" not in parts.netloc
        )
    except ValueError:  # a port that is none
        return False
