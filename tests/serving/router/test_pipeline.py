"""What ends a job at once and what is tried again: exceptions as Ray delivers them."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from ray.exceptions import (
    ActorDiedError,
    ActorUnavailableError,
    GetTimeoutError,
    ObjectStoreFullError,
    OutOfDiskError,
    OutOfMemoryError,
    OwnerDiedError,
    RaySystemError,
    RayTaskError,
    RpcError,
    WorkerCrashedError,
)
from ray.serve.exceptions import DeploymentUnavailableError

from tests.serving.jobs.harness import RESULT
from zoetrope.model.catalog.presets import find_model
from zoetrope.model.request.resolve import resolve
from zoetrope.model.request.tasks import InvalidRequest, TextToVideo, VideoRequest, Violation
from zoetrope.serving.jobs.db.errors import StoreError, StoreRefused
from zoetrope.serving.jobs.job import Job, State
from zoetrope.serving.jobs.media_table import MediaTable
from zoetrope.serving.media import MediaError
from zoetrope.serving.media.errors import NotWritable, TookTooLong
from zoetrope.serving.media.sandbox.worker_process import RequestKilled, WorkerLost
from zoetrope.serving.outbound.hooks import CheckUnavailable
from zoetrope.serving.router import pipeline
from zoetrope.serving.router.latents import LatentShelf
from zoetrope.serving.router.pipeline import ConditionsLost, JobFailed, Stages, make
from zoetrope.serving.stages.encoded import Encoded
from zoetrope.serving.stages.failures import OutputRefused, classify
from zoetrope.serving.stages.isolation import MAX_DEATHS, IsolatedStage
from zoetrope.serving.storage.store import ArtifactMissing, ArtifactStore, ArtifactUnavailable

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
    def __init__(self, answer: Callable[..., Any]) -> None:
        self._answer = answer

    async def remote(self, *arguments: Any) -> Any:
        return self._answer(*arguments)


class FakeStages:
    """A conditioner and a decoder; ``fail`` is asked at every call of the one."""

    def __init__(self, fail: Callable[[int], Exception | None], at: str = "encode") -> None:
        self.calls = 0
        self.stored: list[tuple[str, tuple[str, ...]]] = []
        self._fail, self._at = fail, at
        self.alive = Method(lambda *_: None)
        self.warnings = Method(lambda *_: self._answer("warnings", ()))
        self.encode = Method(lambda *_: self._answer("encode", Encoded(["conditions"])))
        self.render = Method(self._render)

    def _render(
        self, spec: Any, latents: Any, prefix: str, media: Any, timings: Any, earlier: tuple[str, ...], trace: str
    ) -> Any:
        self.stored.append((prefix, earlier))
        return self._answer("render", RESULT)

    def _answer(self, name: str, value: Any) -> Any:
        if name == self._at:
            self.calls += 1
            if error := self._fail(self.calls):
                raise error
        return value


async def denoise(*_: Any) -> str:
    return "latents"


async def run(
    stages: FakeStages,
    denoiser: Callable[..., Awaitable[Any]] = denoise,
    notices: list[str] | None = None,
    job: Job = JOB,
    warn: Callable[[Job, tuple[str, ...]], None] = lambda *_: None,
) -> Any:
    classify = [] if notices is None else notices
    ways = Stages(
        IsolatedStage("conditioner", stages),
        IsolatedStage("decoder", stages),
        MediaTable.__new__(MediaTable),
        denoiser,
        lambda *_: None,
        warn,
        lambda _, notice: classify.append(notice),
        LatentShelf(ArtifactStore.__new__(ArtifactStore), 1 << 20, 0),
        lambda *_: None,
    )
    return await make(job, ways)


@pytest.mark.parametrize("before", [("of the API",), ("of the API", "the prompt is cut")])
async def test_a_warning_of_the_conditioner_joins_those_that_the_job_has(before: tuple[str, ...]) -> None:
    """Also when an earlier attempt has said it already."""
    stages = FakeStages(lambda _: None)
    stages.warnings = Method(lambda *_: ("the prompt is cut",))
    said: list[tuple[str, ...]] = []
    await run(stages, job=replace(JOB, warnings=before), warn=lambda _, warnings: said.append(warnings))
    assert said == [("of the API", "the prompt is cut")]


@pytest.fixture
def backoff(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The seconds that were waited, which take none."""
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    monkeypatch.setattr(pipeline, "asyncio", SimpleNamespace(sleep=sleep, to_thread=asyncio.to_thread))
    return slept


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (InvalidRequest(Violation("task.image", "is broken")), "INVALID_ARGUMENT", "task.image: is broken"),
        (MediaError("the video is blank"), "INTERNAL", "the video is blank"),
        (NotWritable(Path("/srv/a.mp4"), ValueError("bad")), "INTERNAL", "NotWritable: cannot write ...: bad"),
        (OutputRefused("not this"), "PERMISSION_DENIED", "the video was refused: not this"),
        (ArtifactMissing("there is no artifact media/1/2"), "FAILED_PRECONDITION", "a file of the job is gone"),
        (FileNotFoundError(errno.ENOENT, "No such file", "/a/b"), "INTERNAL", "FileNotFoundError: [Errno 2] No such"),
        (KeyError("x"), "INTERNAL", "KeyError: 'x'"),
        (ValueError(f"{PROMPT} is in /var/lib/models/x.bin"), "INTERNAL", "ValueError: ... is in ..."),
        (RuntimeError("first\n  second"), "INTERNAL", "RuntimeError: first second"),
        (StoreRefused("the row"), "INTERNAL", "StoreRefused: the row"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
@pytest.mark.parametrize("at", ["warnings", "encode", "render"])
async def test_what_a_stage_raises_ends_the_job_at_once(error: Exception, code: str, message: str, at: str) -> None:
    stages = FakeStages(lambda _: delivered(classify(error, SPEC)), at)
    with pytest.raises(JobFailed) as failed:
        await run(stages)
    assert failed.value.code == code and str(failed.value).startswith(message)
    assert stages.calls == 1


@pytest.mark.parametrize("error", [RaySystemError("cannot be read"), delivered(KeyError("x"))])
async def test_what_no_stage_has_told_ends_it_too(error: Exception) -> None:
    stages = FakeStages(lambda _: error)
    with pytest.raises(JobFailed) as failed:
        await run(stages)
    assert failed.value.code == "INTERNAL"
    assert "died" not in str(failed.value) and "/home" not in str(failed.value)
    assert stages.calls == 1


def caused(error: Exception, cause: Exception) -> Exception:
    error.__cause__ = cause
    return error


AWAY = [
    (classify(ArtifactUnavailable("artifact a: no answer"), SPEC), "storage: the artifact store cannot be reached"),
    (
        classify(caused(ArtifactUnavailable("artifact a: full"), OSError(errno.ENOSPC, "full")), SPEC),
        "storage: its disk is full",
    ),
    (classify(OSError(errno.ENOSPC, "full", "/a/b"), SPEC), "disk space: the disk is full"),
    (classify(NotWritable(Path("a"), OSError(errno.EDQUOT, "quota")), SPEC), "disk space: the disk is full"),
    (classify(OSError(errno.EMFILE, "many", "/a/b"), SPEC), "this machine: too many open files"),
    (classify(OSError(errno.EIO, "io", "/a/b"), SPEC), "this machine: input/output error"),
    (classify(ConnectionResetError(), SPEC), "this machine: a connection broke"),
    (classify(CheckUnavailable("a hook"), SPEC), "the output check: it does not answer"),
    (classify(WorkerLost("ended"), SPEC), "media workers: they do not start"),
    (classify(StoreError("locked"), SPEC), "storage: the job database cannot be reached"),
    (ObjectStoreFullError(), "this machine: its object store is full or does not answer"),
    (OutOfDiskError(), "this machine: its object store is full or does not answer"),
    (RpcError("10.0.0.1"), "this machine: its object store is full or does not answer"),
    (GetTimeoutError("late"), "this machine: its object store is full or does not answer"),
]


@pytest.mark.parametrize("away", [True, False], ids=["delivered", "bare"])
@pytest.mark.parametrize(("error", "what"), AWAY, ids=[what for _, what in AWAY])
@pytest.mark.parametrize("at", ["warnings", "encode", "render"])
async def test_a_job_waits_for_what_is_away_and_says_so(
    error: Exception, what: str, at: str, away: bool, backoff: list[float]
) -> None:
    arrives = delivered(error) if away else error
    stages, notices = FakeStages(lambda call: arrives if call < 12 else None, at), list[str]()
    assert await run(stages, notices=notices) is RESULT
    assert stages.calls == 12
    assert notices == [f"waiting for {what}"] * 11 + [""]
    assert backoff == [0.5, 1, 2, 4, 8, 16, 30, 30, 30, 30, 30]


async def test_a_cancelled_job_stops_waiting_at_once() -> None:
    notices: list[str] = []
    task = asyncio.create_task(run(FakeStages(lambda _: OSError(errno.ENOSPC, "full")), notices=notices))
    while not notices:
        await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(task, 0.2)


async def test_each_call_of_the_decoder_stores_under_a_prefix_of_its_own(backoff: list[float]) -> None:
    """One that was not heard of again may have stored its file, with other bytes."""
    stages = FakeStages(lambda call: ConnectionResetError() if call < 3 else None, "render")
    assert await run(stages) is RESULT
    assert stages.stored == [
        ("jobs/j1/1", ()),
        ("jobs/j1/1.1", ("jobs/j1/1",)),
        ("jobs/j1/1.2", ("jobs/j1/1", "jobs/j1/1.1")),
    ]


LOST = [
    OwnerDiedError("00" * 28, None, ""),
    delivered(OwnerDiedError("00" * 28, None, "")),
    delivered(ActorDiedError()),
    delivered(delivered(WorkerCrashedError())),
]


@pytest.mark.parametrize("error", LOST, ids=lambda error: type(error).__name__)
async def test_what_was_lost_with_a_process_is_made_again(error: Exception, backoff: list[float]) -> None:
    """However often: the job is not at fault."""
    stages, denoised = FakeStages(lambda call: error if call < 9 else None, "render"), list[int]()

    async def denoise(*_: Any) -> str:
        denoised.append(1)
        return "latents"

    assert await run(stages, denoise) is RESULT
    assert len(denoised) == stages.calls == 9


async def test_conditions_that_are_lost_are_made_again(backoff: list[float]) -> None:
    lost = [ConditionsLost() for _ in range(8)]

    async def denoise(*_: Any) -> str:
        if lost:
            raise lost.pop()
        return "latents"

    stages = FakeStages(lambda _: None)
    assert await run(stages, denoise) is RESULT
    assert stages.calls == 9


DEATHS = [
    ActorDiedError(),
    ActorUnavailableError("no answer of 10.0.0.1", None),
    WorkerCrashedError(),
    OutOfMemoryError("the node was out of memory"),
    delivered(classify(RequestKilled("the process that looked at a file"), SPEC)),
]


@pytest.mark.parametrize("error", DEATHS, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("at", ["warnings", "encode", "render"])
async def test_the_cause_of_deaths_is_found_and_fails(error: Exception, at: str, backoff: list[float]) -> None:
    """The first death may be anybody's, those alone are its own."""
    stages = FakeStages(lambda call: error if call <= MAX_DEATHS else None, at)
    assert await run(stages) is RESULT
    deadly = FakeStages(lambda _: error, at)
    with pytest.raises(JobFailed) as failed:
        await run(deadly)
    stage = "decoder" if at == "render" else "conditioner"
    assert str(failed.value) == f"the {stage} died {MAX_DEATHS} times while it worked on this job alone"
    assert failed.value.code == "INTERNAL"
    assert deadly.calls == 1 + MAX_DEATHS


TOO_LITTLE = [
    (MemoryError("no memory"), "INTERNAL", "MemoryError: no memory"),
    (torch.OutOfMemoryError("no memory"), "INTERNAL", "OutOfMemoryError: no memory"),
    (
        caused(InvalidRequest(Violation("image", "it took longer than 30 s")), TookTooLong("it took longer than 30 s")),
        "INVALID_ARGUMENT",
        "image: it took longer than 30 s",
    ),
]


@pytest.mark.parametrize(("error", "code", "message"), TOO_LITTLE, ids=lambda value: type(value).__name__)
async def test_a_job_that_memory_or_time_does_not_suffice_for_is_tried_once_alone(
    error: Exception, code: str, message: str, backoff: list[float]
) -> None:
    stages = FakeStages(lambda call: delivered(classify(error, SPEC)) if call == 1 else None)
    assert await run(stages) is RESULT
    large = FakeStages(lambda _: delivered(classify(error, SPEC)))
    with pytest.raises(JobFailed) as failed:
        await run(large)
    assert (failed.value.code, str(failed.value), large.calls) == (code, message, 2)


async def test_a_stage_that_is_not_deployed_yet_is_waited_for(backoff: list[float]) -> None:
    error = DeploymentUnavailableError("Conditioner")  # type: ignore[arg-type]
    stages = FakeStages(lambda call: error if call < 20 else None)
    assert await run(stages) is RESULT


async def test_what_an_engine_says_is_told_without_paths_and_words() -> None:
    async def denoise(*_: Any) -> str:
        raise JobFailed(f"OSError: /srv/weights/a.safetensors and {PROMPT}")

    with pytest.raises(JobFailed, match=r"^OSError: \.\.\. and \.\.\.$"):
        await run(FakeStages(lambda _: None), denoise)
