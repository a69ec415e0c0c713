"""Settings that are lists, as the environment, the command line and another process of the service give them."""

from __future__ import annotations

import pytest
from pydantic import Field, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from zoetrope.serving.config.lists import CommaList


class Example(BaseSettings):
    model_config = SettingsConfigDict(env_prefix="EXAMPLE_", extra="ignore")

    words: CommaList = Field(default=(), description="Words.")


@pytest.mark.parametrize(
    ("text", "items"),
    [
        ("127.0.0.0/8", ("127.0.0.0/8",)),
        (" a, b ,,c ", ("a", "b", "c")),
        ('["a", "b,c"]', ("a", "b,c")),
        ("", ()),
        ("[]", ()),
    ],
)
def test_the_forms_of_a_list(text: str, items: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EXAMPLE_WORDS", text)
    assert Example().words == items
    assert Example.model_validate_json(Example().model_dump_json()).words == items
    monkeypatch.delenv("EXAMPLE_WORDS")
    assert Example(words=text).words == items  # type: ignore[arg-type]  # an option hands over its text
    assert Example(words=list(items)).words == items  # type: ignore[arg-type]


@pytest.mark.parametrize("text", ['["a"', "[1]", '[["a"]]'])
def test_what_is_no_list(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EXAMPLE_WORDS", text)
    with pytest.raises(ValidationError, match=r'must be a comma-separated list, A,B, or a JSON list .*\["A", "B"\]'):
        Example()
