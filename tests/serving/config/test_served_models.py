"""The models of a service are found by their names, their other names and their tasks."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from tests.serving.gateway.harness import write_checkpoint
from zoetrope.model.catalog.presets import find_model
from zoetrope.model.inspection.files import ModelError
from zoetrope.serving.config.served_models import ServedModels, open_models
from zoetrope.serving.config.settings import Settings

NANO = find_model("nano")
WORDS = replace(NANO, name="words", tasks=("text_to_video",))
PICTURES = replace(NANO, name="pictures", tasks=("image_to_video", "first_last_frame"))


def test_models_are_found_by_any_name() -> None:
    models = ServedModels([WORDS, PICTURES], ("sora-2", "acme/video-1=pictures"))
    assert models.default is WORDS and len(models) == 2 and list(models) == [WORDS, PICTURES]
    assert models.names == ("words", "sora-2", "pictures", "acme/video-1")
    assert (models.find("sora-2"), models.find("acme/video-1"), models.find("other")) == (WORDS, PICTURES, None)
    assert models.names_of(PICTURES) == ("pictures", "acme/video-1")


def test_a_task_goes_to_the_first_model_that_has_it() -> None:
    models = ServedModels([WORDS, PICTURES, NANO])
    kinds = ("text_to_video", "first_last_frame", "edit_video")
    assert [models.of_task((kind,)) for kind in kinds] == [WORDS, PICTURES, NANO]
    assert ServedModels([WORDS]).of_task(("edit_video",)) is None
    assert ServedModels([WORDS, PICTURES]).tasks == ("text_to_video", "image_to_video", "first_last_frame")


def test_a_key_sees_the_models_that_it_may_use() -> None:
    models = ServedModels([WORDS, PICTURES], ("sora-2=pictures",))
    assert models.allowed(None) is models
    some = models.allowed(("sora-2", "gone"))
    assert some is not None and some.names == ("pictures", "sora-2") and some.default is PICTURES
    assert models.allowed(("gone",)) is None


@pytest.mark.parametrize(
    ("names", "aliases", "says"),
    [
        (("a", "a"), (), "two of them are called a"),
        (("a", "b"), ("x=c",), "'x=c' names 'c'; models: a, b"),
        (("a", "b"), ("x", "x=b"), "'x' is a name of a, it cannot be one of b"),
        (("a", "b"), ("b",), "'b' is a name of b, it cannot be one of a"),
    ],
)
def test_names_are_of_one_model(names: tuple[str, ...], aliases: tuple[str, ...], says: str) -> None:
    with pytest.raises(ModelError, match=says):
        ServedModels([replace(NANO, name=name) for name in names], aliases)


def test_settings_name_several(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZOETROPE_MODEL", f"nano, {write_checkpoint(tmp_path / 'tiny')}")
    models = open_models(Settings(), find_model)
    assert models.names == ("nano", "tiny")
    again = Settings.model_validate_json(Settings().as_json())  # as every process of a service gets them
    assert open_models(again, find_model).names == models.names


@pytest.mark.parametrize("given", [{"quantize": "fp8"}, {"lora": "a.safetensors"}, {"family": "nano"}])
def test_options_of_loading_say_which_model_they_mean(given: dict[str, Any]) -> None:
    (name,) = given
    with pytest.raises(ModelError, match=f"{name}: says how one model is loaded, but 2 are served: .* model card"):
        open_models(Settings(model=("nano", "wan"), **given))


def test_a_service_has_a_model() -> None:
    with pytest.raises(ValidationError, match="must name at least one model"):
        Settings(model=())
