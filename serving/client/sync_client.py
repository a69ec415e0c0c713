"""The client that blocks: every method of the asynchronous client, run on a background event loop."""

from __future__ import annotations

import functools
import weakref
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterator
from typing import Any, Concatenate, ParamSpec, TypeVar

from zoetrope.serving.client.async_client import RETRY_SECONDS, AsyncVideoClient
from zoetrope.serving.client.portal import Portal
from zoetrope.serving.client.types import Tls

P = ParamSpec("P")
T = TypeVar("T")


def _blocking(
    method: Callable[Concatenate[AsyncVideoClient, P], Coroutine[Any, Any, T]],
) -> Callable[Concatenate[VideoClient, P], T]:
    @functools.wraps(method)
    def call(self: VideoClient, /, *arguments: P.args, **options: P.kwargs) -> T:
        return self._portal.run(method(self._client, *arguments, **options))

    return call


def _iterating(
    method: Callable[Concatenate[AsyncVideoClient, P], AsyncGenerator[T, None]],
) -> Callable[Concatenate[VideoClient, P], Iterator[T]]:
    @functools.wraps(method)
    def call(self: VideoClient, /, *arguments: P.args, **options: P.kwargs) -> Iterator[T]:
        yield from self._portal.iterate(method(self._client, *arguments, **options))  # `self` stays alive meanwhile

    return call


class VideoClient:
    """`AsyncVideoClient` for code that blocks: the same methods, which return and iterate plainly.

    Safe to use from several threads, and inside a running event loop, which it blocks. Ctrl-C during a call cancels it.
    """

    def __init__(
        self,
        target: str,
        retry_seconds: float = RETRY_SECONDS,
        *,
        api_key: str | None = None,
        tls: Tls | None = None,
        patience: float = 0.0,
    ) -> None:
        """Take the same arguments as `AsyncVideoClient`."""
        self._client = AsyncVideoClient(target, retry_seconds, api_key=api_key, tls=tls, patience=patience)
        self._portal = Portal(self._client._calls.disconnect)
        self._close = weakref.finalize(self, self._portal.close)  # also when the interpreter ends

    def __enter__(self) -> VideoClient:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End all calls."""
        self._close()

    create = _blocking(AsyncVideoClient.create)
    validate = _blocking(AsyncVideoClient.validate)
    create_batch = _blocking(AsyncVideoClient.create_batch)
    extend = _blocking(AsyncVideoClient.extend)
    update = _blocking(AsyncVideoClient.update)
    get = _blocking(AsyncVideoClient.get)
    get_video = _blocking(AsyncVideoClient.get_video)
    list = _blocking(AsyncVideoClient.list)
    iterate = _iterating(AsyncVideoClient.iterate)
    cancel = _blocking(AsyncVideoClient.cancel)
    delete = _blocking(AsyncVideoClient.delete)
    wait = _blocking(AsyncVideoClient.wait)
    watch = _iterating(AsyncVideoClient.watch)
    events = _blocking(AsyncVideoClient.events)
    replay_webhooks = _blocking(AsyncVideoClient.replay_webhooks)
    webhook_secret = _blocking(AsyncVideoClient.webhook_secret)
    account = _blocking(AsyncVideoClient.account)
    models = _blocking(AsyncVideoClient.models)
    engines = _blocking(AsyncVideoClient.engines)
    upload = _blocking(AsyncVideoClient.upload)
    get_media = _blocking(AsyncVideoClient.get_media)
    list_media = _blocking(AsyncVideoClient.list_media)
    delete_media = _blocking(AsyncVideoClient.delete_media)
    read = _iterating(AsyncVideoClient.read)
    download = _blocking(AsyncVideoClient.download)
