"""`zoetrope models add`: what it writes can be served, and what could not is refused."""

from __future__ import annotations

import shutil
from pathlib import Path

import httpx
import pytest

from tests.serving.gateway.harness import running_service
from zoetrope.model.catalog.card_files import read_card_file
from zoetrope.model.catalog.presets import find_model
from zoetrope.model.catalog.weights_identity import weights_of
from zoetrope.model.families import BUNDLED
from zoetrope.serving.cli import main
from zoetrope.serving.cli.load_options import ModelLoadOptions, arguments_of
from zoetrope.serving.cli.settings import CheckedOptions, GatewayOptions, settings_of
from zoetrope.serving.config.served_models import open_models
from zoetrope.serving.config.settings import Settings


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ZOETROPE_MODELS_DIR", str(tmp_path / "cards"))
    (tmp_path / "cards").mkdir()
    (tmp_path / "cards" / "quick.toml").write_text('model = "nano"\nquantize = "fp8"\noffload = "always"\n')
    return tmp_path / "cards"


def test_models_are_listed_with_and_without_the_word(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "--quiet"]) == 0
    names = capsys.readouterr().out
    assert main(["models", "list", "--quiet"]) == 0
    assert capsys.readouterr().out == names and "nano\n" in names


@pytest.mark.parametrize("named", ["quick", "cards/quick.toml"])
def test_a_card_of_a_card_is_refused(
    named: str, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(folder.parent)
    assert main(["models", "add", "mine", "--model", named]) == 2
    assert f"error: model: {named!r} is a card itself, " in capsys.readouterr().err
    assert not (folder / "mine.toml").exists()


def test_what_is_checked_is_what_is_written(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The environment of whoever writes a card is not in it."""
    monkeypatch.setenv("ZOETROPE_LORA", "absent.safetensors")
    assert main(["models", "add", "mine", "--model", "nano", "--quantize", "fp8"]) == 0
    assert capsys.readouterr().out.strip() == str(folder / "mine.toml")
    model, load = read_card_file(folder / "mine.toml")
    assert (model, load.quantize, load.lora) == ("nano", "fp8", ())


def test_a_data_folder_that_is_named_has_the_cards(folder: Path, tmp_path: Path) -> None:
    """For the service on it too."""
    data = tmp_path / "data"
    assert main(["models", "add", "mine", "--model", "nano", "--data-dir", str(data)]) == 0
    assert (data / "models" / "mine.toml").exists() and not (folder / "mine.toml").exists()
    settings = settings_of(GatewayOptions(model="mine", data_dir=data))
    assert [card.name for card in open_models(settings)] == ["mine"]
    assert main(["models", "remove", "mine", "--data-dir", str(data)]) == 0


@pytest.mark.parametrize("by", ["option", "variable"])
def test_a_default_that_is_named_wins_over_a_card(by: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """In this process, in those of a service, and in one that is started with a command line of these options."""
    given = ModelLoadOptions(quantize="none")
    if by == "variable":
        monkeypatch.setenv("ZOETROPE_QUANTIZE", "none")
        given = ModelLoadOptions()
    settings = settings_of(CheckedOptions(model="quick", load=given))
    monkeypatch.delenv("ZOETROPE_QUANTIZE", raising=False)
    for one in (settings, Settings.model_validate_json(settings.as_json())):
        (card,) = open_models(one)
        assert (card.quantize, card.load.offload) == ("none", "always")
    assert arguments_of(settings.load) == ["--quantize", "none"]
    assert arguments_of(Settings().load) == []


def test_an_empty_variable_names_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("QUANTIZE", "OFFLOAD", "LORA", "PROFILE"):
        monkeypatch.setenv(f"ZOETROPE_{name}", "")
    assert ModelLoadOptions().resolved().given == ()


@pytest.mark.parametrize("name", ["DATA_DIR", "MODELS_DIR", "ARTIFACT_STORE"])
@pytest.mark.parametrize(
    ("value", "said"),
    [("~nosuchuser/x", "'~nosuchuser/x' names the home of no user here"), ("a\x1bb", "holds a control character")],
)
def test_a_folder_that_cannot_be_is_told(
    name: str, value: str, said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(f"ZOETROPE_{name}", value)
    assert main(["settings"]) == 2
    line = capsys.readouterr().err
    assert line.startswith(f"error: ZOETROPE_{name}: ") and said in line and line.count("\n") == 1


def test_a_gateway_works_with_an_exported_card_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = BUNDLED["nano"].directory
    assert folder is not None
    checkpoint = shutil.copytree(folder, tmp_path / "files" / "my-nano")
    card = tmp_path / "my-nano.card.json"
    assert main(["models", "export", str(checkpoint), "--out", str(tmp_path / "card.json")]) == 2
    assert "must end with .card.json" in capsys.readouterr().err
    assert main(["models", "export", str(checkpoint), "--out", str(card)]) == 0
    weights = weights_of(find_model(str(checkpoint)))
    shutil.rmtree(checkpoint)
    with running_service(tmp_path, model=str(card)) as service:
        (told,) = httpx.get(f"{service.http}/healthz").json()["models"]
        assert (told["name"], told["weights"]) == ("my-nano", weights)
        name = service.client.create(prompt="a red circle", model="my-nano")
        assert service.job(name).weights == weights
