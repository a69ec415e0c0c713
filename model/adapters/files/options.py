"""Parse ``FILE[:strength][@high|low|both]``, as ``--lora`` takes it. Needs no torch."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from zoetrope.model.adapters.files.scales import CONFIG_NAME
from zoetrope.model.inspection.files import ModelError, typed_path
from zoetrope.model.inspection.shown import shown

MAX_ADAPTERS = 8
MAX_STRENGTH = 4.0
WEIGHTS_NAME = "adapter_model.safetensors"  # in a folder of PEFT's
GivenSide = Literal["", "high", "low", "both"]
SIDES: tuple[GivenSide, ...] = ("high", "low", "both")


@dataclass(frozen=True)
class AdapterOption:
    """An adapter to fuse. ``side``: the noise experts that get it; "": as its name says."""

    path: Path
    strength: float = 1.0
    side: GivenSide = ""


def parse_options(texts: Sequence[str]) -> list[AdapterOption]:
    """Parse all adapters of a model.

    Raises:
        ModelError: there are too many, a strength or a noise expert is not one, or a file is named twice for the same
            noise expert.
    """
    if len(texts) > MAX_ADAPTERS:
        raise ModelError(f"lora: {len(texts)} files are given, at most {MAX_ADAPTERS} can be fused")
    options = [parse_option(text) for text in texts]
    seen: set[tuple[str, str]] = set()
    for option in options:
        for side in ("high", "low") if option.side in ("", "both") else (option.side,):
            if (os.path.realpath(option.path), side) in seen:
                raise ModelError(f"lora: {option.path} is given twice")
            seen.add((os.path.realpath(option.path), side))
    return options


def parse_option(text: str) -> AdapterOption:
    """Parse one. A file's own name may hold colons and at signs: the longest beginning that exists is the file.

    Raises:
        ModelError: the strength is not a number from -4 to 4, or the noise expert is not one. That the file exists is
            not checked.
    """
    ends = [len(text), *(match.start() for match in reversed(list(re.finditer("[:@]", text))))]
    end = next((end for end in ends if end and os.path.exists(os.path.expanduser(text[:end]))), None)
    if end is None:
        found = re.fullmatch(r"(.+?)(:[^:@/]*)?(@[^:@/]*)?", text, re.DOTALL)
        end = len(found[1]) if found is not None else len(text)
    if not text[:end].strip():
        raise ModelError(f"lora: {shown(text)!r} names no file, give FILE[:STRENGTH][@high|low|both]")
    path, rest = typed_path(text[:end], "lora"), text[end:]
    rest, at, side = rest.partition("@")
    if at and side not in SIDES:
        raise ModelError(f"lora: {shown(side)!r} after {path} must be {', '.join(SIDES[:-1])} or {SIDES[-1]}")
    strength = _strength(path, rest.removeprefix(":")) if rest else 1.0
    if path.is_dir():
        if not (path / CONFIG_NAME).is_file():
            raise ModelError(f"lora: {path} is a folder without {CONFIG_NAME}: give the file")
        path = path / WEIGHTS_NAME
    return AdapterOption(path, strength, next((known for known in SIDES if side == known), ""))


def _strength(path: Path, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not -MAX_STRENGTH <= value <= MAX_STRENGTH:
        limits = f"a number from {-MAX_STRENGTH:g} to {MAX_STRENGTH:g}"
        raise ModelError(f"lora: strength {shown(text)!r} of {path} must be {limits}")
    return value
