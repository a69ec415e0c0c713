"""Export model cards, for gateways on machines without the model's files. Needs no torch.

An exported card is a JSON file with all that a gateway reads from the files of a model, the identity of its weights,
and a SHA-256 of all that, for its values are not checked again. Its name ends with `EXPORTED_SUFFIX`.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from functools import cache
from typing import Any

from pydantic import TypeAdapter

from zoetrope.model.catalog.weights_identity import weights_of
from zoetrope.model.inspection.files import ModelError, typed_path
from zoetrope.model.request.load_options import LoadOptions
from zoetrope.model.request.tasks import ModelCard

EXPORTED_SUFFIX = ".card.json"
FORMAT = 1
MAX_BYTES = 4 << 20


def exported_text(card: ModelCard) -> str:
    """Return what an exported card's file holds.

    Raises:
        ModelError: a file of the model is missing, so that its weights have no identity.
    """
    said = replace(card, exported_weights=weights_of(card))
    held = _adapter().dump_python(said, mode="json")
    return json.dumps({"format": FORMAT, "sha256": _digest(held), "card": held}, indent=1) + "\n"


def read_exported(name: str, load: LoadOptions) -> ModelCard:
    """Read an exported card.

    Args:
        load: how the model is loaded, as the settings say it; the card must not say otherwise.

    Raises:
        ModelError: the file cannot be read, is of another release, or says otherwise.
    """
    path = typed_path(name, "model")
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ModelError(f"{path}: cannot be read: {error.strerror}") from None
    if len(data) > MAX_BYTES:
        raise ModelError(f"{path}: has {len(data)} bytes, an exported card has at most {MAX_BYTES}")
    try:
        held: Any = json.loads(data)
        whole = held["format"] == FORMAT and held["sha256"] == _digest(held["card"])
        card = _adapter().validate_python(held["card"]) if whole else None
    except (ValueError, KeyError, TypeError, RecursionError):  # pydantic's ValidationError is a ValueError
        card = None
    # A key that this release does not know, or misses, would be lost or made up.
    if card is None or not card.exported_weights or _adapter().dump_python(card, mode="json") != held["card"]:
        raise ModelError(f"{path}: is not a card that this release exported: run `zoetrope models export` again")
    for option in load.given:
        given, has = getattr(load, option), getattr(card.load, option)
        if given != has:
            raise ModelError(f"{option.replace('_', '-')}: {given!r}, but {path} was exported with {has!r}")
    return card


def _digest(held: Any) -> str:
    return hashlib.sha256(json.dumps(held, sort_keys=True).encode()).hexdigest()


@cache
def _adapter() -> TypeAdapter[ModelCard]:
    return TypeAdapter(ModelCard)
