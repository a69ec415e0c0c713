"""What ends a job at once and what is tried again: exceptions as Ray delivers them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from ray.exceptions import (
    ActorDiedError,
    OutOfMemoryError,
    OwnerDiedError,
    RaySystemError,
    RayTaskError,
    WorkerCrashedError,
)
from ray.serve.exceptions import DeploymentUnavailableError

from model.presets import find_model
from model.resolve import resolve
from model.tasks import InvalidRequest, TextToVideo, VideoRequest, VideoSpec, Violation
from serving.jobs.job import Job, State
from serving.jobs.media_table import MediaTable
from serving.media import MediaError
from serving.moderation import CheckUnavailable
from serving.router import work
from serving.router.work import TRIES, ConditionsLost, JobFailed, Ways, make
from serving.stages.failures import OutputRefused, presentable, stage_error
from tests.serving.jobs.harness import RESULT

PROMPT = "a red circle that nobody may read"
SPEC = resolve(VideoRequest(task=TextToVideo(prompt=PROMPT), steps=1), find_model("nano"), 0)
JOB = Job(
    id="j1",
    owner="",
    state=State.RUNNING,
    stage=None,
    model="nano",
    spec=SPEC.to_dict(),
    step=0,
    steps=1,
    created_at=0.0,
    started_at=0.0,
    finished_at=None,
    attempt=1,
    lease_epoch=1,
    lease_owner="r",
    lease_until=9.0,
    cancel_requested=False,
    error_code=None,
    error_message=None,
    result=None,
    eta_seconds=None,
)


def delivered(error: Exception) -> Exception:
    """As it comes out of a handle."""
    arrived: Exception = RayTaskError("encode", "Traceback: /home/someone/x.py", error, "title", 1, "ip")
    return arrived.as_instanceof_cause()  # type: ignore[attr-defined,no-any-return]


class Method:
    def __init__(self, answer: Callable[[], Any]) -> None:
        self._answer = answer

    async def remote(self, *_: Any) -> Any:
        return self._answer()


class Stages:
    """A conditioner and a decoder; ``fail`` is asked at every call of the conditioner."""

    def __init__(self, fail: Callable[[int], Exception | None], at: str = "encode") -> None:
        self.calls = 0
        self._fail, self._at = fail, at
        self.warnings = Method(lambda: ())
        self.encode = Method(lambda: self._answer("encode", ["conditions"]))
        self.render = Method(lambda: self._answer("render", RESULT))

    def _answer(self, name: str, value: Any) -> Any:
        if name == self._at:
            self.calls += 1
            if error := self._fail(self.calls):
                raise error
        return value


async def denoise(*_: Any) -> str:
    return "latents"


async def run(stages: Stages, denoiser: Callable[..., Awaitable[Any]] = denoise, notices: list[str] = []) -> Any:  # noqa: B006
    media = MediaTable.__new__(MediaTable)
    ways = Ways(stages, stages, media, denoiser, lambda *_: None, lambda *_: None, lambda _, said: notices.append(said))
    return await make(JOB, ways)


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (InvalidRequest(Violation("task.image", "is broken")), "INVALID_ARGUMENT", "task.image: is broken"),
        (MediaError("the video is blank"), "INVALID_ARGUMENT", "the video is blank"),
        (OutputRefused("not this"), "PERMISSION_DENIED", "the video was refused: not this"),
        (KeyError("x"), "INTERNAL", "KeyError: 'x'"),
        (ValueError(f"{PROMPT} is in /var/lib/models/x.bin"), "INTERNAL", "ValueError: ... is in ..."),
        (RuntimeError("first\n  second"), "INTERNAL", "RuntimeError: first second"),
    ],
)
@pytest.mark.parametrize("at", ["encode", "render"])
async def test_what_a_stage_raises_ends_the_job_at_once(error: Exception, code: str, message: str, at: str) -> None:
    stages = Stages(lambda _: delivered(stage_error(error, SPEC)), at)
    with pytest.raises(JobFailed) as failed:
        await run(stages)
    assert (failed.value.code, str(failed.value)) == (code, message)
    assert stages.calls == 1


@pytest.mark.parametrize("error", [RaySystemError("cannot be read"), delivered(KeyError("x"))])
async def test_what_no_stage_has_told_ends_it_too(error: Exception) -> None:
    stages = Stages(lambda _: error)
    with pytest.raises(JobFailed) as failed:
        await run(stages)
    assert failed.value.code == "INTERNAL"
    assert "died" not in str(failed.value) and "/home" not in str(failed.value)
    assert stages.calls == 1


LOST = [
    ActorDiedError(),
    WorkerCrashedError(),
    OutOfMemoryError("the node was out of memory"),
    OwnerDiedError("00" * 28, None, ""),
    delivered(OwnerDiedError("00" * 28, None, "")),
    DeploymentUnavailableError("Conditioner"),  # type: ignore[arg-type]
]


@pytest.mark.parametrize("error", LOST, ids=lambda error: type(error).__name__)
async def test_a_death_is_tried_again(error: Exception) -> None:
    stages = Stages(lambda call: error if call < TRIES else None)
    assert await run(stages) is RESULT
    dying = Stages(lambda _: error)
    with pytest.raises(JobFailed, match=f"died {TRIES} times"):
        await run(dying)
    assert dying.calls == TRIES


async def test_conditions_that_are_lost_are_made_again() -> None:
    lost = [ConditionsLost(), ConditionsLost()]

    async def denoise(*_: Any) -> str:
        if lost:
            raise lost.pop()
        return "latents"

    stages = Stages(lambda _: None)
    assert await run(stages, denoise) is RESULT
    assert stages.calls == 3


async def test_what_an_engine_says_is_told_without_paths_and_words() -> None:
    async def denoise(*_: Any) -> str:
        raise JobFailed(f"OSError: /srv/weights/a.safetensors and {PROMPT}")

    with pytest.raises(JobFailed, match=r"^OSError: \.\.\. and \.\.\.$"):
        await run(Stages(lambda _: None), denoise)


@pytest.mark.parametrize("at", ["encode", "render"])
async def test_a_stage_waits_for_what_is_away(at: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(work, "FIRST_PAUSE_SECONDS", 0.0)
    away = delivered(stage_error(CheckUnavailable("the hook does not answer"), SPEC))
    stages = Stages(lambda call: away if call < 9 else None, at)
    notices: list[str] = []
    assert await run(stages, notices=notices) is RESULT
    assert stages.calls == 9
    assert notices == ["the hook does not answer", ""]


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("see https://host/a/b", "see https://host/a/b"),
        ("'/a/b c' of 3/4", "'... c' of 3/4"),
        ("a\nb", "a b"),
        ("red and bored", "... and bored"),
    ],
)
def test_a_reason_is_one_presentable_line(text: str, shown: str) -> None:
    spec = VideoSpec.from_dict({**SPEC.to_dict(), "task": {"kind": "text_to_video", "prompt": "red"}})
    assert presentable(text, spec) == shown
