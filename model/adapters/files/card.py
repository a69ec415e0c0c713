"""Check adapters against a model by their headers, and name them in its card. Needs no torch."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from zoetrope.model.adapters.files.contents import check_contents
from zoetrope.model.adapters.files.grammar import Side
from zoetrope.model.adapters.files.options import WEIGHTS_NAME, AdapterOption, parse_options
from zoetrope.model.adapters.files.plan import AdapterPlan, plan_adapter
from zoetrope.model.adapters.files.targets import Targets, sliced
from zoetrope.model.families.config import TransformerConfig
from zoetrope.model.inspection.files import ModelError
from zoetrope.model.inspection.shown import shown
from zoetrope.model.request.fused_adapter import FusedAdapter, NoiseExpert

SHORT = 12  # hexadecimal digits of a digest that are shown
# In names of styles "high" and "low" mean other things, as in low-poly: they count before "noise", in capitals, and at
# the end but for a version, a rank or a form.
_WORD = re.compile(r"(?<![A-Za-z])(?:high|low)(?![A-Za-z])", re.IGNORECASE)
_TAIL = r"(?:[ _.-](?:v?[0-9]+[a-z]?|r(?:ank)?[0-9]+|e(?:poch)?[0-9]+|fp8|(?:bf|fp)16|lora))*$"
_HIGH_LOW = re.compile(
    r"(?P<noise>(?i:high|low))[ _-]?(?i:noise)|transformer_(?P<number>[12])"
    r"|(?<![A-Za-z])(?P<capitals>HIGH|LOW)(?![A-Za-z])"
    rf"|(?<![A-Za-z])(?i:(?P<word>high|low)(?={_TAIL}))"
)


@dataclass(frozen=True)
class CheckedAdapters:
    """Adapters that fit a model. ``warnings`` say what of them is ignored or only approximate."""

    adapters: tuple[FusedAdapter, ...]
    warnings: tuple[str, ...]


def check_adapters(texts: Sequence[str], config: TransformerConfig, networks: int) -> CheckedAdapters:
    """Check adapters, given as ``FILE[:strength][@high|low|both]``, against a model's networks.

    Args:
        config: of the networks. networks: 2 if the model has two noise experts.

    Raises:
        ModelError: a file is not what it must be, see `plan_adapter`, or nothing says for which noise expert it is. The
            message begins with ``lora: ``.
    """
    try:
        return _checked(texts, config, networks)
    except ModelError as error:
        raise ModelError(f"lora: {str(error).removeprefix('lora: ')}") from None


def _checked(texts: Sequence[str], config: TransformerConfig, networks: int) -> CheckedAdapters:
    options = parse_options(texts)
    if options and config.network != TransformerConfig.network:
        raise ModelError(f"lora: cannot be given for this model: its network is {config.network.rpartition(':')[2]}")
    targets, warnings = Targets(config), []
    adapters: list[FusedAdapter] = []
    for option in options:
        plan = plan_adapter(option.path, targets)
        expert = _expert(option, plan, networks)
        name = option.path.parent.name if option.path.name == WEIGHTS_NAME else option.path.stem
        digest = check_contents(plan.header)
        _check_other(option, digest, expert, adapters)
        adapters.append(FusedAdapter(shown(name), str(option.path.absolute()), digest, option.strength, expert))
        warnings += [f"{option.path}: {note}" for note in plan.notes]
    if adapters and config.moe is not None and sliced(config):
        warnings.append("lora: experts get the changes of the layer that they were cut from, those trained since too")
    return CheckedAdapters(tuple(adapters), tuple(warnings))


def acts_on(adapter: FusedAdapter, side: Side, network: Side) -> bool:
    """Tell whether a patch for ``side`` of an adapter is for a network: ``any`` if it is the model's only one."""
    return adapter.expert in (network, "both", "any") and side in (network, "any")


def _check_other(option: AdapterOption, digest: str, expert: NoiseExpert, others: Sequence[FusedAdapter]) -> None:
    """Raise ModelError if one of the others has the same contents and acts on the same network."""
    for other in others:
        if other.sha256 == digest and (other.expert == expert or "both" in (other.expert, expert)):
            raise ModelError(f"{option.path}: is given twice: {other.path} has the same contents")


def _expert(option: AdapterOption, plan: AdapterPlan, networks: int) -> NoiseExpert:
    """Decide which networks get an adapter: as the caller says, else the file, else its name."""
    path, sides = option.path, plan.sides - {"any"}
    if networks == 1:
        if option.side:
            raise ModelError(f"lora: @{option.side} after {path} is for models with two noise experts, this has one")
        if sides:
            raise ModelError(f"{path}: is for a model with two noise experts, this has one network")
        return "any"
    if sides:
        if option.side in ("high", "low") and option.side not in sides:
            raise ModelError(f"lora: @{option.side} after {path}, which changes only the other noise expert")
        return option.side or "both"
    if option.side:
        return option.side
    if (side := side_in_name(path)) is None:
        raise ModelError(
            f"{path}: nothing says for which noise expert it is: give {path.name}@high, @low or @both; one made for "
            "Wan2.1 may go on both"
        )
    return side


def side_in_name(path: Path) -> Literal["high", "low"] | None:
    """Return the noise expert that an adapter's name says; None if it says neither or both."""
    name = path.parent.name if path.name == WEIGHTS_NAME else path.stem
    said = {_side_of(match) for match in _HIGH_LOW.finditer(name)}
    both = len({word.lower() for word in _WORD.findall(name)}) == 2
    return said.pop() if len(said) == 1 and not both else None


def _side_of(match: re.Match[str]) -> Literal["high", "low"]:
    word = (match["word"] or match["capitals"] or match["noise"] or match["number"]).lower()
    return "high" if word in ("high", "1") else "low"
