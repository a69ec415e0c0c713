"""GETs a client's file and POSTs to a client's webhook, bounded in size and time, only where the policy allows."""

from __future__ import annotations

import asyncio
import hashlib
import ssl
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import httpcore
import httpx
from httpcore import AnyIOBackend, AsyncNetworkBackend, AsyncNetworkStream

from zoetrope.serving.outbound.errors import FetchFailed, FetchRefused
from zoetrope.serving.outbound.policy import AddressRules

MAX_REDIRECTS = 5
CONNECT_SECONDS = 10.0  # for each address of a host
ANSWER_BYTES = 4 << 10  # of the answer to a POST that are read
NOTE_CHARACTERS = 200
WRITE_BYTES = 1 << 20
REDIRECTS = (301, 302, 303, 307, 308)
USER_AGENT = "zoetrope"

SocketOption: TypeAlias = tuple[int, int, int] | tuple[int, int, bytes | bytearray] | tuple[int, int, None, int]


@dataclass(frozen=True)
class Fetched:
    """A downloaded file."""

    size: int  # bytes
    sha256: str
    content_type: str  # as the server says, without parameters; "" if it does not


@dataclass(frozen=True)
class PostResult:
    """The answer to a POST."""

    status: int
    headers: Mapping[str, str]  # names in lower case
    note: str  # the start of the answer's text in one line, for a log that the client sees


async def fetch(policy: AddressRules, url: str, *, limit_bytes: int, timeout_seconds: float, to: Path) -> Fetched:
    """Download to a file, which must not exist; after an error there is none.

    At most MAX_REDIRECTS redirects are followed, each checked like the first URL. Proxies from the environment are not
    used and cookies not kept.

    Args:
        limit_bytes: a larger file is refused, by its declared size before anything is read.
        timeout_seconds: in total.

    Raises:
        FetchRefused: the policy forbids the URL, or one that it redirects to.
        FetchFailed: no answer in time, a status other than 2xx, a file too large or cut short.
        OSError: the file cannot be written.
    """
    headers = {"accept": "*/*", "accept-encoding": "identity"}
    try:
        async with asyncio.timeout(timeout_seconds):
            for _ in range(MAX_REDIRECTS + 1):
                async with _request(policy, "GET", url, headers) as response:
                    if response.status not in REDIRECTS:
                        return await _save(response, limit_bytes, to)
                    location = _headers(response).get("location", "")
                url = _next(url, location)
            raise FetchFailed(f"redirected more than {MAX_REDIRECTS} times")
    except TimeoutError:
        raise FetchFailed(f"took longer than {timeout_seconds:g} s") from None


async def post(
    policy: AddressRules, url: str, body: bytes, headers: Mapping[str, str], timeout_seconds: float
) -> PostResult:
    """POST once. Redirects are not followed: their status is the result.

    Raises:
        FetchRefused: the policy forbids the address.
        FetchFailed: there was no answer in time.
    """
    sent = {"accept": "*/*", "accept-encoding": "identity", "content-length": str(len(body)), **headers}
    try:
        async with asyncio.timeout(timeout_seconds), _request(policy, "POST", url, sent, body) as response:
            text = b""
            try:
                async for chunk in response.aiter_stream():
                    text += chunk
                    if len(text) >= ANSWER_BYTES:
                        break
            except (httpcore.NetworkError, httpcore.ProtocolError):
                pass  # only the status matters, and it has arrived
            note = " ".join(text[:ANSWER_BYTES].decode("utf-8", "replace").split())[:NOTE_CHARACTERS]
            note = "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in note)
            return PostResult(response.status, _headers(response), note)
    except TimeoutError:
        raise FetchFailed(f"took longer than {timeout_seconds:g} s") from None


@asynccontextmanager
async def _request(
    policy: AddressRules, method: str, url: str, headers: Mapping[str, str], body: bytes | None = None
) -> AsyncIterator[httpcore.Response]:
    target = policy.check(url)
    # The name without its trailing dot is what is looked up, what the certificate must contain, and what is requested.
    bracketed = f"[{target.host}]" if ":" in target.host else target.host
    address = httpcore.URL(
        scheme=target.url.raw_scheme, host=bracketed.encode(), port=target.port, target=target.url.raw_path
    )
    default = target.port == {"http": 80, "https": 443}[target.url.scheme]
    every = {"host": bracketed if default else f"{bracketed}:{target.port}", "user-agent": USER_AGENT, **headers}
    async with httpcore.AsyncConnectionPool(
        ssl_context=policy.tls, max_connections=1, network_backend=_Backend(policy), http1=True, http2=False
    ) as pool:
        try:
            stream = pool.stream(
                method, address, headers=list(every.items()), content=body, extensions={"sni_hostname": target.host}
            )
            async with stream as response:
                yield response
        except (FetchRefused, FetchFailed, TimeoutError):
            raise
        except (httpcore.NetworkError, httpcore.TimeoutException, httpcore.ProtocolError) as error:
            raise FetchFailed(f"{target.host} cannot be reached: {_reason(error)}") from None


class _Backend(AsyncNetworkBackend):
    """Connects to addresses that the policy has checked."""

    def __init__(self, policy: AddressRules) -> None:
        self._policy = policy
        self._sockets = AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[SocketOption] | None = None,
    ) -> AsyncNetworkStream:
        host = host.removeprefix("[").removesuffix("]")
        failure: Exception | None = None
        for address in await self._policy.addresses(host, port):
            try:
                # An address, not the name, so that it is not looked up again.
                return await self._sockets.connect_tcp(address, port, timeout=CONNECT_SECONDS)
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                failure = error
        assert failure is not None, "addresses are never empty"
        raise failure

    async def connect_unix_socket(
        self, path: str, timeout: float | None = None, socket_options: Iterable[SocketOption] | None = None
    ) -> AsyncNetworkStream:
        raise FetchRefused("sockets of this machine are not fetched from")

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


async def _save(response: httpcore.Response, limit_bytes: int, to: Path) -> Fetched:
    headers = _headers(response)
    if not 200 <= response.status < 300 or response.status in (204, 205, 206):
        raise FetchFailed(f"answered with status {response.status}", response.status)
    if headers.get("content-encoding", "identity").lower() != "identity":
        raise FetchFailed("answered with a content encoding that was not asked for")
    too_large = FetchFailed(f"is larger than {limit_bytes} bytes, the limit")
    declared = headers.get("content-length", "")
    if declared.isdecimal() and int(declared) > limit_bytes:
        raise too_large
    digest, size, waiting = hashlib.sha256(), 0, bytearray()
    file = to.open("xb")
    try:
        with file:
            async for chunk in response.aiter_stream():
                size += len(chunk)
                if size > limit_bytes:
                    raise too_large
                digest.update(chunk)
                waiting += chunk
                if len(waiting) >= WRITE_BYTES:
                    await asyncio.to_thread(file.write, bytes(waiting))
                    waiting.clear()
            await asyncio.to_thread(file.write, bytes(waiting))
    except BaseException:
        to.unlink(missing_ok=True)
        raise
    return Fetched(size, digest.hexdigest(), headers.get("content-type", "").partition(";")[0].strip().lower()[:100])


def _headers(response: httpcore.Response) -> dict[str, str]:
    return {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in response.headers}


def _next(url: str, location: str) -> str:
    """Return the target of a redirect; the policy checks it as the next URL."""
    if not location:
        raise FetchFailed("redirected to nowhere")
    try:
        return str(httpx.URL(url).join(location))
    except (httpx.InvalidURL, ValueError, UnicodeError):
        raise FetchRefused("redirected to something that is not a URL") from None


def _reason(error: Exception) -> str:
    """Describe an error in our own words: the libraries' may contain addresses."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return "its certificate is not valid for it"
        if isinstance(cause, ssl.SSLError):
            return "TLS failed"
        cause = cause.__cause__ or cause.__context__
    if isinstance(error, httpcore.TimeoutException):
        return "no answer in time"
    return "it speaks no HTTP" if isinstance(error, httpcore.ProtocolError) else "the connection failed"
