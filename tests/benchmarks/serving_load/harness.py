"""A gateway whose jobs a stand-in for the router ends, and a server that speaks OpenAI's videos API alone."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from email import message_from_bytes
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from tests.serving.gateway.harness import Service, running_service
from zoetrope.benchmarks.gateway.null_engine import NullEngine, one_video

STEPS, STEP_SECONDS = 2, 0.02


@contextmanager
def served(directory: Path, **settings: Any) -> Iterator[Service]:
    """A real gateway, and a null engine that completes what it accepts."""
    with running_service(directory, model="nano", **settings) as service:
        engine = NullEngine(service.stores.jobs, "nano", one_video(service.settings), 8, STEPS, STEP_SECONDS)
        stop = threading.Event()
        thread = threading.Thread(target=engine.run, args=(stop,))
        thread.start()
        try:
            yield service
        finally:
            stop.set()
            thread.join()


@dataclass
class Peer:
    """A server of OpenAI's videos API that makes nothing.

    Attributes:
        refuse: the status of every create; 0: they are accepted. fail: the numbers of jobs that fail. usage: of all.
        slow: a job that never begins.
        asked: the fields of each job, and the files by their names. on_show: called with a job that is asked about.
    """

    seconds: float = 0.05
    refuse: int = 0
    fail: frozenset[int] = frozenset()
    usage: dict[str, Any] = field(default_factory=dict)
    slow: str = ""
    asked: list[dict[str, Any]] = field(default_factory=list)
    made: dict[str, float] = field(default_factory=dict)
    deleted: set[str] = field(default_factory=set)
    keys: set[str] = field(default_factory=set)
    address: str = ""
    on_show: Callable[[str], None] = lambda name: None

    def create(self, fields: dict[str, Any]) -> dict[str, Any]:
        self.asked.append(fields)
        name = f"video_{len(self.asked) - 1}"
        self.made[name] = time.monotonic()
        return self.show(name)

    def show(self, name: str) -> dict[str, Any]:
        age, number = time.monotonic() - self.made[name], int(name.removeprefix("video_"))
        video: dict[str, Any] = {"id": name, "object": "video", "seconds": "0.5"}
        if name in self.deleted:
            return {**video, "status": "failed", "error": {"code": "cancelled", "message": "it was cancelled"}}
        if name == self.slow or age < self.seconds / 2:
            return {**video, "status": "queued"}
        if age < self.seconds:
            return {**video, "status": "in_progress"}
        if number in self.fail:
            return {**video, "status": "failed", "error": {"code": "out_of_memory", "message": "too large"}}
        return {**video, "status": "completed", "usage": self.usage}


@contextmanager
def peer(**settings: Any) -> Iterator[Peer]:
    """Run one on a free port."""
    state = Peer(**settings)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path == "/v1/models":
                self._say({"object": "list", "data": [{"id": "peer-model", "object": "model"}]})
            else:
                name = self.path.rpartition("/")[2]
                state.on_show(name)
                self._say(state.show(name))

        def do_DELETE(self) -> None:
            state.deleted.add(self.path.rpartition("/")[2])
            self._say({"deleted": True})

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            state.keys.add(self.headers.get("authorization", ""))
            if state.refuse:
                self._say({"error": {"message": "the queue is full"}}, state.refuse)
                return
            self._say(state.create({"path": self.path, **_form(self.headers["content-type"], body)}))

        def _say(self, value: dict[str, Any], status: int = 200) -> None:
            body = json.dumps(value).encode()
            self.send_response(status)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    state.address = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield state
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def _form(content_type: str, body: bytes) -> dict[str, Any]:
    """The fields of a form; of files, their names."""
    parts = message_from_bytes(b"Content-Type: " + content_type.encode() + b"\r\n\r\n" + body)
    found: dict[str, Any] = {}
    for part in parts.walk():
        if part.is_multipart():
            continue
        name = str(part.get_param("name", header="content-disposition"))
        filename = part.get_filename()
        payload = part.get_payload(decode=True)
        assert isinstance(payload, bytes)
        found[name] = [*found.get(name, []), filename] if filename else payload.decode()
    return found
