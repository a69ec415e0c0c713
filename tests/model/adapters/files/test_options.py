"""``FILE[:strength][@high|low|both]``, and which network of a pair an adapter is for."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fixtures.adapter_styles import CONFIG, STYLES, block_modules, random_pairs, styled, write
from zoetrope.model.adapters.files.card import check_adapters
from zoetrope.model.adapters.files.options import AdapterOption, parse_option, parse_options
from zoetrope.model.inspection.files import ModelError

PAIRS = random_pairs(block_modules(1))


@pytest.mark.parametrize(
    ("rest", "strength", "side"),
    [
        ("", 1.0, ""),
        (":0.5", 0.5, ""),
        (":-1", -1.0, ""),
        (":4", 4.0, ""),
        ("@high", 1.0, "high"),
        (":3.0@low", 3.0, "low"),
        (":1e-1@both", 0.1, "both"),
    ],
)
@pytest.mark.parametrize(
    "name", ["a.safetensors", "a:0.5.safetensors", "a@low", "a:1@both.safetensors", "b c.safetensors"]
)
def test_the_longest_beginning_that_exists_is_the_file(
    name: str, rest: str, strength: float, side: str, tmp_path: Path
) -> None:
    (tmp_path / name).touch()
    option = parse_option(f"{tmp_path / name}{rest}")
    assert (option.path, option.strength, option.side) == (tmp_path / name, strength, side)


def test_a_file_that_is_not_there() -> None:
    assert parse_option("x/a.safetensors:0.5@high") == AdapterOption(Path("x/a.safetensors"), 0.5, "high")
    assert parse_option("gone.safetensors") == AdapterOption(Path("gone.safetensors"))


@pytest.mark.parametrize("strength", ["nan", "inf", "-inf", "4.01", "-5", "strong", "", "1e999"])
def test_strengths_that_are_none(strength: str, tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    path.touch()
    with pytest.raises(ModelError) as error:
        parse_option(f"{path}:{strength}")
    assert str(error.value) == f"lora: strength {strength!r} of {path} must be a number from -4 to 4" or strength == ""


@pytest.mark.parametrize("side", ["hihg", "High", "", "any"])
def test_noise_experts_that_are_none(side: str, tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    path.touch()
    with pytest.raises(ModelError, match="must be high, low or both"):
        parse_option(f"{path}:1@{side}")


def test_too_many_and_twice(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="lora: 9 files are given, at most 8 can be fused"):
        parse_options([f"{number}.safetensors" for number in range(9)])
    with pytest.raises(ModelError, match=r"lora: a\.safetensors is given twice"):
        parse_options(["a.safetensors", "a.safetensors:0.5@low"])
    assert len(parse_options(["a.safetensors:3@high", "a.safetensors:1.5@low"])) == 2
    with pytest.raises(ModelError, match="names no file"):
        parse_options([""])
    with pytest.raises(ModelError, match=r"is a folder without adapter_config\.json"):
        parse_option(str(tmp_path))


NAMES = {
    "style_high_noise": "high",
    "style-low": "low",
    "high_noise_model": "high",
    "low_noise_model": "low",
    "Wan2.2-LowNoise-style": "low",
    "MyStyleHighNoise_v2": "high",
    "wan_HIGH_4steps": "high",
    "transformer_1": "high",
    "pytorch_lora_transformer_2": "low",
    "slow_motion": None,
    "highres_flow": None,
    "glow-follower": None,
    "from_low_to_high": None,
    "anime_low-poly": None,
    "low_light": None,
    "detail-high-res": None,
    "wan21_high_key_v2": None,
    "style-low_v2": "low",
    "style_high_rank64_bf16": "high",
    "style": None,
}


@pytest.mark.parametrize("name", NAMES)
def test_a_name_says_the_noise_expert_or_nothing_does(name: str, tmp_path: Path) -> None:
    path = write(tmp_path / f"{name}.safetensors", styled(STYLES["diffusion-pipe"], PAIRS))
    if (expected := NAMES[name]) is not None:
        assert [a.expert for a in check_adapters([str(path)], CONFIG, networks=2).adapters] == [expected]
    else:
        with pytest.raises(
            ModelError, match=f"nothing says for which noise expert it is: give {name}.safetensors@high"
        ):
            check_adapters([str(path)], CONFIG, networks=2)
    assert [a.expert for a in check_adapters([f"{path}@both"], CONFIG, networks=2).adapters] == ["both"]
    assert [a.expert for a in check_adapters([str(path)], CONFIG, networks=1).adapters] == ["any"]


def test_a_file_of_both_goes_on_both_or_on_one_as_told(tmp_path: Path) -> None:
    both = write(
        tmp_path / "a.safetensors",
        styled(STYLES["ai-toolkit, high"], PAIRS) | styled(STYLES["ai-toolkit, low"], PAIRS),
    )
    one = write(tmp_path / "b.safetensors", styled(STYLES["ai-toolkit, low"], PAIRS))
    texts = [str(both), f"{one}@low"]
    assert [a.expert for a in check_adapters(texts, CONFIG, networks=2).adapters] == ["both", "low"]
    apart = check_adapters([f"{both}:3@high", f"{both}:1.5@low"], CONFIG, networks=2).adapters
    assert [(a.strength, a.expert) for a in apart] == [(3.0, "high"), (1.5, "low")]
    with pytest.raises(ModelError, match=r"lora: @high after .*b.safetensors, which changes only the other"):
        check_adapters([f"{one}@high"], CONFIG, networks=2)
    with pytest.raises(ModelError, match="is for a model with two noise experts, this has one network"):
        check_adapters([str(one)], CONFIG, networks=1)
    with pytest.raises(ModelError, match=r"lora: @low after .* is for models with two noise experts"):
        check_adapters([f"{one}@low"], CONFIG, networks=1)


@pytest.mark.parametrize("how", ["another spelling", "a link", "a copy"])
def test_one_file_under_two_names_is_given_twice(how: str, tmp_path: Path) -> None:
    """Its changes would be added twice."""
    file, other = write(tmp_path / "a.safetensors", styled(STYLES["PEFT"], PAIRS)), tmp_path / "b.safetensors"
    if how == "a link":
        other.symlink_to(file)
    elif how == "a copy":
        other.write_bytes(file.read_bytes())
    else:
        other = tmp_path / ".." / tmp_path.name / "a.safetensors"
    for sides in (("", ""), ("@high", "@both"), ("@low", "@low")):
        with pytest.raises(ModelError, match="is given twice"):
            check_adapters([f"{file}{sides[0]}", f"{other}:0.5{sides[1]}"], CONFIG, networks=2 if sides[0] else 1)
    apart = check_adapters([f"{file}@high", f"{other}:0.5@low"], CONFIG, networks=2).adapters
    assert [one.strength for one in apart] == [1.0, 0.5]


@pytest.mark.parametrize("text", ["a\0b", "a\nb", "x" * 300, "~/\x7f", "a/" * 3_000], ids=ascii)
def test_what_no_path_can_be_is_told(text: str) -> None:
    with pytest.raises(ModelError, match=r"^lora: .*(control character|bytes)"):
        parse_option(text)


def test_nobodys_home_is_no_folder() -> None:
    with pytest.raises(ModelError, match=r"lora: ~nosuchuser/a\.safetensors: the file is missing"):
        check_adapters(["~nosuchuser/a.safetensors"], CONFIG, networks=1)
