"""Model cards: what `models add` writes is what is served, and a wrong key is named."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.fixtures.single_files import Files, write_files
from zoetrope.model.catalog.card_files import card_files, cards_folder, find_card_file, read_card_file, write_card_file
from zoetrope.model.catalog.presets import find_model, open_model
from zoetrope.model.inspection.files import ModelError
from zoetrope.model.request.load_options import LoadOptions


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    return write_files(tmp_path_factory.mktemp("comfy"))


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ZOETROPE_MODELS_DIR", str(tmp_path / "cards"))
    (tmp_path / "cards").mkdir()
    return tmp_path / "cards"


def test_a_card_is_a_model_by_its_name(files: Files, folder: Path) -> None:
    parts: dict[str, Any] = dict(files.parts)
    load = replace(LoadOptions(quantize="fp8"), **parts)
    write_card_file(folder / "mine.toml", str(files.model), load, replace=True)
    model, said = read_card_file(folder / "mine.toml")
    assert (model, said.parts, said.quantize) == (str(files.model), files.parts, "fp8")
    card = open_model("mine")
    assert (card.name, card.directory, card.quantize, card.load) == ("mine", str(files.model), "fp8", said)
    assert open_model(str(folder / "mine.toml")) == card
    assert card_files() == [folder / "mine.toml"]
    assert open_model("mine", LoadOptions(family="wan2.1-t2v-1.3b")).load.family == "wan2.1-t2v-1.3b"


def test_a_card_that_came_meanwhile_is_not_replaced_unasked(folder: Path) -> None:
    path = folder / "mine.toml"
    write_card_file(path, "nano", LoadOptions(), replace=False)
    with pytest.raises(ModelError, match=r"^name: \S+/mine\.toml exists, replace it with --force"):
        write_card_file(path, "nano-4step", LoadOptions(), replace=False)
    assert read_card_file(path)[0] == "nano"
    write_card_file(path, "nano-4step", LoadOptions(), replace=True)
    assert read_card_file(path)[0] == "nano-4step"
    (folder / "folder.toml").mkdir()
    with pytest.raises(ModelError, match=r"folder\.toml: cannot be written: Is a directory"):
        write_card_file(folder / "folder.toml", "nano", LoadOptions(), replace=True)
    assert sorted(one.name for one in folder.iterdir()) == ["folder.toml", "mine.toml"], "nothing is left over"


def test_adapters_are_named_with_their_strength_and_side(folder: Path) -> None:
    write_card_file(folder / "mine.toml", "nano", LoadOptions(lora=("a.safetensors:0.5@high",)), replace=True)
    assert read_card_file(folder / "mine.toml")[1].lora == (str(Path.cwd() / "a.safetensors:0.5@high"),)
    with pytest.raises(ModelError, match=r"lora: .*a\.safetensors: the file is missing"):
        find_model("mine")


def test_paths_are_relative_to_the_card(files: Files, tmp_path: Path) -> None:
    root = files.model.parent.parent
    path = root / "card.toml"
    path.write_text(
        'model = "diffusion_models/wan2.1_t2v_1.3B_bf16.safetensors"\nvae = "vae/wan_2.1_vae.safetensors"\n'
        'text_encoder = "text_encoders/umt5_xxl_fp16.safetensors"\n'
    )
    card = find_model(str(path))
    assert (card.name, card.directory, card.load.parts) == ("card", str(files.model), files.parts)


def test_a_card_of_a_preset(folder: Path) -> None:
    (folder / "small.toml").write_text('model = "nano"\nquantize = "fp8"\n')
    card = find_model("small")
    assert (card.name, card.quantize, card.family) == ("small", "fp8", find_model("nano").family)
    (folder / "nano.toml").write_text('model = "absent"\n')
    assert find_model("nano").name == "nano"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('vae = "x"', "model must be a text"),
        ('model = ""', "model must be a text"),
        ('model = "nano"\nwheels = 4', "wheels is not a key of a card; keys: model, family, quantize, lora"),
        ('model = "nano"\nquantize = "fp4"', "quantize is 'fp4', must be none or fp8"),
        ('model = "nano"\nlora = "x"', "lora must be a list of texts"),
        ('model = "nano"\nvae = 3', "vae must be a text"),
        ("model = nano", "cannot be read as TOML"),
        ('model = "other"', "other"),
        ('model = "mine.toml"', r"bad\.toml: model is mine\.toml, a card itself: name what that one names"),
        ('model = "nano"\nvae = "x.safetensors"', "vae: nano comes with all of its components"),
        ("#" * 70_000, "at most 65536 are read"),
    ],
)
def test_a_wrong_card_names_the_key(folder: Path, text: str, said: str) -> None:
    (folder / "bad.toml").write_text(text)
    with pytest.raises(ModelError, match=said):
        find_model("bad")


def test_what_is_no_card(folder: Path) -> None:
    assert find_card_file("absent") is None
    assert find_card_file("../bad") is None
    with pytest.raises(ModelError, match=r"absent\.toml: the file is missing"):
        find_model(str(folder / "absent.toml"))
    (folder / "mine.toml").write_text('model = "nano"\n')
    with pytest.raises(ModelError, match=r"nor a directory, a weight file or a model card \(mine\)"):
        find_model("yours")


def test_what_is_named_wins_over_a_card_even_if_it_is_the_default(folder: Path) -> None:
    (folder / "mine.toml").write_text('model = "nano"\nquantize = "fp8"\noffload = "always"\n')
    assert find_model("mine").load == LoadOptions(quantize="fp8", offload="always")
    named = find_model("mine", LoadOptions(given=("quantize", "offload"))).load
    assert (named.quantize, named.offload) == ("none", "auto")


BAD_PATHS = ["a\\u0000b", "a\\nb", "\\u001b[2J", "x" * 300, "a/" * 3_000]


@pytest.mark.parametrize("key", ["model", "vae", "tokenizer", "profile", "lora"])
@pytest.mark.parametrize("text", BAD_PATHS, ids=lambda text: text[:8])
def test_a_path_that_no_file_can_have_names_the_key(folder: Path, key: str, text: str) -> None:
    lines = {"model": '"nano"'} | {key: f'["{text}"]' if key == "lora" else f'"{text}"'}
    (folder / "bad.toml").write_text("".join(f"{name} = {value}\n" for name, value in lines.items()))
    with pytest.raises(ModelError, match=rf"bad\.toml: {key}: .*(control character|has \d+ bytes)") as error:
        find_model("bad")
    assert str(error.value).isprintable()


@pytest.mark.parametrize("text", ["a\0b", "\x1b]", "x" * 300, " "], ids=ascii)
def test_a_model_that_no_file_can_be_is_told(text: str) -> None:
    with pytest.raises(ModelError, match=r"^model: .*(control character|has 300 bytes|is empty)"):
        find_model(text)


def test_nobodys_home_is_no_folder(folder: Path) -> None:
    with pytest.raises(ModelError, match="'~nosuchuser/wan' is neither a preset"):
        find_model("~nosuchuser/wan")
    (folder / "bad.toml").write_text('model = "~nosuchuser/wan"\n')
    with pytest.raises(ModelError, match="~nosuchuser/wan' is neither a preset"):
        find_model("bad")


def test_a_card_is_utf_8_whatever_the_locale_says(folder: Path, tmp_path: Path) -> None:
    path = folder / "mine.toml"
    write_card_file(path, "nano", LoadOptions(family="\x7f", profile="é.toml"), replace=True)
    model, said = read_card_file(path)
    assert (model, said.family, said.profile) == ("nano", "\x7f", str(Path.cwd() / "é.toml"))
    with pytest.raises(ModelError, match="a path in it is not UTF-8, as cards must be"):
        write_card_file(path, "nano", LoadOptions(vae=os.fsdecode(b"\xff.safetensors")), replace=True)
    assert read_card_file(path)[0] == "nano", "the old one stays"
    path.write_bytes(b'\xef\xbb\xbfmodel = "nano"\r\n')
    assert read_card_file(path)[0] == "nano", "a byte order mark, as editors of Windows write it"
    path.write_bytes(b'model = "nano\xff"\n')
    with pytest.raises(ModelError, match=r"mine\.toml: cannot be read as TOML: 'utf-8' codec can't decode"):
        find_model("mine")


def test_a_folder_of_a_cards_name_is_told_of(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "mine.toml").write_text('model = "nano"\n')
    monkeypatch.chdir(tmp_path)
    assert find_model("mine").warnings == ()
    (tmp_path / "mine").mkdir()
    assert find_model("mine").warnings == (
        f"model: mine is the card {folder / 'mine.toml'}; for the folder of that name give ./mine",
    )
    with pytest.raises(ModelError, match=r"mine/model_index\.json"):
        find_model("./mine")


def test_a_data_folder_that_is_named_wins_over_the_environment(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert cards_folder() == folder
    assert cards_folder(tmp_path / "data") == tmp_path / "data" / "models"
    monkeypatch.delenv("ZOETROPE_MODELS_DIR")
    monkeypatch.setenv("ZOETROPE_DATA_DIR", str(tmp_path / "other"))
    assert cards_folder() == tmp_path / "other" / "models"
