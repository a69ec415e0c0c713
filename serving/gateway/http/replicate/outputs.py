"""The output of predictions: a signed URL, or the file itself for clients that could not make one of a URL.

The ``run()`` of Replicate's SDKs makes a file object of https: and data: URLs, and hands anything else to its caller
as a text. So over plain HTTP what ``run()`` asks for has the file in it.

The clients for Python show by their Prefer header that it is ``run()`` that creates. Who creates without gets a URL,
which Python's HTTP clients read, as they do not data: URLs. The client for JavaScript may poll from the start, and
``fetch`` reads data: URLs: it always gets them. So does Vercel's AI SDK, which downloads nothing from private
addresses.
"""

from __future__ import annotations

import base64
import json
import re
import secrets
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import aclosing
from typing import Any

from starlette.responses import Response

from zoetrope.serving.gateway.http.common.calls import HttpCall
from zoetrope.serving.gateway.http.common.files import FileResponse
from zoetrope.serving.gateway.http.common.routes import AsciiResponse
from zoetrope.serving.gateway.http.common.signed_urls import signer
from zoetrope.serving.gateway.http.common.signing import Signer
from zoetrope.serving.gateway.http.replicate.views import data_prefix, output_name, prediction
from zoetrope.serving.jobs.job import Job, State
from zoetrope.serving.storage.store import ArtifactMissing

MAX_INLINE_BYTES = 64 << 20  # of a video that is put into an answer
INLINE_CHUNK = 3 << 18  # bytes; a multiple of 3, so that pieces of base64 can be joined
JAVASCRIPT = re.compile(r"replicate-javascript/|\bai-sdk/")
PYTHON = re.compile(r"replicate-python/|\w*replicate/python", re.IGNORECASE)  # versions 1 and 2
INLINE = "output is the file itself: over plain HTTP this client could not use a URL. Lists of predictions have one."


async def answer(call: HttpCall, job: Job, status: int = 200, *, starting: bool = False) -> Response:
    """Answer a prediction.

    Args:
        starting: see `prediction`.
    """
    base = call.base_url
    if job.state is not State.SUCCEEDED or job.result is None:
        notice = await call.core.watcher.notice(job)
        return AsciiResponse(prediction(job, base, starting=starting, notice=notice), status)
    video = job.result["video"]
    if video["size_bytes"] <= MAX_INLINE_BYTES and wants_data(base, call.request.headers, job.origin):
        chunks = call.core.read(video["key"])
        try:
            return _inline(job, base, status, await anext(chunks, b""), chunks)
        except ArtifactMissing:  # it was deleted a moment ago
            pass
    return AsciiResponse(prediction(job, base, output=_url(await signer(call.core), job, base)), status)


async def answers(call: HttpCall, jobs: list[Job]) -> list[dict[str, Any]]:
    """Show predictions in a list: never with their files."""
    sign = await signer(call.core)
    return [prediction(job, call.base_url, output=_url(sign, job, call.base_url)) for job in jobs]


def _url(sign: Signer, job: Job, base_url: str) -> str | None:
    # Never one of the artifact store: Python's client sends its key along, which stores refuse beside a signature.
    return sign.video_url(job, base_url, output_name(job))


def wants_data(base_url: str, headers: Mapping[str, str], origin: Mapping[str, Any]) -> bool:
    """Tell whether who asks has no use for a URL."""
    agent = headers.get("user-agent", "")
    if base_url.startswith("https:"):
        return False
    return JAVASCRIPT.search(agent) is not None or (bool(origin.get("waits")) and PYTHON.match(agent) is not None)


def _inline(job: Job, base: str, status: int, first: bytes, rest: AsyncGenerator[bytes]) -> Response:
    """Stream the prediction around its video: many megabytes that no answer should hold in memory."""
    assert job.result is not None
    video = job.result["video"]
    mark = secrets.token_hex(16)
    text = json.dumps(prediction(job, base, output=mark, notice=INLINE))
    head, tail = (part.encode() for part in text.split(mark))
    head += data_prefix(video["mime_type"]).encode()

    async def body() -> AsyncIterator[bytes]:
        yield head
        held = first
        async with aclosing(rest):
            async for chunk in rest:
                held += chunk
                whole = len(held) // INLINE_CHUNK * INLINE_CHUNK
                if whole:
                    yield base64.b64encode(held[:whole])
                    held = held[whole:]
        yield base64.b64encode(held) + tail

    length = len(head) + (video["size_bytes"] + 2) // 3 * 4 + len(tail)
    return FileResponse(body(), status, {"content-length": str(length)}, media_type="application/json")
