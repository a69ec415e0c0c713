"""The management port: ``/livez``, ``/readyz`` and ``/metrics`` in plain HTTP, for kubelets and Prometheus.

It needs no web framework, so that any process can have one, and says nothing of jobs or callers: it has no
authentication, and is meant to be reachable from inside a cluster only.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from http import HTTPStatus
from typing import TypeAlias

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder

from zoetrope.serving.config.addresses import join_address, parse_address
from zoetrope.serving.config.listening import listen
from zoetrope.serving.config.logs import describe

CHECK_SECONDS = 3.0  # that a check may take; kubelets are told to wait longer
READ_SECONDS = 5.0  # in which a request must arrive, and be taken
SCRAPE_SECONDS = 30.0
MAX_HEAD_BYTES = 8 << 10
MAX_CONNECTIONS = 64
SPARE_CONNECTIONS = 16  # of those that are being ended
TEXT = "text/plain; charset=utf-8"
log = logging.getLogger("zoetrope.management")

Check: TypeAlias = Callable[[], Awaitable[str]]  # returns "" if all is well, else in one line what is wrong


@dataclass(frozen=True)
class _Answer:
    status: HTTPStatus
    body: bytes
    kind: str = TEXT


async def fine() -> str:
    """Find nothing wrong: a process is alive if its event loop answers."""
    return ""


async def start_management(
    address: str, *, ready: Check, alive: Check = fine, registry: CollectorRegistry
) -> ManagementServer:
    """Listen on the management port.

    Args:
        address: HOST:PORT; port 0 takes a free one.
        ready: what ``/readyz`` tells; alive: what ``/livez`` does. Each answers 200, or 503 with the reason, also if
            the check raises or takes over 3 s.
        registry: what ``/metrics`` shows. It collects in a thread of its own, so it may wait for a database.

    Raises:
        AddressError: the address is malformed.
        StartError: nobody can listen there.
    """
    server = ManagementServer(ready, alive, registry)
    await server.listen(address)
    return server


class ManagementServer:
    """An open management port."""

    address: str  # HOST:PORT as it is bound

    def __init__(self, ready: Check, alive: Check, registry: CollectorRegistry) -> None:
        self._checks = {"/readyz": ready, "/livez": alive}
        self._registry = registry
        self._threads = ThreadPoolExecutor(1, thread_name_prefix="metrics")  # never behind what others wait for
        self._open = 0
        self._unsaid: dict[asyncio.StreamWriter, None] = {}  # connections whose request is not there yet, oldest first

    async def listen(self, address: str) -> None:
        """Bind the port. Raises as `start_management` does."""
        listener = listen(address, "management")
        self._server = await asyncio.start_server(self._connected, sock=listener, limit=MAX_HEAD_BYTES)
        self.address = join_address(parse_address(address, "management")[0], listener.getsockname()[1])

    async def close(self) -> None:
        """Stop listening."""
        self._server.close()
        await self._server.wait_closed()
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._open += 1
        if self._open > MAX_CONNECTIONS and self._unsaid:  # so that nobody who says nothing keeps a kubelet out
            oldest = next(iter(self._unsaid))
            del self._unsaid[oldest]
            oldest.transport.abort()
        try:
            if self._open <= MAX_CONNECTIONS + SPARE_CONNECTIONS:
                await self._serve(reader, writer)
        except (TimeoutError, OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            writer.transport.abort()  # too slow, too long, or gone
        finally:
            self._open -= 1
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._unsaid[writer] = None
        try:
            async with asyncio.timeout(READ_SECONDS):
                head = await reader.readuntil(b"\r\n\r\n")
        finally:
            self._unsaid.pop(writer, None)
        lines = head.decode("latin-1").split("\r\n")
        method, _, rest = lines[0].partition(" ")
        path = rest.partition(" ")[0].partition("?")[0]
        accept = next((line.partition(":")[2].strip() for line in lines if line.lower().startswith("accept:")), "")
        answer = await self._answer(method, path, accept)
        fields = [
            f"HTTP/1.1 {answer.status.value} {answer.status.phrase}",
            f"Content-Type: {answer.kind}",
            f"Content-Length: {len(answer.body)}",
            "Cache-Control: no-store",
            "Connection: close",
        ]
        writer.write("\r\n".join([*fields, "", ""]).encode() + (b"" if method == "HEAD" else answer.body))
        async with asyncio.timeout(READ_SECONDS):
            await writer.drain()

    async def _answer(self, method: str, path: str, accept: str) -> _Answer:
        if method not in ("GET", "HEAD"):
            return _Answer(HTTPStatus.METHOD_NOT_ALLOWED, b"only GET and HEAD\n")
        if path == "/metrics":
            return await self._metrics(accept)
        if path not in self._checks:
            return _Answer(HTTPStatus.NOT_FOUND, b"/livez, /readyz or /metrics\n")
        try:
            async with asyncio.timeout(CHECK_SECONDS):
                problem = await self._checks[path]()
        except TimeoutError:
            problem = f"no answer within {CHECK_SECONDS:g} s"
        except Exception as error:
            log.error("%s failed:\n%s", path, describe(error))
            problem = f"the check failed: {type(error).__name__}"
        status = HTTPStatus.SERVICE_UNAVAILABLE if problem else HTTPStatus.OK
        return _Answer(status, f"{problem or 'ok'}\n".encode())

    async def _metrics(self, accept: str) -> _Answer:
        try:
            encode, kind = choose_encoder(accept)
        except Exception:  # it fails at versions that are none
            encode, kind = choose_encoder("")
        try:
            async with asyncio.timeout(SCRAPE_SECONDS):
                loop = asyncio.get_running_loop()
                text: bytes = await loop.run_in_executor(self._threads, encode, self._registry)
        except Exception as error:
            log.error("the metrics cannot be read:\n%s", describe(error))
            return _Answer(HTTPStatus.SERVICE_UNAVAILABLE, f"no metrics: {type(error).__name__}\n".encode())
        return _Answer(HTTPStatus.OK, text, kind)
