"""Stages that raise what a job's prompt asks for.

A prompt such as "decoder local_class" names the stage and the exception, and what follows means nothing. Each time that
a stage is asked for one it adds a line to the file ``calls`` in the data directory.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import torch
from pydantic import TypeAdapter

from zoetrope.model.inspection.files import ModelError
from zoetrope.model.request.specs import VideoSpec
from zoetrope.model.request.tasks import InvalidRequest, Violation
from zoetrope.serving.config.served_models import ServedModels
from zoetrope.serving.config.settings import Settings
from zoetrope.serving.gateway.errors.api_error import ApiError
from zoetrope.serving.media import MediaError
from zoetrope.serving.media.sandbox.worker_process import WorkerLost
from zoetrope.serving.stages.conditioner import ConditionerReplica
from zoetrope.serving.stages.decoder import DecoderReplica
from zoetrope.serving.storage.store import ArtifactExists, ArtifactUnavailable


def raise_(error: BaseException) -> None:
    raise error


def local_class(_: str) -> None:
    class Local(Exception):
        def __init__(self, one: int, two: int) -> None:
            super().__init__(f"{one} and {two}")

    raise Local(1, 2)


def with_a_lock(_: str) -> None:
    error = RuntimeError("holds a lock")
    error.lock = threading.Lock()  # type: ignore[attr-defined]
    raise error


def without_words(_: str) -> None:
    class Mute(Exception):
        def __str__(self) -> str:
            raise ValueError("no words")

    raise Mute


def with_a_generator(_: str) -> None:
    raise RuntimeError("holds a generator", (i for i in range(3)))


def deep(_: str) -> None:
    deep(_)


def divide(_: str) -> None:
    1 / 0  # noqa: B018


# Name -> what raises it, the code of the job and the start of its reason.
FAULTS: dict[str, tuple[Callable[[str], Any], str, str]] = {
    "request": (
        lambda _: raise_(InvalidRequest(Violation("task.image", "is broken"))),
        "INVALID_ARGUMENT",
        "task.image: is broken",
    ),
    "media": (lambda _: raise_(MediaError("the video is blank")), "INTERNAL", "the video is blank"),
    "exists": (lambda _: raise_(ArtifactExists("taken")), "INTERNAL", "ArtifactExists: taken"),
    "api": (lambda _: raise_(ApiError("NOT_FOUND", "GONE", "it is gone")), "INTERNAL", "ApiError: it is gone"),
    "model": (lambda _: raise_(ModelError("a key is missing")), "INTERNAL", "ModelError: a key is missing"),
    "value": (lambda prompt: raise_(ValueError(f"not {prompt}!")), "INTERNAL", "ValueError: not ...!"),
    "key": (lambda _: raise_(KeyError("x")), "INTERNAL", "KeyError: 'x'"),
    "division": (divide, "INTERNAL", "ZeroDivisionError: division by zero"),
    "file": (lambda _: open("/nowhere/at all"), "INTERNAL", "FileNotFoundError: [Errno 2] No such file"),  # noqa: SIM115
    "memory": (lambda _: raise_(torch.OutOfMemoryError("no memory")), "INTERNAL", "OutOfMemoryError: no memory"),
    "shape": (lambda _: torch.zeros(2) @ torch.zeros(3), "INTERNAL", "RuntimeError: "),
    "local_class": (local_class, "INTERNAL", "Local: 1 and 2"),
    "lock": (with_a_lock, "INTERNAL", "RuntimeError: holds a lock"),
    "mute": (without_words, "INTERNAL", "Mute"),
    "generator": (with_a_generator, "INTERNAL", "RuntimeError: ('holds a generator'"),
    "stop": (lambda _: raise_(StopIteration()), "INTERNAL", "StopIteration"),
    "group": (
        lambda _: raise_(ExceptionGroup("two", [ValueError("a"), KeyError("b")])),
        "INTERNAL",
        "ExceptionGroup: two",
    ),
    "deep": (deep, "INTERNAL", "RecursionError: "),
    "unicode": (lambda _: b"\xff".decode(), "INTERNAL", "UnicodeDecodeError: "),
    "pydantic": (lambda _: TypeAdapter(int).validate_python("x"), "INTERNAL", "ValidationError: 1 validation error"),
    "ffmpeg": (lambda _: raise_(av.error.InvalidDataError(1, "bad data")), "INTERNAL", "InvalidDataError: "),
    "exit": (lambda _: sys.exit(3), "INTERNAL", "SystemExit: 3"),
    "cancelled": (lambda _: raise_(asyncio.CancelledError()), "INTERNAL", "CancelledError"),
}


def full() -> None:
    """The kernel's own word for it."""
    with open("/dev/full", "wb", buffering=0) as file:
        file.write(b"1")


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


# Name -> what happens, how many times in all, and what the job waits for meanwhile.
PASSING: dict[str, tuple[Callable[[], Any], int, str]] = {
    "full": (full, 3, "disk space: the disk is full"),
    "artifacts": (
        lambda: raise_(ArtifactUnavailable("artifact a: http://10.0.0.1:9000 does not answer")),
        3,
        "storage: the artifact store cannot be reached",
    ),
    "worker": (lambda: raise_(WorkerLost("ended")), 2, "media workers: they do not start"),
    "device": (
        lambda: raise_(torch.AcceleratorError("CUDA error: an illegal memory access")),
        1,
        "the {stage} to restart: its process died",
    ),
    "killed": (die, 2, "the {stage} to restart: its process died"),
    "deadly": (die, 100, "the {stage} to restart: its process died"),
}


def fail(stage: str, spec: VideoSpec, calls: Path) -> None:
    """Raise what the prompt asks this stage for, if anything."""
    at, name, *_ = spec.prompt.split(" ")
    if at == stage:
        with calls.open("a") as file:
            file.write(f"{spec.prompt}\n")
        if name in FAULTS:
            FAULTS[name][0](spec.prompt)
        elif calls.read_text().splitlines().count(spec.prompt) <= PASSING[name][1]:
            PASSING[name][0]()


class FaultyConditioner(ConditionerReplica):
    def __init__(self, models: ServedModels, settings: Settings) -> None:
        super().__init__(models, settings)
        self._calls = settings.directory / "calls"

    def _condition(self, spec: VideoSpec, *arguments: Any) -> Any:
        fail("conditioner", spec, self._calls)
        return super()._condition(spec, *arguments)


class FaultyDecoder(DecoderReplica):
    def __init__(self, models: ServedModels, settings: Settings) -> None:
        super().__init__(models, settings)
        self._calls = settings.directory / "calls"

    def _tail(self, spec: VideoSpec, *arguments: Any) -> Any:
        fail("tail", spec, self._calls)
        return super()._tail(spec, *arguments)

    def _render(self, spec: VideoSpec, *arguments: Any) -> Any:
        fail("decoder", spec, self._calls)
        return super()._render(spec, *arguments)
