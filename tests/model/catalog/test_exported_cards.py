"""Exported cards: the same model without its files, and nothing else."""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest

from zoetrope.model.catalog.exported_cards import exported_text
from zoetrope.model.catalog.presets import find_model, open_model
from zoetrope.model.catalog.weights_identity import weights_here, weights_of
from zoetrope.model.families import BUNDLED
from zoetrope.model.inspection.files import ModelError
from zoetrope.model.request.load_options import LoadOptions


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """A copy of nano's files, that can be taken away."""
    folder = BUNDLED["nano"].directory
    assert folder is not None
    return shutil.copytree(folder, tmp_path / "here" / "my-nano")


@pytest.fixture
def exported(tmp_path: Path) -> Path:
    path = tmp_path / "nano.card.json"
    path.write_text(exported_text(find_model("nano")))
    return path


def test_a_card_says_the_same_where_the_files_are_not(checkpoint: Path, tmp_path: Path) -> None:
    card = find_model(str(checkpoint), LoadOptions(quantize="fp8"))
    weights = weights_of(card)
    path = tmp_path / "any-name.card.json"
    path.write_text(exported_text(card))
    shutil.rmtree(checkpoint)
    there = find_model(str(path))
    assert there == replace(card, exported_weights=weights)
    assert weights_here(there) == weights


def test_presets_can_be_exported_too(exported: Path) -> None:
    card = find_model("nano")
    there = find_model(str(exported))
    assert {f.name for f in fields(card) if getattr(card, f.name) != getattr(there, f.name)} == {"exported_weights"}


def test_only_gateways_take_one(exported: Path) -> None:
    with pytest.raises(ModelError, match=r"is an exported card: gateways can be started with it, nothing else$"):
        open_model(str(exported))


def test_a_model_without_files_cannot_be_exported(checkpoint: Path) -> None:
    next(checkpoint.rglob("*.safetensors")).unlink()
    with pytest.raises(ModelError, match="safetensors"):
        exported_text(find_model(str(checkpoint)))


def test_settings_that_say_otherwise_are_refused(exported: Path) -> None:
    assert find_model(str(exported), LoadOptions(quantize="none", given=("quantize",)))
    with pytest.raises(ModelError, match=r"^quantize: 'fp8', but .*nano\.card\.json was exported with 'none'$"):
        find_model(str(exported), LoadOptions(quantize="fp8", given=("quantize",)))


def _without(held: dict[str, Any], name: str) -> None:
    del held["card"][name]


@pytest.mark.parametrize(
    "change",
    [
        lambda held: held.update(format=2),
        lambda held: held["card"].update(invented=1),
        lambda held: held["card"]["load"].update(invented=1),
        lambda held: held["card"].update(fps="many"),
        lambda held: held["card"].update(exported_weights=""),
        lambda held: _without(held, "fps"),
        lambda held: _without(held, "audio"),
        lambda held: held.pop("card"),
    ],
)
def test_cards_of_other_releases_are_refused(exported: Path, change: Any) -> None:
    held = json.loads(exported.read_text())
    change(held)
    held["sha256"] = hashlib.sha256(json.dumps(held.get("card"), sort_keys=True).encode()).hexdigest()
    exported.write_text(json.dumps(held))
    with pytest.raises(ModelError, match=r"is not a card that this release exported: run `zoetrope models export`"):
        find_model(str(exported))


@pytest.mark.parametrize(
    "change", [lambda held: held["card"].update(size_multiple=-1), lambda held: held.pop("sha256")]
)
def test_cards_that_were_changed_are_refused(exported: Path, change: Any) -> None:
    held = json.loads(exported.read_text())
    exported.write_text(json.dumps(held))
    find_model(str(exported))
    change(held)
    exported.write_text(json.dumps(held))
    with pytest.raises(ModelError, match="is not a card that this release exported"):
        find_model(str(exported))


@pytest.mark.parametrize("text", ["", "[]", "{", '"card"', "\udcff", "[" * 100_000])
def test_files_that_are_no_cards_are_refused(exported: Path, text: str) -> None:
    exported.write_text(text, errors="surrogateescape")
    with pytest.raises(ModelError, match="is not a card that this release exported"):
        find_model(str(exported))


def test_a_file_that_is_not_there() -> None:
    with pytest.raises(ModelError, match=r"nowhere\.card\.json: cannot be read: No such file or directory"):
        find_model("nowhere.card.json")
