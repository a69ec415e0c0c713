"""The profiles' noise levels are those of their makers' formulas; a model gets one by name, or where it is certain."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest

from tests.model.catalog.test_presets import SMALL, WAN22, checkpoint
from zoetrope.model.catalog.presets import find_model
from zoetrope.model.catalog.profiles import BUILT_IN, choose, detect, find_profile, problems, suggestions, with_profile
from zoetrope.model.families import all_presets
from zoetrope.model.inspection.files import ModelError
from zoetrope.model.request.fused_adapter import FusedAdapter
from zoetrope.model.request.load_options import LoadOptions
from zoetrope.model.request.profile import Profile
from zoetrope.model.request.tasks import ModelCard

OWN = 'sampler = "euler"\nsigmas = [1.0, 0.9, 0.5]\nguidance = [2.0]\n'


def test_a_profile_of_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.toml").write_text(OWN)
    (tmp_path / "card.toml").write_text(f'model = "nano"\n[profile]\nname = "three"\n{OWN}')
    (tmp_path / "other.toml").write_text('model = "nano"\nprofile = "mine.toml"\n')
    by_file = find_model("nano", LoadOptions(profile="mine.toml"))
    cards = [find_model("card.toml"), find_model(str(tmp_path / "other.toml"))]
    for card, name in ((by_file, "mine"), (cards[0], "three"), (cards[1], "mine")):
        assert card.profile == Profile(name, "euler", (1.0, 0.9, 0.5), guidance=(2.0,))
        assert (card.default_steps, card.default_guidance) == (3, 2.0)
    for text, said in (
        ("sigmas = [1.0]", "profile: sampler is missing"),
        (OWN + "steps = 3", "steps.* is not one of"),
        ("x = ", "cannot be read as TOML"),
    ):
        (tmp_path / "mine.toml").write_text(text)
        with pytest.raises(ModelError, match=rf"mine\.toml: .*{said}"):
            find_model("nano", LoadOptions(profile="mine.toml"))


def shifted(shift: float, *levels: float) -> list[float]:
    return [shift * u / (1 + (shift - 1) * u) for u in levels]


def nearest(table: list[float], timesteps: tuple[int, ...]) -> list[float]:
    return [min(table, key=lambda level: abs(1000 * level - t)) for t in timesteps]


def trig(*angles: float) -> list[float]:
    return [math.sin(t) / (math.sin(t) + math.cos(t)) for t in angles]


QUARTERS = (1, 0.75, 0.5, 0.25)
DMD = (1000, 757, 522)
CAUSVID_TABLE = shifted(8, *(1 - i / 999 * (1 - 0.003 / 1.002) for i in range(1000)))
LISTS = {
    **dict.fromkeys(("lightx2v-4", "lightx2v-4-a14b", "lightning-4"), shifted(5, *QUARTERS)),
    "lightx2v-4-a14b-flf2v": shifted(16, *QUARTERS),
    "lightx2v-8": shifted(5, *(i / 8 for i in range(8, 0, -1))),
    "fastwan-3": nearest(shifted(8, *(i / 1000 for i in range(1000, 0, -1))), DMD),
    "causvid-3": nearest(CAUSVID_TABLE, DMD),
    **{f"rcm-{n}": trig(math.atan(80), 1.5, 1.4, 1.0)[:n] for n in range(1, 5)},
    **{f"turbo-{n}": trig(math.atan(200), 1.5, 1.4, 1.0)[:n] for n in range(1, 5)},
    "nano-4": shifted(3, *QUARTERS),
}


@pytest.mark.parametrize("name", BUILT_IN)
def test_the_noise_levels(name: str) -> None:
    profile = BUILT_IN[name]
    assert list(profile.sigmas) == [round(level, 6) for level in LISTS[name]]
    assert set(profile.fits) <= set(all_presets()) and profile.fits
    if name.startswith(("rcm", "turbo")):
        assert profile.init_scale == profile.sigmas[0] and profile.precision == "float64"
    if profile.shift is not None:
        assert list(profile.sigmas) == [
            round(level, 6) for level in shifted(profile.shift, *(1 - i / profile.steps for i in range(profile.steps)))
        ]


def test_every_list_has_its_test() -> None:
    assert LISTS.keys() == BUILT_IN.keys()


LARGE = "wan2.1-t2v-14b"  # small ones are taken for the 1.3B


def t2v(root: Path) -> Path:
    return checkpoint(root, {})


def a14b(root: Path) -> Path:
    path = checkpoint(root, {}, pair=True, index={"boundary_ratio": 0.875})
    return path


def test_a_named_profile_decides_the_defaults(tmp_path: Path) -> None:
    plain = find_model(str(t2v(tmp_path / "wan")))
    assert plain.profile is None
    card = find_model(str(tmp_path / "wan"), LoadOptions(LARGE, profile="lightx2v-4"))
    assert card.profile == BUILT_IN["lightx2v-4"]
    assert (card.default_steps, card.default_guidance, card.default_guidance_low) == (4, 1.0, None)
    assert (card.default_flow_shift, card.flow_shift_note) == (5.0, "profile lightx2v-4")
    assert card.default_negative_prompt == ""
    pair = find_model(str(a14b(tmp_path / "pair")), LoadOptions(profile="lightning-4"))
    assert (pair.default_guidance, pair.default_guidance_low, pair.boundary) == (1.0, 1.0, 0.875)


def test_the_one_that_comes_along() -> None:
    card = find_model("nano-4step")
    assert card.profile == BUILT_IN["nano-4"] and card.default_steps == 4 and card.default_guidance == 1.0
    own = find_model("nano-4step", LoadOptions(profile="none"))
    assert own.profile is None and (own.default_steps, own.default_guidance) == (30, 3.0)
    assert card.warnings == own.warnings == find_model("nano-4step", LoadOptions(profile="nano-4")).warnings == ()


def test_a_profile_for_weights_that_are_no_distill_is_warned_of() -> None:
    """Of those that come along it is known; an adapter may make them one."""
    card = find_model("nano", LoadOptions(profile="nano-4"))
    (warning,) = card.warnings
    assert warning == (
        "profile: nano-4 makes clips in 4 steps, for which the weights of nano were not trained: they will be poor"
    )
    distilled = replace(card, warnings=(), adapters=(FusedAdapter("distill", "/a", "00", 1.0, "any"),))
    assert choose(distilled, [], None).warnings == ()


def test_a_profile_for_another_model_is_refused(tmp_path: Path) -> None:
    path = str(t2v(tmp_path / "wan"))
    with pytest.raises(ModelError, match="profile: 'lightx2v' is not one of none, lightx2v-4"):
        find_model(path, LoadOptions(profile="lightx2v"))
    with pytest.raises(ModelError, match=r"profile: turbo-4 is for wan2\.2-i2v-a14b, wan is a wan2\.1-t2v"):
        find_model(path, LoadOptions(profile="turbo-4"))
    mine = Profile("mine", "euler", (1.0, 0.5), experts_at=1)
    assert "two noise experts" in problems(mine, find_model(path))
    with pytest.raises(ModelError, match="two noise experts"):
        with_profile(find_model(path), mine)


@pytest.mark.parametrize(
    ("folder", "name"),
    [
        ("wan2.1_t2v_14b_lightx2v_4step", "lightx2v-4"),
        ("Wan2.1-T2V-14B-StepDistill-CfgDistill-Lightx2v", "lightx2v-4"),
        ("FastWan2.1-T2V-1.3B-Diffusers", "fastwan-3"),
        ("wan_causvid_bidirectional_t2v", "causvid-3"),
        ("Wan2.1-T2V-14B-Diffusers", None),
        ("lightning", None),
    ],
)
def test_names_that_are_certain(tmp_path: Path, folder: str, name: str | None) -> None:
    path = str(t2v(tmp_path / folder))
    found = find_model(path, LoadOptions("" if folder.startswith("Fast") else LARGE)).profile
    assert (None if found is None else found.name) == name
    assert find_model(path, LoadOptions(profile="none")).profile is None


def test_a_pair_has_the_profile_of_pairs(tmp_path: Path) -> None:
    found = find_model(str(a14b(tmp_path / "wan2.2_t2v_A14b_lightx2v_4step"))).profile
    assert found == BUILT_IN["lightx2v-4-a14b"]


def test_the_pipeline_of_a_distill_is_certain(tmp_path: Path) -> None:
    """Whatever its scheduler is: nothing but the profile samples with it."""
    path = checkpoint(tmp_path / "x", {}, index={"_class_name": "WanDMDPipeline"})
    scheduler = path / "scheduler" / "scheduler_config.json"
    scheduler.write_text(json.dumps({"_class_name": "FlowMatchLCMScheduler", "shift": 8.0}))
    assert find_model(str(path)).profile == BUILT_IN["fastwan-3"]
    deep = {"num_attention_heads": 24, "in_channels": 48, "out_channels": 48}
    index = {"_class_name": "WanDMDPipeline", "expand_timesteps": True}
    assert find_model(str(checkpoint(tmp_path / "y", deep, WAN22, index))).profile == BUILT_IN["fastwan-3"]
    assert SMALL["in_channels"] == 16


def test_a_scheduler_of_a_distill_needs_a_profile(tmp_path: Path) -> None:
    path = t2v(tmp_path / "x")
    scheduler = path / "scheduler" / "scheduler_config.json"
    scheduler.write_text(json.dumps({"_class_name": "LCMScheduler"}))
    with pytest.raises(ModelError, match=r"few-step distill, whose profile must be given \(--profile"):
        find_model(str(path))
    assert find_model(str(path), LoadOptions(profile="fastwan-3")).profile == BUILT_IN["fastwan-3"]


@pytest.mark.parametrize(
    ("folder", "why"),
    [
        ("wan2.1_t2v_1.3b_meanflow_2step", "MeanFlow"),
        ("Self-Forcing-1.3B", "causal"),
        ("LongLive-1.3B", "causal"),
        ("wan_causvid_causal", "causal"),
        ("SFCausal-CausalWan2.2", "causal"),
        ("Wan2.1-VSA-T2V-14B-720P-Diffusers", "sparse attention"),
    ],
)
def test_distills_that_no_profile_expresses_are_refused_by_name(tmp_path: Path, folder: str, why: str) -> None:
    with pytest.raises(ModelError, match=f"{folder}: .*{why}"):
        find_model(str(t2v(tmp_path / folder)))
    with pytest.raises(ModelError, match="causal distill"):
        find_model(str(checkpoint(tmp_path / "z", {}, index={"_class_name": "WanCausalDMDPipeline"})))


def test_an_adapter_that_looks_like_a_distill_gets_a_hint(tmp_path: Path) -> None:
    card = find_model(str(t2v(tmp_path / "wan")), LoadOptions(LARGE))
    fused = replace(card, load=LoadOptions(lora=("Wan21_T2V_14B_lightx2v_4step_lora_rank64.safetensors:0.7",)))
    (hint,) = suggestions(fused)
    assert "--profile lightx2v-4" in hint and "--profile none" in hint
    assert not list(suggestions(replace(card, load=LoadOptions(lora=("style.safetensors",)))))


def family_card(family: str) -> ModelCard:
    boundary = 0.9 if "a14b" in family else None
    return replace(find_model("nano"), name="x", family=family, boundary=boundary)


@pytest.mark.parametrize("name", BUILT_IN)
def test_a_profile_fits_what_it_says(name: str) -> None:
    profile = find_profile(name)
    for family in all_presets():
        assert (problems(profile, family_card(family)) == "") == (family in profile.fits)
    assert detect(family_card("wan2.7-27b"), ["wan2.1_t2v_14b_lightx2v_4step"], None) is None
