"""Read how strongly an adapter was trained to act: the alphas of its file, or PEFT's configuration. Needs no torch."""

from __future__ import annotations

import json
import math
import re
import struct
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from zoetrope.model.inspection.files import ModelError, read_json
from zoetrope.model.inspection.safetensors_header import SafetensorsHeader
from zoetrope.model.inspection.shown import shown

CONFIG_NAME = "adapter_config.json"
METADATA_KEY = "lora_adapter_metadata"  # of diffusers 0.35 and later
MAX_DEPTH = 8
MAX_PATTERN = 200
MAX_REPEATS = 4
_PATTERN = re.compile(r"\^?(?:[A-Za-z0-9_.]|\\[.d]\+?|\.\*|\||\[[A-Za-z0-9_-]+\])+\$?")
# Initialisations that also change the base model's weights, so that the adapter alone means nothing.
CHANGES_BASE = ("pissa", "olora", "loftq", "corda")


@dataclass(frozen=True)
class PeftScale:
    """PEFT's rule: ``alpha / r``, or ``alpha / sqrt(r)`` (rank-stabilised, 2312.03732), with an alpha for each pattern.

    Attributes:
        where: the file, and the key in it, to name in errors. patterns: ends of modules' names, or expressions for
            them, with their alphas.
    """

    where: str
    alpha: float
    stabilised: bool = False
    patterns: Mapping[str, float] = field(default_factory=dict)

    def of(self, module: str, rank: int) -> float:
        """Return the scale of a module with so many ranks."""
        alpha = next((value for pattern, value in self.patterns.items() if _matches(pattern, module)), self.alpha)
        return alpha / math.sqrt(rank) if self.stabilised else alpha / rank


def scales_of(header: SafetensorsHeader) -> dict[str, PeftScale]:
    """Read PEFT's configuration, by prefix ``transformer`` or ``transformer_2``, from the file's own metadata, or from
    the ``adapter_config.json`` beside an ``adapter_model.safetensors``; empty if there is neither.

    Raises:
        ModelError: it cannot be read, or asks for something unsupported.
    """
    beside = header.path.with_name(CONFIG_NAME)
    if header.path.stem == "adapter_model" and beside.exists():
        scale = _parsed(str(beside), read_json(beside))
        return {"transformer": scale, "transformer_2": scale}
    text = header.metadata.get(METADATA_KEY)
    if text is None:
        return {}
    where = f"{header.path}: {METADATA_KEY}"
    values = _json(where, text)
    found: dict[str, PeftScale] = {}
    if other := next((key for key in values if not key.startswith(("transformer.", "transformer_2."))), None):
        raise ModelError(f"{where}: {shown(other)} is of no transformer: its keys must begin with transformer.")
    for name in ("transformer", "transformer_2"):
        own = {key.removeprefix(f"{name}."): value for key, value in values.items() if key.startswith(f"{name}.")}
        if own:
            found[name] = _parsed(where, own)
    return found


def read_alpha(header: SafetensorsHeader, key: str) -> float:
    """Read a tensor of one number above 0.

    Raises:
        ModelError: it has another shape or value.
    """
    span = header.tensors[key]
    if span.shape not in ((), (1,)):
        raise ModelError(f"{header.path}: {shown(key)} has shape {list(span.shape)}, expected one number")
    data = bytes(header.read(key))
    data, code = (b"\0\0" + data, "<f") if span.dtype == "BF16" else (data, "<e" if span.dtype == "F16" else "<f")
    value = float(struct.unpack(code, data)[0])
    if not (math.isfinite(value) and value > 0):
        raise ModelError(f"{header.path}: {shown(key)} is {value}, must be a number above 0")
    return value


def _parsed(where: str, values: Mapping[str, Any]) -> PeftScale:
    kind = values.get("peft_type", "LORA")
    if kind != "LORA":
        raise ModelError(f"{where}: peft_type is {_short(kind)}, expected LORA")
    if values.get("use_dora"):
        raise ModelError(f"{where}: use_dora is set: DoRA also scales whole rows of the weights, which is not applied")
    if values.get("fan_in_fan_out"):
        raise ModelError(f"{where}: fan_in_fan_out is set: no layer of the model is stored the other way round")
    start = values.get("init_lora_weights")
    if isinstance(start, str) and start.lower().startswith(CHANGES_BASE):
        raise ModelError(
            f"{where}: init_lora_weights is {_short(start)}, which also changes the model's own weights: convert the "
            "adapter to an ordinary LoRA"
        )
    rank = values.get("r")
    alpha = _number(where, "lora_alpha", values.get("lora_alpha", rank))
    stabilised = values.get("use_rslora", False)
    if not isinstance(stabilised, bool):
        raise ModelError(f"{where}: use_rslora is {_short(stabilised)}, must be true or false")
    patterns = values.get("alpha_pattern") or {}
    if not isinstance(patterns, dict):
        raise ModelError(f"{where}: alpha_pattern is {_short(patterns)}, must be an object")
    for pattern in patterns:
        _check_pattern(where, pattern)
    alphas = {pattern: _number(where, f"alpha_pattern.{shown(pattern)}", value) for pattern, value in patterns.items()}
    return PeftScale(where, alpha, stabilised, alphas)


def _number(where: str, name: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not (0 < value <= sys.float_info.max):
        raise ModelError(f"{where}: {name} is {_short(value)}, must be a number above 0")
    return float(value)


def _check_pattern(where: str, pattern: str) -> None:
    """Refuse what is neither a name nor one of the few expressions that are made of names: others may take for ever."""
    if len(pattern) > MAX_PATTERN or len(re.findall(r"[*+]", pattern)) > MAX_REPEATS or not _PATTERN.fullmatch(pattern):
        raise ModelError(
            f"{where}: alpha_pattern has {shown(pattern)}, must be names of layers, in which \\. \\d \\d+ [ab] .* "
            "and | have their meaning"
        )


def _matches(pattern: str, module: str) -> bool:
    """Tell whether a pattern means a module, by PEFT's rule: it, or the end of it after a dot."""
    return re.match(rf"(.*\.)?(?:{pattern})$", module) is not None


def _json(where: str, text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        raise ModelError(f"{where}: cannot be read as JSON") from None
    if not isinstance(value, dict) or _depth(value) > MAX_DEPTH:
        raise ModelError(f"{where}: must be a JSON object, nested at most {MAX_DEPTH} deep")
    return value


def _depth(value: object, depth: int = 1) -> int:
    if depth > MAX_DEPTH:
        return depth
    items = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return max((_depth(item, depth + 1) for item in items), default=depth)


def _short(value: object) -> str:
    return shown(repr(value))
