"""The background loop of the client that blocks: interrupts, threads, forks, and the end of the interpreter."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import pytest

from tests.serving.gateway.harness import until
from zoetrope.serving.api.zoetrope.video.v1 import video_pb2
from zoetrope.serving.client import ClientError, VideoClient, portal

NAME = "operations/vid_1"
CHUNK = bytes(1 << 20)


class Double(grpc.GenericRpcHandler):  # type: ignore[misc]  # grpc has no types
    """A service whose jobs are never done: get answers at once, wait and watch do not end."""

    def __init__(self) -> None:
        self.started: Counter[str] = Counter()
        self.ended: Counter[str] = Counter()
        self.chunks = 0
        self.target = ""

    def service(self, details: Any) -> Any:
        name = details.method.rpartition("/")[2]
        return {
            "GetOperation": grpc.unary_unary_rpc_method_handler(lambda request, context: request),
            "WaitOperation": grpc.unary_unary_rpc_method_handler(self.hang(name)),
            "WatchVideo": grpc.unary_stream_rpc_method_handler(self.watch),
            "DownloadVideo": grpc.unary_stream_rpc_method_handler(self.download),
        }[name]

    def hang(self, name: str) -> Callable[[bytes, Any], bytes]:
        def wait(request: bytes, context: Any) -> bytes:
            over = threading.Event()
            context.add_callback(over.set)
            self.started[name] += 1
            over.wait(30)
            self.ended[name] += 1
            return b""

        return wait

    def watch(self, request: bytes, context: Any) -> Iterator[bytes]:
        yield video_pb2.WatchVideoResponse(metadata=video_pb2.VideoMetadata(step=1)).SerializeToString()
        self.hang("WatchVideo")(request, context)

    def download(self, request: bytes, context: Any) -> Iterator[bytes]:
        for i in range(100):
            self.chunks += 1
            yield video_pb2.DownloadVideoResponse(
                offset=i * len(CHUNK), data=CHUNK, total_bytes=100 * len(CHUNK)
            ).SerializeToString()


@pytest.fixture
def double() -> Iterator[Double]:
    handler = Double()
    server = grpc.server(ThreadPoolExecutor(16), handlers=[handler])
    handler.target = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()
    yield handler
    server.stop(0).wait()


OPENING = """
import os, signal, sys, threading, time
from zoetrope import VideoClient
client = VideoClient(sys.argv[1])
def say(*words):
    os.write(1, (" ".join(map(str, words)) + "\\n").encode())  # a line whole, also where Python does not buffer
"""


def script(double: Double, body: str) -> subprocess.CompletedProcess[str]:
    """Run code that has a client ``client`` of the double, with warnings as errors."""
    code = f"{OPENING}\n{body}"
    command = [sys.executable, "-X", "dev", "-W", "error", "-c", code, double.target]
    env = {**os.environ, "GRPC_VERBOSITY": "NONE"}
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=100, check=False)
    # In development mode asyncio reports callbacks that took long, as any does on a busy machine.
    done.stderr = "".join(line for line in done.stderr.splitlines(True) if not line.startswith("Executing <"))
    return done


INTERRUPTED = """
client.get("x")
for call in (lambda: client.wait("x"), lambda: list(client.watch("x"))):
    threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT)).start()
    started = time.monotonic()
    try:
        call()
    except KeyboardInterrupt:
        print("interrupted" if time.monotonic() - started < 5 else "late")
print(client.get("y").name)
"""


def test_an_interrupt_cancels_the_call(double: Double) -> None:
    done = script(double, INTERRUPTED)
    assert (done.returncode, done.stdout.split(), done.stderr) == (0, ["interrupted", "interrupted", "y"], "")
    until(lambda: double.ended == {"WaitOperation": 1, "WatchVideo": 1})


@pytest.mark.parametrize(
    "body",
    [
        "client.get('x')",
        "steps = client.watch('x'); next(steps)",
        "threading.Thread(target=client.wait, args=('x',), daemon=True).start(); time.sleep(0.5)",
        "client.get('x'); sys.exit(0)",
        "",
    ],
)
def test_an_interpreter_ends_with_a_client_open(double: Double, body: str) -> None:
    done = script(double, body)
    assert done.returncode == 0
    if "daemon" not in body:  # whose call is told that it was cancelled
        assert done.stderr == ""


FORKED = """
client.get("x")
child = os.fork()
say(client.get("x").name)
with VideoClient(sys.argv[1]) as other:
    say(other.get("y").name)
if child:
    say(os.waitpid(child, 0)[1], client.get("z").name)
"""


def test_a_client_survives_a_fork(double: Double) -> None:
    done = script(double, FORKED)
    assert (done.returncode, done.stderr) == (0, "")
    assert sorted(done.stdout.split()) == ["0", "x", "x", "y", "y", "z"]


FORKED_BUSY = """
steps = client.watch("x")
next(steps)
child = os.fork()
if not child:
    for one in (client, VideoClient(sys.argv[1])):
        try:
            one.get("x")
        except RuntimeError as error:
            say(error)
    os._exit(0)
say(os.waitpid(child, 0)[1], client.get("z").name)
"""


def test_a_fork_during_a_call_leaves_the_parent_working_and_tells_the_child(double: Double) -> None:
    done = script(double, FORKED_BUSY)
    *told, last = done.stdout.splitlines()
    status, name = last.split()
    assert (done.returncode, name) == (0, "z")
    if os.WIFSIGNALED(int(status)):  # grpc's threads crash in about one child of ten
        assert os.WTERMSIG(int(status)) in (signal.SIGSEGV, signal.SIGABRT)
    else:
        assert (int(status), told) == (0, [portal.BROKEN] * 2)


def test_closing_ends_calls_in_other_threads(double: Double) -> None:
    client = VideoClient(double.target)
    steps = client.watch(NAME)
    assert next(steps).step == 1
    with ThreadPoolExecutor(2) as threads:
        waiting = threads.submit(client.wait, NAME)
        stepping = threads.submit(next, steps)
        until(lambda: double.started == {"WaitOperation": 1, "WatchVideo": 1})
        client.close()
        for call in (waiting, stepping):
            with pytest.raises(ClientError, match=r"^the client was closed$") as caught:
                call.result(20)
            assert caught.value.code == "CANCELLED"
    with pytest.raises(ValueError, match=r"^the client is closed$"):
        client.get(NAME)
    until(lambda: double.ended == {"WaitOperation": 1, "WatchVideo": 1})
    assert client_threads() == 0


def client_threads() -> int:
    return sum(thread.name == "zoetrope-client" for thread in threading.enumerate())


def test_threads_share_a_client_and_only_wait_for_themselves(double: Double) -> None:
    with VideoClient(double.target) as client, ThreadPoolExecutor(8) as threads:
        waiting = threads.submit(client.wait, NAME, 0.0)
        names = [f"operations/{i}" for i in range(100)]
        assert [status.name for status in threads.map(client.get, names)] == names
        assert client_threads() == 1
        assert not waiting.done()
        client.close()


async def test_a_client_works_inside_a_running_loop(double: Double) -> None:
    with VideoClient(double.target) as client:
        assert client.get(NAME).name == NAME
        assert next(client.watch(NAME)).step == 1
        assert (await asyncio.to_thread(client.get, NAME)).name == NAME


def test_streams_are_read_as_they_are_consumed(double: Double) -> None:
    with VideoClient(double.target) as client:
        parts = client.read(NAME)
        assert next(parts) == CHUNK
        time.sleep(1)
        assert double.chunks < 50  # of 100: what gRPC and the sockets hold
        assert sum(map(len, parts)) == 99 * len(CHUNK)


def test_an_abandoned_iterator_ends_its_call(double: Double) -> None:
    with VideoClient(double.target) as client:
        steps = client.watch(NAME)
        next(steps)
        until(lambda: double.started["WatchVideo"])
        del steps
        gc.collect()
        until(lambda: double.ended["WatchVideo"])


def test_an_iterator_keeps_its_client_and_a_forgotten_client_ends(double: Double) -> None:
    steps = VideoClient(double.target).watch(NAME)
    assert next(steps).step == 1
    gc.collect()
    assert client_threads() == 1
    del steps
    until(lambda: gc.collect() is not None and client_threads() == 0)
    until(lambda: double.ended["WatchVideo"])


def test_progress_may_use_the_client(double: Double, tmp_path: Any) -> None:
    with VideoClient(double.target) as client:
        seen: list[str] = []
        with pytest.raises(ClientError, match="wrong SHA-256"):
            client.download(NAME, tmp_path / "out", on_progress=lambda have, total: seen.append(client.get(NAME).name))
        assert seen == [NAME] * 100


def test_no_client_is_made_in_the_midst_of_a_fork() -> None:
    """A set that grew while it was gone through once left the child with loops that were dead."""
    maker = threading.Thread(target=lambda: VideoClient("localhost:1").close())
    portal._forks.before()
    try:
        maker.start()
        maker.join(0.2)
        assert maker.is_alive()
    finally:
        portal._forks.after(child=False)
    maker.join(10)
    assert not maker.is_alive()
