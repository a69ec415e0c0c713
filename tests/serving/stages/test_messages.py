"""What a client is told of whatever can go wrong, by whatever way it comes: never where, on which machine, in which
process."""

from __future__ import annotations

import asyncio
import builtins
import pickle
import re
import sqlite3
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import httpx
import obstore.exceptions
import psycopg
import pytest
import ray.exceptions
import ray.serve.exceptions
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from ray.exceptions import RayError, RayTaskError
from safetensors import SafetensorError

from tests.draws import draws
from zoetrope.model.catalog.presets import find_model
from zoetrope.model.request.resolve import resolve
from zoetrope.model.request.specs import VideoSpec
from zoetrope.model.request.tasks import InvalidRequest, TextToVideo, VideoRequest, Violation
from zoetrope.serving.jobs.db.errors import StoreError, StoreRefused
from zoetrope.serving.media import MediaError
from zoetrope.serving.media.errors import NotWritable
from zoetrope.serving.media.sandbox.worker_process import NotConfined, WorkerLost
from zoetrope.serving.outbound.hooks import CheckUnavailable
from zoetrope.serving.stages.failures import OutputRefused, StageError, classify, in_thread
from zoetrope.serving.stages.isolation import IsolatedStage
from zoetrope.serving.stages.messages import MAX_REASON_CHARS, presentable
from zoetrope.serving.storage.store import ArtifactError, ArtifactExists, ArtifactMissing, ArtifactUnavailable

PROMPT = "a red circle that nobody may read"
SPEC = resolve(VideoRequest(task=TextToVideo(prompt=PROMPT), steps=1), find_model("nano"), 0)
ID = "0a1b2c3d4e5f60718293a4b501000000"  # of an actor
SECRETS = [
    "/var/lib/zoetrope/scratch/tmp1x/video.mp4", "/home/someone/serving/stages/decoder.py", "/nowhere", "~/models/x",
    "../data/jobs.db", "jobs/a1b2/3/video.mp4", "weights/model.safetensors", r"C:\\models\\x", r"\\\\server\\share",
    "file:/srv/x", "s3://bucket/prefix", "http://10.1.2.3:9000/bucket/a", "https://minio.storage.svc:9000",
    "10.1.2.3", "10.1.2.3:6379", "127.0.0.1:9000", "192.168.7.9", "fe80::1%eth0", "[2001:db8::42]:80", "::1",
    "localhost:8265", "ip-10-0-0-3.ec2.internal", "gpu-7.cluster.local", "s3.eu-central-1.amazonaws.com", "gpu7:50051",
    ID, "0x7f3a5c00d1e0", "c3f5b0de-9a53-4b1e-8a6f-7a1f0e5d9c11", ID + "beef" * 6, PROMPT,
]  # fmt: skip
# What no message may look like, whatever was planted.
UNFIT = re.compile(
    r"Traceback|File \"|ray::|(?<![\w.])/\w|\w/\w+/\w|://|\d+\.\d+\.\d+\.\d+|[0-9a-f]{16}|0x[0-9a-f]|actor_id=[0-9a-f]"
)
BETWEEN = [" ", "'", '"', "(", ")", ": ", "=", ", ", "\n", "; ", " at ", ": cannot reach ", "<", ">", "]", "["]
# What says nothing of a machine and stays.
PLAIN = [
    "3/4", "and/or", "video/mp4", "image/png", "16:9", "1.5", "10240000000 bytes", "torch.nn.functional",
    "std::bad_alloc", "task.references.0", "832x480", "(3x4 and 5x6)", "'x'", "[Errno 28]", "50%", "a.b",
    "CUDA out of memory.",
]  # fmt: skip


def frames() -> str:
    """A traceback of Python's."""
    try:
        raise ValueError(SECRETS[0])
    except ValueError:
        return traceback.format_exc()


texts = st.lists(
    st.tuples(st.sampled_from([*SECRETS, "no memory", "shape 3x4", "the file", frames()]), st.sampled_from(BETWEEN)),
    max_size=8,
).map(lambda parts: "".join(text + between for text, between in parts))


def classes(module: Any, base: type[BaseException]) -> list[type[BaseException]]:
    return [
        kind
        for kind in vars(module).values()
        if isinstance(kind, type) and issubclass(kind, base) and kind is not ExceptionGroup
    ]


KINDS = [
    *classes(builtins, Exception),
    *classes(obstore.exceptions, Exception),
    *classes(av.error, Exception),
    *classes(httpx, Exception),
    *classes(psycopg, Exception),
    *classes(sqlite3, Exception),
    *classes(ray.exceptions, Exception),
    *classes(ray.serve.exceptions, Exception),
    ArtifactError, ArtifactExists, ArtifactMissing, ArtifactUnavailable, StoreError, StoreRefused, MediaError,
    WorkerLost, NotConfined, CheckUnavailable, OutputRefused, SafetensorError,
    torch.OutOfMemoryError, torch.AcceleratorError,
]  # fmt: skip


def build(kind: type[BaseException], text: str, code: int) -> BaseException:
    """However such an exception is made; an attribute more where it keeps texts."""
    ways = [
        (code, text, text),
        (text,),
        (text, code),
        (text, None),
        (text, None, text),
        (text, code, text, text),
        (text, text, 0, 1, text),
        (),
    ]
    if issubclass(kind, OSError) and not issubclass(kind, (RayError, WorkerLost)):
        ways = ways[:2]
    else:
        ways = ways[1:]
    for arguments in ways:
        try:
            return kind(*arguments)
        except Exception:
            continue
    error = kind.__new__(kind)
    error.args = (text,)
    return error


@st.composite
def failures(draw: st.DrawFn) -> BaseException:
    """An exception with texts of ours, raised in a process, with a cause of its own, in as many wrappings of Ray's as
    processes it passed through."""
    special = st.sampled_from(["request", "not writable", "group", "stage"])
    text, code = draw(texts), draw(st.sampled_from([1, 2, 5, 13, 28, 104, 110, 122]))
    match draw(st.one_of(special, st.integers(0, len(KINDS) - 1))):
        case "request":
            error: BaseException = InvalidRequest(Violation("task.image", text), Violation("size", draw(texts)))
        case "not writable":
            error = NotWritable(Path(SECRETS[0]), OSError(code, text, SECRETS[1]))
        case "group":
            error = ExceptionGroup(text, [OSError(28, draw(texts), SECRETS[0]), KeyError(draw(texts))])
        case "stage":
            error = classify(RuntimeError(text), SPEC)
        case number:
            error = build(KINDS[int(number)], text, code)
    if draw(st.booleans()):
        error.__cause__ = OSError(draw(st.sampled_from([5, 28])), draw(texts), SECRETS[0])
    for _ in range(draw(st.integers(0, 3))):
        shown = f"\x1b[36mray::Decoder.render()\x1b[39m (pid=31, ip=10.1.2.3, actor_id={ID})\n{frames()}{text}"
        wrapped: Any = RayTaskError("render", shown, error, "ray::Decoder", 31, "10.1.2.3", f"<Decoder {ID}>", ID)
        error = (
            draw(st.sampled_from([wrapped, wrapped.as_instanceof_cause()])) if isinstance(error, Exception) else wrapped
        )
    return error


def check(message: str) -> None:
    assert len(message) <= MAX_REASON_CHARS + 60  # and the name of the exception
    assert message and message.isprintable() and "\n" not in message
    for secret in SECRETS:
        assert secret not in message, secret
    assert not UNFIT.search(message), message


class Method:
    def __init__(self, error: BaseException) -> None:
        self._error = error

    async def remote(self) -> None:
        raise self._error


class Stage:
    def __init__(self, error: BaseException) -> None:
        self.work = Method(error)
        self.alive = Method(error)


@given(failures())
@settings(max_examples=draws(300), deadline=None)
def test_no_message_tells_of_this_machine(error: BaseException) -> None:
    """As a ward tells it to the router, also of suspects."""

    async def ask() -> Iterator[StageError]:
        ward, found = IsolatedStage("decoder", Stage(error)), []
        for _ in range(2):
            with pytest.raises(StageError) as failed:
                await ward.ask("j1", SPEC, lambda stage: stage.work.remote())
            found.append(failed.value)
        return iter(found)

    for failure in asyncio.run(ask()):
        check(str(failure))
        assert failure.code.isupper()
        again = pickle.loads(pickle.dumps(failure))
        assert (str(again), again.code, again.remedy) == (str(failure), failure.code, failure.remedy)


@given(failures())
@settings(max_examples=draws(150), deadline=None)
def test_nor_as_a_stage_tells_it(error: BaseException) -> None:
    if type(error).__name__ == "AcceleratorError" or "CUDA error:" in str(error):
        return  # the process ends

    def work() -> None:
        raise error

    with pytest.raises((StageError, RayError)) as failed:
        asyncio.run(in_thread(SPEC, work))
    check(str(classify(failed.value, SPEC)))


def test_the_kinds_are_all_there() -> None:
    names = {kind.__name__ for kind in KINDS}
    assert {
        "OSError",
        "GenericError",
        "ActorDiedError",
        "RayTaskError",
        "BackPressureError",
        "OperationalError",
    } <= names
    assert len(KINDS) > 200


@pytest.mark.parametrize("text", PLAIN)
def test_what_says_nothing_of_a_machine_stays(text: str) -> None:
    assert presentable(text, SPEC) == text
    assert presentable(f"before {text} after", SPEC) == f"before {text} after"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("see https://host/a/b", "see ..."),
        ("'/a/b c' of 3/4", "'... c' of 3/4"),
        ("a\nb", "a b"),
        ("red and bored", "... and bored"),
        ("[Errno 28] No space left on device: '/data/scratch/x.mp4'", "[Errno 28] No space left on device: '...'"),
        ('it broke: Traceback (most recent call last):\n  File "x.py", line 1', "it broke:"),
        ("x" * 1_000, "x" * MAX_REASON_CHARS),
    ],
)
def test_a_reason_is_one_presentable_line(text: str, shown: str) -> None:
    spec = VideoSpec.from_dict({**SPEC.to_dict(), "task": {"kind": "text_to_video", "prompt": "red"}})
    assert presentable(text, spec) == shown


@pytest.mark.parametrize("text", ["a", ".-", "a/", ":", "0", "f", "1.", "[::", "a.b-", "a:", "/", " /", "'", 'File "'])
@pytest.mark.timeout(5)
def test_no_text_takes_long(text: str) -> None:
    presentable(text * (1_000_000 // len(text)), SPEC)
