"""The API's methods, and calls of them: the one place that knows grpc, translates its errors and repeats calls."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing, suppress
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import grpc
from google.longrunning import operations_pb2
from google.protobuf.empty_pb2 import Empty
from google.protobuf.message import Message

from zoetrope.serving.api.zoetrope.video.v1 import account_pb2, engines_pb2, media_pb2, video_pb2
from zoetrope.serving.client.channel import call_metadata, open_channel, read_certificates
from zoetrope.serving.client.responses import from_rpc_error
from zoetrope.serving.client.retries import BRIEF_SECONDS, Backoff, Retry
from zoetrope.serving.client.types import ClientError, Tls

CALL_SECONDS = 30.0
CREATE_SECONDS = 120.0  # in which the service may fetch what a request names
A = TypeVar("A")


@dataclass(frozen=True)
class Method(Generic[A]):
    """A method of the API: its path, the type of its answer, or of each message of it, and its policy."""

    path: str
    answer: type[A]
    retry: Retry
    seconds: float = CALL_SECONDS  # deadline of each try; streams have none


VIDEOS, MEDIA, ACCOUNTS, ENGINES = (
    f"zoetrope.video.v1.{name}Service" for name in ("Video", "Media", "Account", "Engine")
)
OPERATIONS = "google.longrunning.Operations"

# A create carries a request id, so that repeating it gives the same job.
CREATE_VIDEO = Method(f"{VIDEOS}/CreateVideo", operations_pb2.Operation, Retry.UNTIL_RESTARTED, seconds=CREATE_SECONDS)
VALIDATE_VIDEO = Method(
    f"{VIDEOS}/ValidateVideo", video_pb2.ValidateVideoResponse, Retry.UNTIL_RESTARTED, seconds=CREATE_SECONDS
)
BATCH_CREATE_VIDEOS = Method(
    f"{VIDEOS}/BatchCreateVideos", video_pb2.BatchCreateVideosResponse, Retry.UNTIL_RESTARTED, seconds=CREATE_SECONDS
)
GET_VIDEO = Method(f"{VIDEOS}/GetVideo", video_pb2.Video, Retry.BRIEFLY)
EXTEND_VIDEO = Method(f"{VIDEOS}/ExtendVideo", operations_pb2.Operation, Retry.UNTIL_RESTARTED, seconds=CREATE_SECONDS)
UPDATE_VIDEO = Method(f"{VIDEOS}/UpdateVideo", operations_pb2.Operation, Retry.BRIEFLY)
LIST_VIDEO_EVENTS = Method(f"{VIDEOS}/ListVideoEvents", video_pb2.ListVideoEventsResponse, Retry.BRIEFLY)
REPLAY_WEBHOOKS = Method(f"{VIDEOS}/ReplayWebhooks", video_pb2.ReplayWebhooksResponse, Retry.NEVER)
WATCH_VIDEO = Method(f"{VIDEOS}/WatchVideo", video_pb2.WatchVideoResponse, Retry.UNTIL_RESTARTED)
DOWNLOAD_VIDEO = Method(f"{VIDEOS}/DownloadVideo", video_pb2.DownloadVideoResponse, Retry.UNTIL_RESTARTED)
LIST_MODELS = Method(f"{VIDEOS}/ListModels", video_pb2.ListModelsResponse, Retry.BRIEFLY)
GET_OPERATION = Method(f"{OPERATIONS}/GetOperation", operations_pb2.Operation, Retry.BRIEFLY)
LIST_OPERATIONS = Method(f"{OPERATIONS}/ListOperations", operations_pb2.ListOperationsResponse, Retry.BRIEFLY)
WAIT_OPERATION = Method(f"{OPERATIONS}/WaitOperation", operations_pb2.Operation, Retry.UNTIL_RESTARTED)
CANCEL_OPERATION = Method(f"{OPERATIONS}/CancelOperation", Empty, Retry.BRIEFLY)
# A repeated delete would find nothing, as would a create of media announce another file.
DELETE_OPERATION = Method(f"{OPERATIONS}/DeleteOperation", Empty, Retry.NEVER)
CREATE_MEDIA = Method(f"{MEDIA}/CreateMedia", media_pb2.MediaFile, Retry.UNTIL_RESTARTED)
WRITE_MEDIA = Method(f"{MEDIA}/WriteMedia", media_pb2.MediaFile, Retry.UNTIL_RESTARTED)
GET_MEDIA = Method(f"{MEDIA}/GetMedia", media_pb2.MediaFile, Retry.BRIEFLY)
GET_UPLOAD = Method(f"{MEDIA}/GetMedia", media_pb2.MediaFile, Retry.UNTIL_RESTARTED)
LIST_MEDIA = Method(f"{MEDIA}/ListMedia", media_pb2.ListMediaResponse, Retry.BRIEFLY)
DELETE_MEDIA = Method(f"{MEDIA}/DeleteMedia", Empty, Retry.NEVER)
GET_ACCOUNT = Method(f"{ACCOUNTS}/GetAccount", account_pb2.Account, Retry.BRIEFLY)
LIST_ENGINES = Method(f"{ENGINES}/ListEngines", engines_pb2.ListEnginesResponse, Retry.BRIEFLY)
GET_WEBHOOK_SECRET = Method(f"{ACCOUNTS}/GetWebhookSecret", account_pb2.GetWebhookSecretResponse, Retry.BRIEFLY)


class Calls:
    """Calls of one service over one channel, which opens with the first call. For one event loop at a time.

    Every method raises ClientError if the service refuses, fails or does not answer.
    """

    def __init__(
        self, target: str, retry_seconds: float, patience: float, api_key: str | None, tls: Tls | None
    ) -> None:
        """See `AsyncVideoClient`."""
        self._target = target
        self._metadata = call_metadata(api_key)
        self._certificates = read_certificates(tls)
        self._channel: Any = None
        self._closed = False
        self._patience = patience
        self._retry_seconds = {
            Retry.NEVER: 0.0,
            Retry.BRIEFLY: min(BRIEF_SECONDS, retry_seconds),
            Retry.UNTIL_RESTARTED: max(retry_seconds, patience),
        }

    async def disconnect(self) -> None:
        """End all calls; the next one opens another channel, in any event loop."""
        channel, self._channel = self._channel, None
        if channel is not None:
            await channel.close()

    async def close(self) -> None:
        """End all calls for good."""
        self._closed = True
        await self.disconnect()

    def backoff(self, method: Method[A]) -> Backoff:
        """Return the policy of one call."""
        return Backoff(self._retry_seconds[method.retry], self._patience)

    async def unary(self, method: Method[A], message: Message) -> A:
        """Call, and repeat the call as far as the method allows."""
        backoff = self.backoff(method)
        while True:
            call = self._open().unary_unary(f"/{method.path}", _serialize, _parser(method))
            try:
                answer: A = await call(message, timeout=method.seconds, metadata=self._metadata)
            except grpc.RpcError as error:
                await asyncio.sleep(backoff.pause(from_rpc_error(error, self._target)))
            else:
                return answer

    async def stream(
        self, method: Method[A], request: Callable[[], Message], complete: Callable[[], bool]
    ) -> AsyncGenerator[A, None]:
        """Yield the messages of a stream; where it breaks off, open it again.

        Args:
            request: makes the message of each try.
            complete: whether all that was wanted has arrived; asked when the stream ends.
        """
        backoff = self.backoff(method)
        while True:
            stub = self._open().unary_stream(f"/{method.path}", _serialize, _parser(method))
            call = stub(request(), metadata=self._metadata)
            error = ClientError("UNAVAILABLE", f"{self._target} ended {method.path} early")
            try:
                while (message := await call.read()) is not grpc.aio.EOF:
                    backoff.reset()
                    yield message
            except grpc.RpcError as failed:
                error = from_rpc_error(failed, self._target)
            finally:
                call.cancel()
            if complete():
                return
            await asyncio.sleep(backoff.pause(error))

    async def send(self, method: Method[A], messages: AsyncGenerator[Message, None]) -> A:
        """Stream messages to the service and return its answer. Is not repeated: the caller knows where to resume."""
        call = self._open().stream_unary(f"/{method.path}", _serialize, _parser(method))(metadata=self._metadata)
        try:
            # A write fails when the call has ended; the answer then says why.
            with suppress(asyncio.InvalidStateError, grpc.RpcError, grpc.aio.InternalError):
                async with aclosing(messages):
                    async for message in messages:
                        await call.write(message)
                    await call.done_writing()
            answer: A = await call
        except grpc.RpcError as error:
            raise from_rpc_error(error, self._target) from None
        finally:
            call.cancel()
        return answer

    def _open(self) -> Any:
        """Return the channel of the running event loop.

        Raises:
            ValueError: the client is closed.
        """
        if self._closed:
            raise ValueError("the client is closed")
        if self._channel is None:
            self._channel = open_channel(self._target, self._certificates)
        return self._channel


def _serialize(message: Message) -> bytes:
    return bytes(message.SerializeToString())


def _parser(method: Method[Any]) -> Callable[[bytes], Any]:
    parse: Callable[[bytes], Any] = method.answer.FromString
    return parse
