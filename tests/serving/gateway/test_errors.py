"""What becomes of exceptions: the unexpected ones are logged under an id, without what they say."""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from tests.serving.gateway.harness import MODEL, detail, reason, text_request, write_checkpoint
from zoetrope.model.catalog.presets import find_model
from zoetrope.serving.api.zoetrope.video.v1 import video_pb2, video_pb2_grpc
from zoetrope.serving.config.logs import describe
from zoetrope.serving.config.served_models import ServedModels
from zoetrope.serving.config.settings import Settings
from zoetrope.serving.gateway.auth.authenticator import Principal
from zoetrope.serving.gateway.core.core import Core
from zoetrope.serving.gateway.core.error_mapping import as_api_error
from zoetrope.serving.gateway.grpc.health_service import HealthService
from zoetrope.serving.gateway.grpc.server import grpc_server
from zoetrope.serving.gateway.submit.submission import Submitter
from zoetrope.serving.gateway.watch.forecasts import Forecasts
from zoetrope.serving.gateway.watch.liveness import Liveness
from zoetrope.serving.gateway.watch.revocation import RevocationWatch
from zoetrope.serving.gateway.watch.watcher import Watcher
from zoetrope.serving.jobs.db.errors import StoreError
from zoetrope.serving.jobs.open import Stores
from zoetrope.serving.outbound import Guard
from zoetrope.serving.outbound.hooks import Moderation

SECRET = "a secret prompt"


class BrokenStore:
    """Fails with the prompt in its message."""

    def __getattr__(self, name: str) -> Any:
        def broken(*args: Any, **options: Any) -> Any:
            raise RuntimeError(f"cannot store {SECRET}")

        return broken


class Doorkeeper:
    """Lets everybody in."""

    def remembers(self, secret: str | None) -> bool:
        return True

    def authenticate(self, secret: str | None) -> Principal:
        return Principal()


@pytest.fixture
async def broken(tmp_path: Path) -> AsyncIterator[grpc.aio.Channel]:
    models = ServedModels([find_model(str(write_checkpoint(tmp_path / MODEL)))])
    broken: Any = BrokenStore()
    authenticator: Any = Doorkeeper()
    settings = Settings(data_dir=tmp_path)
    core = Core(
        settings=settings,
        models=models,
        stores=Stores(*[broken] * 7),
        artifacts=broken,
        submitter=Submitter(settings, models, broken, broken, Moderation(settings), Guard()),
        client_media=broken,
        authenticator=authenticator,
        liveness=Liveness(broken, [MODEL]),
        watcher=Watcher(broken, Forecasts(broken)),
        revocations=RevocationWatch(broken),
    )
    server = grpc_server(core, HealthService())
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        yield channel
    await server.stop(0)


async def test_unexpected_errors_are_internal(broken: grpc.aio.Channel, caplog: pytest.LogCaptureFixture) -> None:
    stub: Any = video_pb2_grpc.VideoServiceStub(broken)  # type: ignore[no-untyped-call]

    async def create() -> None:
        await stub.CreateVideo(text_request(SECRET))

    async def watch() -> None:
        async for _ in stub.WatchVideo(video_pb2.WatchVideoRequest(name="operations/x")):
            pass

    for call in (create, watch):
        caplog.clear()
        with caplog.at_level(logging.DEBUG), pytest.raises(grpc.aio.AioRpcError) as caught:
            await call()
        assert caught.value.code() is grpc.StatusCode.INTERNAL
        status = rpc_status.from_call(caught.value)
        info: Any = detail(status, error_details_pb2.ErrorInfo)
        assert (info.reason, info.domain) == ("INTERNAL", "zoetrope")
        assert info.metadata["request_id"] in status.message
        assert info.metadata["request_id"] in caplog.text
        assert "test_errors.py" in caplog.text  # the traceback
        assert "builtins.RuntimeError" in caplog.text
        assert SECRET not in caplog.text + str(caught.value)


async def test_methods_that_are_not_there(broken: grpc.aio.Channel) -> None:
    call = broken.unary_unary("/zoetrope.video.v1.VideoService/Nothing")
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call(b"")
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_a_message_that_cannot_be_parsed(broken: grpc.aio.Channel, caplog: pytest.LogCaptureFixture) -> None:
    call = broken.unary_unary("/zoetrope.video.v1.VideoService/CreateVideo")
    for data in (b"\xff\xff\xff" + SECRET.encode(), b"\x12\x01\xff"):  # not a message; a model that is not UTF-8
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call(data)
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        status = rpc_status.from_call(caught.value)
        assert (reason(status), status.message) == ("MALFORMED_MESSAGE", "the request is not a well-formed message")
    stream = broken.unary_stream("/zoetrope.video.v1.VideoService/WatchVideo")
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stream(b"\xff").read()
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert caplog.text == ""


def test_messages_of_the_system_are_logged(tmp_path: Path) -> None:
    def raised(error: Exception, cause: Exception | None = None) -> Exception:
        try:
            raise error from cause
        except Exception as caught:
            return caught

    text = describe(
        raised(StoreError("job database x: disk is full"), raised(sqlite3.OperationalError("disk is full")))
    )
    assert "sqlite3.OperationalError: disk is full" in text
    assert "StoreError: job database x: disk is full" in text
    text = describe(raised(KeyError(SECRET), raised(ValueError(SECRET))))
    assert "builtins.ValueError" in text
    assert SECRET not in text
    error = as_api_error(raised(FileNotFoundError(2, "No such file", "x")))
    assert (error.code, error.reason) == ("UNAVAILABLE", "STORE_UNAVAILABLE")
    assert error.retry_seconds is not None
