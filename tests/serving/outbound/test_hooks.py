"""Checks of prompts and videos, with hooks on loopback."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.serving.outbound.receiver import Answer, receiving
from zoetrope.serving.config.settings import Settings
from zoetrope.serving.outbound.hooks import CheckUnavailable, Moderation, PromptRefused, WordList


@contextmanager
def hook(answer: Callable[[dict[str, str], bytes], tuple[int, Any]]) -> Iterator[str]:
    """A service that answers POSTs: (headers, body) -> (status, JSON)."""

    def reply(headers: dict[str, str], body: bytes) -> Answer:
        status, value = answer(headers, body)
        return Answer(status, value if isinstance(value, bytes) else json.dumps(value).encode())

    with receiving(reply) as url:
        yield url


def settings(**values: Any) -> Settings:
    return Settings.model_validate(values)


async def test_off_by_default(tmp_path: Path) -> None:
    moderation = Moderation(settings())
    assert await moderation.check_prompt("anything", "") == []
    assert await moderation.check_output("vid_a", tmp_path, "video/mp4") is None


async def test_words(tmp_path: Path) -> None:
    words = tmp_path / "words"
    words.write_text("# a comment\n\nbanana\nred  car\nc++\n")
    moderation = Moderation(settings(blocked_words=words))
    for refused in ("a Banana!", "the RED\ncar.", "banana", "c++ code"):
        with pytest.raises(PromptRefused, match="holds a word"):
            await moderation.check_prompt(refused, "")
    with pytest.raises(PromptRefused, match="holds a word") as caught:
        await moderation.check_prompt("fine", "no banana")
    assert caught.value.field == "negative_prompt"
    for passed in ("bananas", "a red carpet", "red, car", ""):
        assert await moderation.check_prompt(passed, "") == [{"check": "words", "outcome": "passed", "note": ""}]


def test_an_empty_list_refuses_nothing(tmp_path: Path) -> None:
    words = tmp_path / "words"
    words.write_text("\n# nothing\n")
    assert not WordList(words).hit("anything")


async def test_the_prompt_hook_decides() -> None:
    asked = []

    def answer(headers: dict[str, str], body: bytes) -> tuple[int, Any]:
        asked.append(json.loads(body))
        outcome = "refused" if "bad" in asked[-1]["prompt"] else "flagged"
        return 200, {"outcome": outcome, "note": "because"}

    with hook(answer) as url:
        moderation = Moderation(settings(prompt_check_url=url))
        assert await moderation.check_prompt("fine", "blurry") == [
            {"check": "prompt", "outcome": "flagged", "note": "because"}
        ]
        assert asked == [{"prompt": "fine", "negative_prompt": "blurry"}]
        with pytest.raises(PromptRefused, match="was refused: because"):
            await moderation.check_prompt("bad", "")


@pytest.mark.parametrize(
    "reply",
    [(500, {"outcome": "passed"}), (200, {"outcome": "fine"}), (200, b"not json"), (200, ["passed"]), (302, {})],
)
async def test_a_hook_that_does_not_answer_well_lets_nothing_through(reply: tuple[int, Any]) -> None:
    with hook(lambda headers, body: reply) as url, pytest.raises(CheckUnavailable):
        await Moderation(settings(prompt_check_url=url)).check_prompt("fine", "")
    with pytest.raises(CheckUnavailable):  # nobody listens any more
        await Moderation(settings(prompt_check_url=url)).check_prompt("fine", "")


async def test_expansion() -> None:
    with hook(lambda headers, body: (200, {"prompt": json.loads(body)["prompt"] + ", at dusk"})) as url:
        assert await Moderation(settings(prompt_expansion_url=url)).expand("a lake") == "a lake, at dusk"
    with hook(lambda headers, body: (200, {"prompt": ""})) as url, pytest.raises(CheckUnavailable):
        await Moderation(settings(prompt_expansion_url=url)).expand("a lake")


async def test_the_output_hook_gets_the_file(tmp_path: Path) -> None:
    video = tmp_path / "video.mp4"
    video.write_bytes(bytes(range(256)) * 9_000)  # more than one chunk
    got: list[tuple[str, str, bytes]] = []

    def answer(headers: dict[str, str], body: bytes) -> tuple[int, Any]:
        got.append((headers["x-job-id"], headers["content-type"], body))
        return 200, {"outcome": "refused", "note": "too red"}

    with hook(answer) as url:
        found = await Moderation(settings(output_check_url=url)).check_output("vid_a", video, "video/mp4")
    assert found == {"check": "output", "outcome": "refused", "note": "too red"}
    assert got == [("vid_a", "video/mp4", video.read_bytes())]
