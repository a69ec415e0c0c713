"""Lists of ratios, from which `model.caching.mask` chooses the steps to compute: published, or measured on a model.

Published lists (``data/magcache.json``) are of Wan's own checkpoints. Those that ``zoetrope calibrate`` measures lie in
the model's folder (`RATIOS_FILE`), with a digest of the weights they belong to.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

from zoetrope.model.inspection.files import ModelError, read_json
from zoetrope.model.inspection.hashes import hashes_of

RATIOS_FILE = "step_ratios.json"
FORMAT = 1
MAX_LISTS, MAX_RATIOS = 1_000, 1_000
PUBLISHED = Path(__file__).parent / "data" / "magcache.json"
_TEXT, _IMAGE = "text_to_video", "image_to_video"
_ALL = (_TEXT, _IMAGE, "first_last_frame", "grid_to_video", "reference_to_video", "edit_video")
# Preset -> kind of task -> name of the published list. VACE's was measured over its tasks together.
_LISTS: Mapping[str, Mapping[str, str]] = {
    "wan2.1-t2v-14b": {_TEXT: "wan2.1-t2v-14b"},
    "wan2.1-t2v-1.3b": {_TEXT: "wan2.1-t2v-1.3b"},
    "wan2.1-i2v-14b-480p": {_IMAGE: "wan2.1-i2v-14b-480p"},
    "wan2.1-i2v-14b-720p": {_IMAGE: "wan2.1-i2v-14b-720p"},
    "wan2.1-vace-1.3b": dict.fromkeys(_ALL, "wan2.1-vace-1.3b"),
    "wan2.2-t2v-a14b": {_TEXT: "wan2.2-t2v-a14b"},
    "wan2.2-i2v-a14b": {_IMAGE: "wan2.2-i2v-a14b"},
    "wan2.2-ti2v-5b": {_TEXT: "wan2.2-ti2v-5b-t2v", _IMAGE: "wan2.2-ti2v-5b-i2v"},
}


@dataclass(frozen=True)
class RatioList:
    """Ratios for one kind of task.

    Attributes:
        values: one list, or one for each guidance branch; the first entry of a list is padding.
        steps: of the schedule that it was measured on. sampler: its scheduler's class; "" where that is not known, as
            the flow shift and the guidance.
        clips: over how many clips it is a mean; 0: not known.
    """

    kind: str
    values: tuple[tuple[float, ...], ...]
    steps: int
    sampler: str = ""
    flow_shift: float | None = None
    guidance: float | None = None
    clips: int = 0


def published_lists(preset: str) -> tuple[RatioList, ...]:
    """Return the published lists of a preset; none for most. For residuals, of both guidance branches."""
    lists = _published()
    named = _LISTS.get(preset, {}).items()
    return tuple(RatioList(kind, lists[name], len(lists[name][0])) for kind, name in named)


@cache
def _published() -> dict[str, tuple[tuple[float, ...], ...]]:
    found = json.loads(PUBLISHED.read_text())["lists"]
    return {name: tuple(tuple(values) for values in branches) for name, branches in found.items()}


def ratios_file(place: Path) -> Path:
    """Return where the measured lists of a model are: in its folder, or beside the file of its transformer, whose name
    they share."""
    return place.with_name(f"{place.stem}.{RATIOS_FILE}") if place.is_file() else place / RATIOS_FILE


def lists_of(place: Path, preset: str) -> tuple[RatioList, ...]:
    """Return the lists of a model: those measured on it if it has any, else the published ones of its preset.

    Args:
        place: its folder, or the file of its transformer.

    Raises:
        ModelError: the file of the measured ones is malformed.
    """
    path = ratios_file(place)
    return _measured(path)[1] if path.exists() else published_lists(preset)


def best_list(lists: Iterable[RatioList], kind: str, steps: int) -> RatioList | None:
    """Return the list of a kind of task whose schedule is nearest in length; None if there is none."""
    return min((one for one in lists if one.kind == kind), key=lambda one: abs(one.steps - steps), default=None)


def check_digest(place: Path, files: Iterable[Path]) -> None:
    """Check that measured lists, if there are any, belong to these weights.

    Raises:
        ModelError: they were measured on others, or are malformed.
    """
    path = ratios_file(place)
    if not path.exists():
        return
    found, expected = _measured(path)[0], weights_digest(files)
    if found != expected:
        raise ModelError(
            f"{path}: weights is {found[:16]}..., the model's are {expected[:16]}...: it was measured on others; run "
            f"zoetrope calibrate {place} again, or delete it"
        )


def write_lists(place: Path, lists: Iterable[RatioList], files: Iterable[Path], command: str) -> Path:
    """Write measured lists beside a model; they replace those of the same task, sampler and number of steps.

    Args:
        files: the model's weights. command: that measured them.

    Raises:
        ModelError: the folder cannot be written.
    """
    path, digest = ratios_file(place), weights_digest(files)
    kept: dict[tuple[str, str, int], RatioList] = {}
    if path.exists():
        try:
            before, old = _measured(path)
        except ModelError:
            before, old = "", ()
        kept = {(one.kind, one.sampler, one.steps): one for one in old} if before == digest else {}
    kept |= {(one.kind, one.sampler, one.steps): one for one in lists}
    rows = ",\n".join(f"    {json.dumps(asdict(one))}" for one in kept.values())
    head = f'  "format": {FORMAT},\n  "weights": "{digest}",\n  "command": {json.dumps(command)},\n'
    scratch = path.with_suffix(".tmp")
    try:
        scratch.write_text(f'{{\n{head}  "lists": [\n{rows}\n  ]\n}}\n')
        scratch.replace(path)
    except OSError as error:
        raise ModelError(f"{path}: cannot be written: {error.strerror}") from None
    return path


def weights_digest(files: Iterable[Path]) -> str:
    """Hash the files of a model's transformers (SHA-256), whole; see `model.inspection.hashes`.

    Raises:
        ModelError: a file cannot be read.
    """
    return hashlib.sha256("\n".join(hashes_of(list(files))).encode()).hexdigest()


def _measured(path: Path) -> tuple[str, tuple[RatioList, ...]]:
    """Read a `RATIOS_FILE`: the digest of the weights, and the lists."""
    value = read_json(path)
    if value.get("format") != FORMAT:
        raise ModelError(f"{path}: format is {value.get('format')!r}, expected {FORMAT}")
    digest, rows = value.get("weights"), value.get("lists")
    if not isinstance(digest, str) or not isinstance(rows, list) or len(rows) > MAX_LISTS:
        raise ModelError(f"{path}: must hold weights, a digest, and lists, at most {MAX_LISTS}")
    return digest, tuple(_list(row, f"{path}: lists[{i}]") for i, row in enumerate(rows))


def _list(row: Any, where: str) -> RatioList:
    names = RatioList.__dataclass_fields__.keys()
    if not isinstance(row, dict) or row.keys() != names:
        raise ModelError(f"{where}: must have the keys {', '.join(names)}")
    values = row["values"]
    if not (isinstance(values, list) and values and all(_is_list(one) for one in values)):
        raise ModelError(f"{where}.values: must be lists of 2 to {MAX_RATIOS} numbers above 0")
    for name, kind in (("kind", str), ("sampler", str), ("steps", int), ("clips", int)):
        if type(row[name]) is not kind:
            raise ModelError(
                f"{where}.{name}: is {row[name]!r}, expected a {'text' if kind is str else 'whole number'}"
            )
    for name in ("flow_shift", "guidance"):
        if row[name] is not None and type(row[name]) not in (int, float):
            raise ModelError(f"{where}.{name}: is {row[name]!r}, expected a number or null")
    return RatioList(**{**row, "values": tuple(tuple(map(float, one)) for one in values)})


def _is_list(values: Any) -> bool:
    return (
        isinstance(values, list)
        and 2 <= len(values) <= MAX_RATIOS
        and all(type(x) in (int, float) and math.isfinite(x) and x > 0 for x in values)
    )
