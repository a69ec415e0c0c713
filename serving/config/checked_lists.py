"""Checks of settings that are lists of texts: each raises ValueError, which says the form."""

from __future__ import annotations

import re
from collections.abc import Sequence
from urllib.parse import urlsplit

WEIGHTS = (0.001, 1e6)  # of tenants
ENGINES = re.compile(r"[1-9][0-9]{0,3}(x[1-9][0-9]{0,3})?")  # COUNT, or COUNTxRANKS
SHAPE = re.compile(r"([1-9][0-9]{1,4})x([1-9][0-9]{1,4})x([1-9][0-9]{0,4})")
LABEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]{0,252}=[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
MODEL_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/:-]{0,127}")


def check_names(names: tuple[str, ...]) -> tuple[str, ...]:
    """Check other names of models: NAME, or NAME=MODEL."""
    for name in names:
        if not MODEL_NAME.fullmatch(name.partition("=")[0]):
            raise ValueError(f"{name!r} must be up to 128 letters, digits and . _ / : -, such as acme/video-1")
    return names


def as_text(value: object) -> object:
    """Turn a whole number into text, as which engines are counted."""
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


def check_engines(groups: tuple[str, ...]) -> tuple[str, ...]:
    """Check groups of engines: COUNT, or COUNTxRANKS."""
    for text in groups:
        if not ENGINES.fullmatch(text):
            raise ValueError(f"{text!r} must be how many engines, such as 2, or how many of which size, such as 2x4")
    if not groups:
        raise ValueError("must be at least one engine")
    return groups


def check_models(models: tuple[str, ...]) -> tuple[str, ...]:
    """Check that a service has a model."""
    if not models:
        raise ValueError("must name at least one model")
    return models


def check_origins(origins: tuple[str, ...]) -> tuple[str, ...]:
    """Check origins of web pages."""
    for origin in origins:
        parts = urlsplit(origin)
        if origin != "*" and (parts.scheme not in ("http", "https") or origin != f"{parts.scheme}://{parts.netloc}"):
            raise ValueError(f"{origin!r} must be *, or a scheme and a host, such as https://app.example.com")
    return origins


def check_weights(weights: tuple[str, ...]) -> tuple[str, ...]:
    """Check the shares of tenants: TENANT=WEIGHT."""
    low, high = WEIGHTS
    seen: set[str] = set()
    for entry in weights:
        tenant, _, weight = entry.rpartition("=")
        try:
            usable = bool(tenant) and low <= float(weight) <= high
        except ValueError:
            usable = False
        if not usable:
            raise ValueError(f"{entry!r} must be a tenant and a weight from {low:g} to {high:,.0f}, such as acme=2")
        if tenant in seen:
            raise ValueError(f"{tenant!r} has more than one weight")
        seen.add(tenant)
    return weights


def check_shapes(shapes: tuple[str, ...]) -> tuple[str, ...]:
    """Check shapes of clips: WIDTHxHEIGHTxFRAMES."""
    for text in shapes:
        if not SHAPE.fullmatch(text):
            raise ValueError(f"{text!r} must be width, height and frames of a clip, such as 832x480x81")
    return shapes


def shape(text: str) -> tuple[int, int, int]:
    """Return width, height and frames of a checked shape."""
    width, height, frames = map(int, text.split("x"))
    return width, height, frames


def check_labels(labels: tuple[str, ...]) -> tuple[str, ...]:
    """Check labels of Ray's nodes: LABEL=VALUE."""
    for label in labels:
        if not LABEL.fullmatch(label):
            raise ValueError(f"{label!r} must be a label of Ray's nodes and its value, such as ray.io/node-group=h100")
    return labels


def label_map(labels: Sequence[str]) -> dict[str, str]:
    """Return such labels and their values."""
    return dict(one.split("=", 1) for one in labels)
