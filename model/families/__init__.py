"""Register the families that are served, one line each: a new family adds its file and a line. Needs no torch."""

from __future__ import annotations

from zoetrope.model.families.bernini import BERNINI_R
from zoetrope.model.families.family import Family, Preset
from zoetrope.model.families.nano import NANO
from zoetrope.model.families.wan21_i2v import WAN21_I2V
from zoetrope.model.families.wan21_t2v import WAN21_T2V
from zoetrope.model.families.wan21_vace import WAN21_VACE
from zoetrope.model.families.wan22_a14b import WAN22_I2V, WAN22_T2V
from zoetrope.model.families.wan22_ti2v import WAN22_TI2V
from zoetrope.model.families.wan27 import WAN27, WAN27_WIDE

FAMILIES: list[Family] = []
PRESETS: dict[str, Preset] = {}  # whose weights are in a folder of the user's
BUNDLED: dict[str, Preset] = {}  # whose weights come with the package


def register(family: Family) -> None:
    """Add a family to those that are served.

    Raises:
        ValueError: a preset of that name is already registered.
    """
    known = all_presets()
    for preset in family.presets:
        if preset.name in known:
            raise ValueError(f"preset {preset.name!r} of {family.name} is already registered")
    FAMILIES.append(family)
    for preset in family.presets:
        (PRESETS if preset.directory is None else BUNDLED)[preset.name] = preset


def all_presets() -> dict[str, Preset]:
    """Return every preset by name."""
    return {**PRESETS, **BUNDLED}


def family_of(preset: str) -> Family:
    """Return the family of a preset, given by name: `ModelCard.family` is such a name.

    Raises:
        ValueError: no family has a preset of that name.
    """
    for family in FAMILIES:
        if any(own.name == preset for own in family.presets):
            return family
    raise ValueError(f"no family has a preset {preset!r}")


register(WAN27)
register(WAN27_WIDE)
register(WAN22_T2V)
register(WAN22_I2V)
register(BERNINI_R)
register(WAN22_TI2V)
register(WAN21_T2V)
register(WAN21_I2V)
register(WAN21_VACE)
register(NANO)
