"""Checks of prompts and finished videos, and expansion of prompts. Each is off unless configured.

The hooks are the operator's own services, reached by POST with JSON:

* ``prompt_check_url`` gets ``{"prompt", "negative_prompt"}``, ``output_check_url`` the file itself with the job's id in
  the header ``x-job-id``; both answer ``{"outcome": "passed" | "flagged" | "refused", "note": "..."}``.
* ``prompt_expansion_url`` gets ``{"prompt"}`` and answers ``{"prompt": "..."}``.

If a hook does not answer, the job is refused: nothing passes unchecked.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Literal

import httpx
from pydantic import BaseModel, Field, ValidationError

from zoetrope.model.request.tasks import MAX_PROMPT_CHARS
from zoetrope.serving.config.settings import Settings

HOOK_SECONDS = 20.0
OUTPUT_SECONDS = 120.0
MAX_NOTE_CHARS = 500


class PromptRefused(Exception):
    """Moderation refused a prompt; the message says which check, ``field`` which text."""

    def __init__(self, message: str, field: str = "prompt") -> None:
        super().__init__(message, field)
        self.message = message
        self.field = field

    def __str__(self) -> str:
        return self.message


class CheckUnavailable(Exception):
    """A hook did not answer, or not as documented."""


class Answer(BaseModel):
    """The answer of a check."""

    outcome: Literal["passed", "flagged", "refused"]
    note: str = Field(default="", max_length=MAX_NOTE_CHARS)


class Expansion(BaseModel):
    """The answer of the expansion hook."""

    prompt: str = Field(min_length=1, max_length=MAX_PROMPT_CHARS)


class WordList:
    """Finds prompts that contain a listed word as a whole, in any case. Each line of the file is a word or a phrase;
    empty lines and those that start with # are ignored."""

    def __init__(self, path: Path) -> None:
        """Read the list.

        Raises:
            OSError, UnicodeDecodeError: the file cannot be read.
        """
        lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
        words = [line for line in lines if line and not line.startswith("#")]
        joined = "|".join(r"\s+".join(map(re.escape, word.split())) for word in words)
        self._pattern = re.compile(rf"(?<!\w)(?:{joined})(?!\w)", re.IGNORECASE) if words else None

    def hit(self, text: str) -> bool:
        return self._pattern is not None and self._pattern.search(text) is not None


class Moderation:
    """The configured checks. Safe to use from several tasks of one event loop."""

    def __init__(self, settings: Settings) -> None:
        """Configure the checks.

        Raises:
            OSError, UnicodeDecodeError: the list of words cannot be read.
        """
        self._words = WordList(settings.blocked_words) if settings.blocked_words else None
        self._check_url = settings.prompt_check_url
        self._expansion_url = settings.prompt_expansion_url
        self._output_url = settings.output_check_url

    async def check_prompt(self, prompt: str, negative_prompt: str) -> list[dict[str, str]]:
        """Check a prompt and return the verdicts (check, outcome, note).

        Raises:
            PromptRefused: a check refused it. CheckUnavailable: a hook did not answer.
        """
        verdicts = []
        if self._words is not None:
            for field, text in (("prompt", prompt), ("negative_prompt", negative_prompt)):
                if self._words.hit(text):
                    raise PromptRefused("holds a word that this service does not take", field)
            verdicts.append(verdict("words", "passed"))
        if self._check_url:
            body = {"prompt": prompt, "negative_prompt": negative_prompt}
            answer = _parse(Answer, await _post(self._check_url, HOOK_SECONDS, json=body), "the check of prompts")
            if answer.outcome == "refused":
                raise PromptRefused(f"was refused: {answer.note}" if answer.note else "was refused")
            verdicts.append(verdict("prompt", answer.outcome, answer.note))
        return verdicts

    async def expand(self, prompt: str) -> str:
        """Return the expanded prompt.

        Raises:
            CheckUnavailable: the hook did not answer.
        """
        answer = await _post(self._expansion_url, HOOK_SECONDS, json={"prompt": prompt})
        expansion: Expansion = _parse(Expansion, answer, "the expansion of prompts")
        return expansion.prompt

    async def check_output(self, job_id: str, path: Path, mime_type: str) -> dict[str, str] | None:
        """Return the verdict on a finished file, which may be "refused"; None if there is no check.

        Raises:
            CheckUnavailable: the hook did not answer.
        """
        if not self._output_url:
            return None
        headers = {"content-type": mime_type, "x-job-id": job_id, "content-length": str(path.stat().st_size)}
        answer = await _post(self._output_url, OUTPUT_SECONDS, content=_chunks(path), headers=headers)
        found = _parse(Answer, answer, "the check of videos")
        return verdict("output", found.outcome, found.note)


def verdict(check: str, outcome: str, note: str = "") -> dict[str, str]:
    """As a job keeps it."""
    return {"check": check, "outcome": outcome, "note": note}


async def _post(url: str, seconds: float, **content: Any) -> httpx.Response:
    try:
        async with httpx.AsyncClient(timeout=seconds, trust_env=False) as client:
            response = await client.post(url, **content)
    except httpx.HTTPError as error:
        raise CheckUnavailable(f"a hook did not answer: {type(error).__name__}") from None
    if response.status_code != 200:
        raise CheckUnavailable(f"a hook answered with status {response.status_code}")
    return response


def _parse(kind: type[Any], response: httpx.Response, what: str) -> Any:
    try:
        return kind.model_validate_json(response.content)
    except ValidationError:
        raise CheckUnavailable(f"{what} answered with something else than its documentation says") from None


async def _chunks(path: Path) -> AsyncIterator[bytes]:
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            yield chunk
