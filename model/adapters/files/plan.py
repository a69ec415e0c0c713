"""Match an adapter file's header with a network: which tensors change what, by which formula, how strongly.

Nothing but the header, the alphas and the tensors that may be zero is read. Needs no torch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Literal

from zoetrope.model.adapters.files.contents import is_zero
from zoetrope.model.adapters.files.grammar import AdapterKey, Side, parse_key
from zoetrope.model.adapters.files.scales import PeftScale, read_alpha, scales_of
from zoetrope.model.adapters.files.targets import IMAGE, Naming, Targets, namings_of
from zoetrope.model.inspection.files import ModelError
from zoetrope.model.inspection.safetensors_header import HeaderLimits, SafetensorsHeader, read_safetensors_header
from zoetrope.model.inspection.shown import shown

MAX_RANK = 256
ADAPTER_LIMITS = HeaderLimits(
    header_bytes=8 << 20,
    metadata_bytes=1 << 20,
    tensors=20_000,
    file_bytes=4 << 30,
    types=("F32", "F16", "BF16"),
)
PICKLES = (".pt", ".pth", ".bin", ".ckpt", ".pkl")
Scale = Callable[[int], float]  # of a rank
Kind = Literal["low_rank", "hadamard", "kronecker", "difference"]
_PAIR = ("a", "b")
_HADAMARD = ("hada_w1a", "hada_w1b", "hada_w2a", "hada_w2b")
_KRONECKER = ("lokr_w1", "lokr_w1a", "lokr_w1b", "lokr_w2", "lokr_w2a", "lokr_w2b")


@dataclass(frozen=True)
class PlannedPatch:
    """A change that an adapter's file holds, of which only the header has been read.

    Attributes:
        target: the tensor that it changes. keys: names in the file, by part: ``a`` and ``b``; ``w1a`` ... ``w2b``;
            ``w1`` or ``w1a`` and ``w1b``, and so for ``w2``; ``value``. side: the noise expert, if the file says.
    """

    kind: Kind
    target: str
    keys: Mapping[str, str]
    scale: float = 1.0
    side: Side = "any"


@dataclass(frozen=True)
class AdapterPlan:
    """What an adapter's file changes in a network. ``notes`` say what of it is ignored, and why."""

    header: SafetensorsHeader
    patches: tuple[PlannedPatch, ...]
    notes: tuple[str, ...] = ()

    @property
    def sides(self) -> frozenset[Side]:
        return frozenset(patch.side for patch in self.patches)


@dataclass
class _Group:
    """The tensors of a file that belong to one of its modules."""

    side: Side
    module: str
    underscored: bool
    parts: dict[str, AdapterKey] = field(default_factory=dict)


def plan_adapter(path: Path, targets: Targets) -> AdapterPlan:
    """Match a file's tensors with those of a network.

    Raises:
        ModelError: the file is damaged or no safetensors file, or a tensor is of an unknown kind, has no place in the
            network and is not zero, has another shape, or lacks its counterpart. The message names the tensor.
    """
    if path.suffix.lower() in PICKLES:
        raise ModelError(f"{path}: is a pickle, which can run code: convert it to .safetensors")
    if path.suffix.lower() != ".safetensors":
        raise ModelError(f"{path}: must be a .safetensors file, or a folder with adapter_config.json")
    header = read_safetensors_header(path, ADAPTER_LIMITS)
    groups = list(_grouped(header))
    namings = namings_of(group.module for group in groups)
    if len(namings) > 1:
        raise ModelError(f"{path}: names modules in two ways, of Wan's own code ({_named(groups, 'original')}) and of "
                         f"diffusers ({_named(groups, 'diffusers')})")  # fmt: skip
    naming = namings[0] if namings else _likeliest(groups, targets)
    _check_alphas(path, groups)
    scales = scales_of(header)
    matched = _Matched(header, targets)
    for group in groups:
        matched.add(
            group, targets.place(group.module, naming, group.underscored), partial(_scale, header, scales, group)
        )
    if not matched.patches:
        why = "; ".join(matched.notes()) or "it holds no tensors"
        raise ModelError(f"{path}: changes nothing in this model: {why}")
    return AdapterPlan(header, tuple(matched.patches), tuple(matched.notes()))


def _grouped(header: SafetensorsHeader) -> Iterable[_Group]:
    groups: dict[tuple[Side, str, bool], _Group] = {}
    keys = [parse_key(header.path, name) for name in header.tensors]
    named = {key.side for key in keys} - {"any"}
    for key in keys:
        side = key.side
        if named and side == "any":
            if "low" not in named or not key.key.startswith("transformer."):
                raise ModelError(
                    f"{header.path}: {shown(key.key)} does not say for which noise expert it is, other tensors do"
                )
            side = "high"  # of a file with transformer_2, diffusers' other prefix
        group = groups.setdefault((side, key.module, key.underscored), _Group(side, key.module, key.underscored))
        if (other := group.parts.get(key.part)) is not None:
            raise ModelError(f"{header.path}: {shown(other.key)} and {shown(key.key)} are the same part of a module")
        group.parts[key.part] = key
    return groups.values()


def _named(groups: Iterable[_Group], naming: Naming) -> str:
    return shown(next(group.module for group in groups if namings_of([group.module]) == [naming]))


def _likeliest(groups: list[_Group], targets: Targets) -> Naming:
    """Choose the way of naming that gives most modules of a file without attention layers a place."""
    namings: tuple[Naming, ...] = ("original", "diffusers")

    def placed(naming: Naming) -> int:
        return sum(targets.place(group.module, naming, group.underscored) is not None for group in groups)

    return max(namings, key=placed)


def _check_alphas(path: Path, groups: list[_Group]) -> None:
    """Refuse a file in which only some of the products have an alpha: the others would act far too strongly."""
    scaled = [group for group in groups if {"a", "hada_w1a"} & group.parts.keys() or _factored(group)]
    without = [group for group in scaled if "alpha" not in group.parts]
    if without and len(without) < len(scaled):
        key = next(iter(without[0].parts.values())).key
        raise ModelError(f"{path}: {shown(key)} has no alpha, other modules have one: the file is incomplete")


def _factored(group: _Group) -> bool:
    return bool({"lokr_w1a", "lokr_w2a"} & group.parts.keys())


def _scale(header: SafetensorsHeader, scales: Mapping[str, PeftScale], group: _Group, rank: int) -> float:
    """Return the scale of a module's product of so many ranks."""
    if (alpha := group.parts.get("alpha")) is not None:
        return read_alpha(header, alpha.key) / rank
    known = scales.get("transformer_2" if group.side == "low" and "transformer_2" in scales else "transformer")
    if known is not None:
        return known.of(group.module, rank)
    if (key := next(iter(group.parts.values()))).peft:
        raise ModelError(
            f"{header.path}: {shown(key.key)} is of PEFT's own format, whose scale is in adapter_config.json: give the "
            "folder that holds it"
        )
    return 1.0


class _Matched:
    """Collects the patches of a file, and what of it is ignored."""

    def __init__(self, header: SafetensorsHeader, targets: Targets) -> None:
        self._header = header
        self._targets = targets
        self._ignored: dict[str, list[str]] = {}
        self._seen: dict[tuple[Side, str, Kind], PlannedPatch] = {}
        self.patches: list[PlannedPatch] = []

    def notes(self) -> list[str]:
        """Say what is ignored: how many tensors, of which one is named, and why."""
        return [
            f"{len(keys)} tensors such as {shown(keys[0])} are ignored: {why}" for why, keys in self._ignored.items()
        ]

    def add(self, group: _Group, module: str | None, scale: Scale) -> None:
        """Add the changes of a file's module, which the network calls ``module``.

        Raises:
            ModelError: as `plan_adapter`.
        """
        parts = {part: key.key for part, key in group.parts.items()}
        if module is None:
            self._without_place(group, parts)
            return
        try:
            made = list(self._changes(group, parts, module, scale))
        except _Mismatch as error:
            if not self._zero(parts):
                raise ModelError(f"{self._header.path}: {error}") from None
            self._ignore("they are zero", parts)
            return
        for patch in made:
            other = self._seen.setdefault((patch.side, patch.target, patch.kind), patch)
            if other is not patch:
                one, two = (shown(next(iter(found.keys.values()))) for found in (other, patch))
                raise ModelError(f"{self._header.path}: {one} and {two} both change {patch.target}")
        self.patches += made

    def _without_place(self, group: _Group, parts: Mapping[str, str]) -> None:
        path, key, config = self._header.path, next(iter(parts.values())), self._targets.config
        if IMAGE.search(group.module) and config.image_dim is None:
            self._ignore("the model attends to no tokens of pictures", parts)
        elif self._zero(parts):
            self._ignore("they are zero", parts)
        elif "vace" in group.module and not config.vace_layers:
            raise ModelError(f"{path}: {shown(key)} is of VACE, which the model is not")
        elif "ffn" in group.module and config.moe is not None:
            raise ModelError(
                f"{path}: {shown(key)} changes a feed-forward layer that this model routes to experts, which have no "
                "such layer as their origin: adapters of attention alone can be applied"
            )
        else:
            raise ModelError(
                f"{path}: {shown(key)} has no place in the model, which has {config.num_layers} blocks: it is of "
                "another model"
            )

    def _ignore(self, why: str, parts: Mapping[str, str]) -> None:
        self._ignored.setdefault(why, []).extend(parts.values())

    def _zero(self, parts: Mapping[str, str]) -> bool:
        """Tell whether a module's changes are zero: a factor of each pair, and whole differences."""
        if not parts.keys() <= {"a", "b", "bias", "alpha", "diff", "diff_b", "diff_m"}:
            return False
        pairs = [name for name in ("a", "b") if name in parts]
        whole = [part for part in ("bias", "diff", "diff_b", "diff_m") if part in parts]
        product = len(pairs) == 2 and any(is_zero(self._header, parts[part]) for part in pairs)
        return (product or not pairs) and all(is_zero(self._header, parts[part]) for part in whole)

    def _changes(self, group: _Group, parts: dict[str, str], module: str, scale: Scale) -> Iterator[PlannedPatch]:
        weight = module if module in self._targets.shapes else f"{module}.weight"
        found = parts.keys()
        if found & set(_PAIR):
            rank = self._low_rank(parts, weight)
            factor = scale(rank)
            yield PlannedPatch("low_rank", weight, {part: parts[part] for part in _PAIR}, factor, group.side)
            if "bias" in found:
                yield self._whole(parts["bias"], f"{module}.bias", group.side, factor)
        elif "bias" in found:
            raise self._lacks(parts["bias"], "lora_A and lora_B")
        if found & set(_HADAMARD):
            rank = self._hadamard(parts, weight)
            keys = {part.removeprefix("hada_"): parts[part] for part in _HADAMARD}
            yield PlannedPatch("hadamard", weight, keys, scale(rank), group.side)
        if found & set(_KRONECKER):
            ranks = self._kronecker(parts, weight)
            keys = {part.removeprefix("lokr_"): parts[part] for part in _KRONECKER if part in parts}
            yield PlannedPatch("kronecker", weight, keys, scale(ranks) if ranks else 1.0, group.side)
        if "alpha" in found and not found & {*_PAIR, *_HADAMARD, *_KRONECKER}:
            raise self._lacks(parts["alpha"], "the tensors that it scales")
        for part, target in (("diff", weight), ("diff_b", f"{module}.bias"), ("diff_m", module)):
            if part in found:
                yield self._whole(parts[part], target, group.side)

    def _low_rank(self, parts: Mapping[str, str], target: str) -> int:
        """Check a pair; return its rank."""
        self._complete(parts, _PAIR)
        wanted = self._wanted(parts["a"], target)
        a, b = self._matrix(parts["a"]), self._matrix(parts["b"])
        if target == "patch_embedding.weight" and a[0] == b[1] and b[0] == wanted[0] and a[1] != wanted[1]:
            channels = self._targets.config.in_channels
            raise _Mismatch(
                f"{shown(parts['a'])} has shape {self._shape(parts['a'])}, the model takes {channels} channels: it is "
                "a control LoRA, which needs other inputs"
            )
        self._check_matrix(parts["a"], a, (b[1], wanted[1]), target)
        self._check_matrix(parts["b"], b, (wanted[0], a[0]), target)
        return self._rank(parts["a"], a[0])

    def _hadamard(self, parts: Mapping[str, str], target: str) -> int:
        self._complete(parts, _HADAMARD)
        out, given = self._wanted(parts["hada_w1a"], target)
        sizes = {part: self._matrix(parts[part]) for part in _HADAMARD}
        for n in "12":
            rank = sizes[f"hada_w{n}b"][0]
            self._check_matrix(parts[f"hada_w{n}a"], sizes[f"hada_w{n}a"], (out, rank), target)
            self._check_matrix(parts[f"hada_w{n}b"], sizes[f"hada_w{n}b"], (rank, given), target)
            self._rank(parts[f"hada_w{n}b"], rank)
        return sizes["hada_w1b"][0]

    def _kronecker(self, parts: Mapping[str, str], target: str) -> int:
        """Check both factors; return the rank of the first that is a product, 0 if neither is."""
        first = next(parts[part] for part in _KRONECKER if part in parts)
        out, given = self._wanted(first, target)
        ranks, sizes = [], []
        for factor in ("lokr_w1", "lokr_w2"):
            if factor in parts:
                if {f"{factor}a", f"{factor}b"} & parts.keys():
                    raise ModelError(f"{self._header.path}: {shown(parts[factor])} is there whole and in factors")
                sizes.append(self._matrix(parts[factor]))
                continue
            self._complete(parts, (f"{factor}a", f"{factor}b"))
            a, b = self._matrix(parts[f"{factor}a"]), self._matrix(parts[f"{factor}b"])
            self._check_matrix(parts[f"{factor}b"], b, (a[1], b[1]), target)
            ranks.append(self._rank(parts[f"{factor}b"], b[0]))
            sizes.append((a[0], b[1]))
        made = (sizes[0][0] * sizes[1][0], sizes[0][1] * sizes[1][1])
        if made != (out, given):
            raise _Mismatch(f"{shown(first)} and its other factors make {list(made)}, {self._expected(target)}")
        return ranks[0] if ranks else 0

    def _whole(self, key: str, target: str, side: Side, scale: float = 1.0) -> PlannedPatch:
        shape = self._targets.shapes.get(target)
        if shape is None:
            raise _Mismatch(f"{shown(key)} has no place in the model, which has no {target}")
        if self._header.tensors[key].shape != shape:
            raise _Mismatch(f"{shown(key)} has shape {self._shape(key)}, {self._expected(target)}")
        return PlannedPatch("difference", target, {"value": key}, scale, side)

    def _wanted(self, key: str, target: str) -> tuple[int, int]:
        """Return the shape of a weight as a matrix: outputs and inputs, of a convolution with its kernel."""
        shape = self._targets.shapes.get(target, ())
        if len(shape) < 2 or not target.endswith(".weight"):
            raise _Mismatch(f"{shown(key)} has no place in the model, whose {target} is no matrix")
        return shape[0], math.prod(shape[1:])

    def _matrix(self, key: str) -> tuple[int, int]:
        shape = self._header.tensors[key].shape
        if len(shape) < 2:
            raise _Mismatch(f"{shown(key)} has shape {list(shape)}, expected a matrix")
        return shape[0], math.prod(shape[1:])

    def _check_matrix(self, key: str, found: tuple[int, int], wanted: tuple[int, int], target: str) -> None:
        if found != wanted:
            raise _Mismatch(
                f"{shown(key)} has shape {self._shape(key)}, expected {list(wanted)}: {self._expected(target)}"
            )

    def _rank(self, key: str, rank: int) -> int:
        if not 1 <= rank <= MAX_RANK:
            raise ModelError(f"{self._header.path}: {shown(key)} is of rank {rank}, must be from 1 to {MAX_RANK}")
        return rank

    def _complete(self, parts: Mapping[str, str], wanted: tuple[str, ...]) -> None:
        if missing := [part for part in wanted if part not in parts]:
            there = next(key for part, key in parts.items() if part not in missing)
            names = ", ".join(f"lora_{part.upper()}" if part in _PAIR else part for part in missing)
            raise self._lacks(there, names)

    def _lacks(self, key: str, what: str) -> ModelError:
        return ModelError(f"{self._header.path}: {shown(key)} lacks its counterpart: {what} of that module is missing")

    def _shape(self, key: str) -> list[int]:
        return list(self._header.tensors[key].shape)

    def _expected(self, target: str) -> str:
        return f"the model's {target} is {list(self._targets.shapes[target])}"


class _Mismatch(Exception):
    """A tensor does not fit the network."""
