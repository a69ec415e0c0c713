"""List the profiles that come along, and choose one for a model: by name, or by what is certain of it. Needs no torch.

Noise levels are those that the makers of each distill sample with, written to six digits; tests derive them again.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

from zoetrope.model.families import BUNDLED
from zoetrope.model.families.family import Preset
from zoetrope.model.inspection.files import TOML_SUFFIX, ModelError, read_toml, typed_path
from zoetrope.model.request.profile import Profile, ProfileError
from zoetrope.model.request.tasks import ModelCard

NONE = "none"  # in place of a profile's name: the model's own schedule, whatever its name suggests

T2V = ("wan2.1-t2v-14b", "wan2.1-t2v-1.3b")
WAN21_14B = ("wan2.1-t2v-14b", "wan2.1-i2v-14b-480p", "wan2.1-i2v-14b-720p", "wan2.1-flf2v-14b", "wan2.1-vace-14b")
A14B = ("wan2.2-t2v-a14b", "wan2.2-i2v-a14b")

SHIFT_5_OF_4 = (1.0, 0.9375, 0.833333, 0.625)  # of 1, 3/4, 1/2, 1/4
SHIFT_16_OF_4 = (1.0, 0.979592, 0.941176, 0.842105)
SHIFT_5_OF_8 = (1.0, 0.972222, 0.9375, 0.892857, 0.833333, 0.75, 0.625, 0.416667)
SHIFT_3_OF_4 = (1.0, 0.9, 0.75, 0.5)
AFTER_FIRST = (0.933781, 0.852895, 0.608979)  # sin t / (sin t + cos t) for t = 1.5, 1.4, 1.0
RCM_FIRST, TURBO_FIRST = 0.987654, 0.995025  # the same for t = atan 80 and atan 200


def _rcm(steps: int) -> Profile:
    return Profile(
        f"rcm-{steps}",
        "renoise",
        (RCM_FIRST, *AFTER_FIRST)[:steps],
        init_scale=RCM_FIRST,
        precision="float64",
        note="rCM of Wan2.1 text to video; its .pth files must be converted first",
        fits=T2V,
    )


def _turbo(steps: int) -> Profile:
    return Profile(
        f"turbo-{steps}",
        "renoise",
        (TURBO_FIRST, *AFTER_FIRST)[:steps],
        init_scale=TURBO_FIRST,
        precision="float64",
        experts_at=2 if steps > 2 else None,
        note="TurboDiffusion of Wan2.2-I2V-A14B without its sparse-linear attention",
        fits=("wan2.2-i2v-a14b",),
    )


PROFILES: tuple[Profile, ...] = (
    Profile(
        "lightx2v-4",
        "euler",
        SHIFT_5_OF_4,
        shift=5.0,
        note="LightX2V's step and guidance distills of Wan2.1 14B, whole or as a LoRA at strength 1",
        fits=WAN21_14B,
    ),
    Profile(
        "lightx2v-4-a14b",
        "euler",
        SHIFT_5_OF_4,
        guidance=(1.0, 1.0),
        experts_at=2,
        shift=5.0,
        note="LightX2V's distills of Wan2.2-A14B, whole or as a pair of LoRAs",
        fits=A14B,
    ),
    Profile(
        "lightx2v-4-a14b-flf2v",
        "euler",
        SHIFT_16_OF_4,
        guidance=(1.0, 1.0),
        experts_at=2,
        shift=16.0,
        note="LightX2V's distill of Wan2.2-A14B for first and last frames",
        fits=("wan2.2-i2v-a14b",),
    ),
    Profile(
        "lightning-4",
        "euler",
        SHIFT_5_OF_4,
        guidance=(1.0, 1.0),
        experts_at=2,
        shift=5.0,
        note="Wan2.2-Lightning, a pair of LoRAs",
        fits=A14B,
    ),
    Profile(
        "lightx2v-8",
        "euler",
        SHIFT_5_OF_8,
        shift=5.0,
        note="the eight steps of LightX2V's distills",
        fits=(*WAN21_14B, *A14B),
    ),
    Profile(
        "fastwan-3",
        "renoise",
        (1.0, 0.756757, 0.521739),
        timesteps=(1000.0, 757.0, 522.0),
        note="FastWan with full attention",
        fits=(*T2V, "wan2.2-ti2v-5b"),
    ),
    Profile(
        "causvid-3",
        "renoise",
        (1.0, 0.757157, 0.521173),
        timesteps=(1000.0, 757.0, 522.0),
        note="CausVid's bidirectional generator, whole or as a LoRA",
        fits=(*T2V, "wan2.1-vace-14b", "wan2.1-vace-1.3b"),
    ),
    *(_rcm(steps) for steps in range(1, 5)),
    *(_turbo(steps) for steps in range(1, 5)),
    Profile("nano-4", "euler", SHIFT_3_OF_4, shift=3.0, note="nano's own distill", fits=("nano", "nano-4step")),
)
BUILT_IN: dict[str, Profile] = {profile.name: profile for profile in PROFILES}

# Names of folders, files or repositories that are certain. A profile's name, for models with two noise experts too.
_NAMES: tuple[tuple[re.Pattern[str], str, str | None], ...] = tuple(
    (re.compile(pattern, re.IGNORECASE), one, two)
    for pattern, one, two in (
        (r"lightx2v[_-]?4[_-]?steps?|stepdistill-cfgdistill", "lightx2v-4", "lightx2v-4-a14b"),
        (r"lightx2v[_-]?8[_-]?steps?", "lightx2v-8", "lightx2v-8"),
        (r"wan2\.2-lightning", "lightning-4", "lightning-4"),
        (r"fastwan2", "fastwan-3", None),
        (r"causvid.*bidirectional|bidirectional.*causvid", "causvid-3", None),
    )
)
_PIPELINES = {"WanDMDPipeline": "fastwan-3"}
# Distills that no profile can express, by words of their names.
_REFUSED: tuple[tuple[re.Pattern[str], str], ...] = tuple(
    (re.compile(pattern, re.IGNORECASE), why)
    for pattern, why in (
        (r"mean[_-]?flow", "MeanFlow distills need a second time input, which no network here has"),
        (
            r"long[_-]?live|self[_-]?forcing(?!.*14b)|causvid.*(causal|autoregressive)|(^|[^a-z])causal[_-]?wan"
            r"|wan_causal",
            "causal distills attend to a cache of earlier frames, which is not supported; bidirectional ones are",
        ),
        (
            r"(^|[^a-z])vsa([^a-z]|$)",
            "weights trained with sparse attention (VSA) need its kernels; take a variant with full attention",
        ),
    )
)


def find_profile(name: str) -> Profile:
    """Return a profile: one that comes along, by name, or one in a file (`read_profile`).

    Raises:
        ModelError: there is none of that name, or the file holds no profile.
    """
    if name.endswith(TOML_SUFFIX):
        return read_profile(typed_path(name, "profile"))
    if name not in BUILT_IN:
        raise ModelError(f"profile: {name!r} is not one of {NONE}, {', '.join(BUILT_IN)}")
    return BUILT_IN[name]


def read_profile(path: Path) -> Profile:
    """Read a profile from a TOML file: the file itself, or the table ``[profile]`` of a model card. Without a name of
    its own it has the file's.

    Raises:
        ModelError: it cannot be read, or is not a profile; the message names the field.
    """
    values = read_toml(path)
    table = values.get("profile") if "model" in values else values
    if not isinstance(table, dict):
        raise ModelError(f"{path}: [profile] must be a table")
    try:
        return Profile.from_dict(table, path.stem)
    except ProfileError as error:
        raise ModelError(f"{path}: profile: {error}") from None


def refuse_distill(names: Iterable[str]) -> None:
    """Refuse distills that no profile can express, by the names of a model's folder, files or repository.

    Raises:
        ModelError: says which, and why.
    """
    for name in names:
        for pattern, why in _REFUSED:
            if pattern.search(name):
                raise ModelError(f"{name}: {why}")


def detect(card: ModelCard, names: Iterable[str], pipeline: str | None) -> Profile | None:
    """Return the profile that a model certainly needs; None if nothing says so.

    Args:
        names: of its folder, files or repository. pipeline: ``_class_name`` of its ``model_index.json``.
    """
    if pipeline in _PIPELINES:
        return BUILT_IN[_PIPELINES[pipeline]]
    for name in names:
        for pattern, one, two in _NAMES:
            wanted = one if card.boundary is None else two
            if wanted is not None and pattern.search(name) and not problems(BUILT_IN[wanted], card):
                return BUILT_IN[wanted]
    return None


def suggestions(card: ModelCard) -> Iterator[str]:
    """Yield warnings about fused adapters that look like distills, for a model without a profile."""
    for text in card.load.lora:
        found = detect(card, [text], None)
        if found is not None:
            yield (
                f"lora: {text} looks like a distill for few steps: give --profile {found.name} (ZOETROPE_PROFILE), or "
                f"--profile {NONE} to sample as without it"
            )


def _untrained(card: ModelCard) -> Iterator[str]:
    """Yield a warning about a profile of weights that come along and are no distill, unless an adapter makes them
    one."""
    if card.profile is not None and card.family in BUNDLED and not card.adapters:
        yield (
            f"profile: {card.profile.name} makes clips in {card.profile.steps} steps, for which the weights of "
            f"{card.family} were not trained: they will be poor"
        )


def problems(profile: Profile, card: ModelCard) -> str:
    """Say why a profile cannot be used with a model; "" if it can."""
    if profile.fits and card.family not in profile.fits:
        return f"{profile.name} is for {', '.join(profile.fits)}, {card.name} is a {card.family}"
    if card.boundary is None and (profile.experts_at is not None or len(profile.guidance) == 2):
        return f"{profile.name} is for two noise experts, {card.name} has one network"
    return ""


def with_profile(card: ModelCard, profile: Profile) -> ModelCard:
    """Return the card of a model that samples by a profile: its defaults are the profile's.

    Raises:
        ModelError: the profile is not for such a model.
    """
    if problem := problems(profile, card):
        raise ModelError(f"profile: {problem}")
    high, low = profile.guidance[0], profile.guidance[-1]
    return replace(
        card,
        profile=profile,
        default_steps=profile.steps,
        default_guidance=high,
        default_guidance_low=None if card.boundary is None else low,
        default_flow_shift=profile.shift,
        flow_shift_note=f"profile {profile.name}",
        default_negative_prompt=card.default_negative_prompt if max(profile.guidance) > 1 else "",
    )


def preset_with(preset: Preset, name: str) -> Preset:
    """Return a preset whose sampling is that of a profile, given by name; "" or `NONE`: its own.

    Raises:
        ModelError: there is no such profile, or it is for other presets.
    """
    if name in ("", NONE):
        return preset
    profile = find_profile(name)
    if profile.fits and preset.name not in profile.fits:
        raise ModelError(f"profile: {name} is for {', '.join(profile.fits)}, not for {preset.name}")
    own = replace(preset.sampling, steps=profile.steps, guidance=profile.guidance[0], guidance_low=profile.guidance[-1])
    return replace(preset, sampling=own)


def choose(card: ModelCard, names: Iterable[str], pipeline: str | None, own: str = "") -> ModelCard:
    """Return the card with the profile that ``card.load`` names, or that is certain, if any.

    Args:
        names, pipeline: as for `detect`. own: the profile of a preset whose weights come along; "" for none.

    Raises:
        ModelError: there is no such profile, it is not for such a model, or no profile can express the distill.
    """
    given, names = card.load.profile, list(names)
    if given == NONE:
        return card
    if given or own:
        made = with_profile(card, find_profile(given or own))
        return replace(made, warnings=(*made.warnings, *_untrained(made))) if given and not own else made
    refuse_distill(names)
    found = detect(card, names, pipeline)
    if found is None:
        return replace(card, warnings=(*card.warnings, *suggestions(card)))
    return with_profile(card, found)
