"""Settings that are lists: given as comma-separated words, or as JSON."""

from __future__ import annotations

import json
from typing import Annotated

from pydantic import BeforeValidator
from pydantic_settings import NoDecode


def split_list(value: object) -> object:
    """Split the text of a variable into its items; other values stay as they are.

    Raises:
        ValueError: the text begins as JSON and is none, or holds something other than strings.
    """
    if not isinstance(value, str):
        return value
    text = value.strip()
    if not text.startswith("["):
        return tuple(word for part in text.split(",") if (word := part.strip()))
    try:
        items = json.loads(text)
    except ValueError:
        items = None
    if not isinstance(items, list) or not all(isinstance(item, str) for item in items):
        raise ValueError(f'{value!r} must be a comma-separated list, A,B, or a JSON list of strings, ["A", "B"]')
    return tuple(items)


# Without NoDecode, pydantic-settings would read the variable of such a setting as JSON alone.
CommaList = Annotated[tuple[str, ...], NoDecode, BeforeValidator(split_list)]
