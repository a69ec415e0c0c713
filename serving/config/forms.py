"""The form in which each setting is written, for documents, listings and errors."""

from __future__ import annotations

import os
from collections.abc import Iterator
from ipaddress import ip_network
from pathlib import Path
from typing import Any, Literal, get_args, get_origin
from urllib.parse import urlsplit

from pydantic.fields import FieldInfo

from zoetrope.model.inspection.files import ModelError, typed_path
from zoetrope.serving.config.addresses import AddressError, parse_address
from zoetrope.serving.config.engine_groups import bounds_of, engine_groups
from zoetrope.serving.config.settings import Settings

# Of settings that are text of a certain form; all others say it by their type.
TEXTS = {
    "model": "NAME, FOLDER, FILE or CARD,...",
    "family": "NAME",
    "lora": "FILE[:STRENGTH][@SIDE],...",
    "profile": "NAME",
    "vae": "FILE or FOLDER",
    "text_encoder": "FILE or FOLDER",
    "image_encoder": "FILE or FOLDER",
    "tokenizer": "FOLDER",
    "model_low": "FILE",
    "engines": "COUNT or COUNTxRANKS,...",
    "served_model_name": "NAME or NAME=MODEL,...",
    "allow_origins": "https://HOST,... or *",
    "database": "postgresql://USER:PASSWORD@HOST/DATABASE or sqlite:///PATH",
    "artifact_store": "s3://BUCKET/PREFIX or FOLDER",
    "snapshot_store": "s3://BUCKET/PREFIX or FOLDER",
    "tenant_weights": "TENANT=WEIGHT,...",
    "warmup_shapes": "WIDTHxHEIGHTxFRAMES,...",
    "engine_labels": "LABEL=VALUE,...",
    "stage_labels": "LABEL=VALUE,...",
    "router_labels": "LABEL=VALUE,...",
    "grpc": "HOST:PORT",
    "http": "HOST:PORT",
    "management": "HOST:PORT",
    "public_url": "http://HOST or https://HOST",
    "kernels": "OPERATION=NAME,...",
    "allow_networks": "ADDRESS/BITS,...",
    "prompt_check_url": "http://HOST or https://HOST",
    "prompt_expansion_url": "http://HOST or https://HOST",
    "output_check_url": "http://HOST or https://HOST",
}
WEB = ("http", "https")
SCHEMES = {  # of settings that are addresses
    "database": ("postgresql", "postgres", "sqlite"),
    "public_url": WEB,
    "prompt_check_url": WEB,
    "prompt_expansion_url": WEB,
    "output_check_url": WEB,
}
WITHOUT_HOST = ("postgresql", "postgres", "sqlite")  # a socket, or a file
NUMBERS = {int: "whole number", float: "number"}
BOUNDS = {"ge": "at least", "gt": "above", "le": "at most", "lt": "below"}


def form_of(name: str, field: FieldInfo) -> str:
    """Return the form of a setting's value, such as ``HOST:PORT`` or ``whole number, at least 1``."""
    if name in TEXTS:
        return TEXTS[name]
    kind: Any = field.annotation
    if get_origin(kind) is Literal:
        return " or ".join(get_args(kind))
    kinds = [part for part in (get_args(kind) or (kind,)) if part is not type(None)]
    if get_origin(kind) is tuple:
        return "A,B,..."
    if bool in kinds:
        return "true or false"
    if Path in kinds:
        return "PATH"
    for number, words in NUMBERS.items():
        if number in kinds:
            return ", ".join([words, *_bounds(field)])
    return "text"


def _bounds(field: FieldInfo) -> list[str]:
    bounds = [(words, getattr(item, name, None)) for item in field.metadata for name, words in BOUNDS.items()]
    return [f"{words} {bound:.15g}" for words, bound in bounds if bound is not None]


def shown(value: object) -> str:
    """Return a value in the form in which it is set; "" for one that is not set."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return ",".join(map(str, value))
    return f"{value:.15g}" if isinstance(value, float) else str(value)


def problems(settings: Settings) -> Iterator[tuple[str, str]]:
    """Yield the names of settings whose text is wrong, and what it must be. Looks at the text alone, reads no file."""
    for name in ("grpc", "http", "management"):
        try:
            if getattr(settings, name) or name != "management":
                parse_address(getattr(settings, name), name)
        except AddressError as error:
            yield name, str(error).removeprefix(f"{name}: ")
    for name, schemes in SCHEMES.items():
        text = getattr(settings, name)
        parts = urlsplit(text)
        if text and (parts.scheme not in schemes or not (parts.netloc or parts.scheme in WITHOUT_HOST)):
            quoted = f"{parts.scheme}://..." if "@" in text or "password" in text else text
            yield name, f"{quoted!r} must be {TEXTS[name]}"
    for name in ("data_dir", "models_dir", "artifact_store", "snapshot_store"):
        text = str(getattr(settings, name) or "")
        try:
            if text and "://" not in text:
                typed_path(text, name)
            if text.startswith("~") and os.path.expanduser(text) == text:
                yield name, f"{text[:80]!r} names the home of no user here"
        except ModelError as error:
            yield name, str(error).removeprefix(f"{name}: ")
    for group in engine_groups(settings):
        least, most = bounds_of(settings, group.count)
        if least > most:
            yield "min_engines", f"{least} must be at most {most}, the most engines that there may be"
            break
    for text in settings.allow_networks:
        try:
            ip_network(text)
        except ValueError as error:
            yield "allow_networks", f"{error}; it must be a list of networks, {TEXTS['allow_networks']}"
