"""The parts of a deployment beside Ray, as processes: Redis, gateways and the sweeper."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from tests.serving.soak.service import free_port, until
from zoetrope.serving.cli.service import Addresses, ServiceProcess

START_SECONDS = 120.0
STOP_SECONDS = 30.0


@contextmanager
def redis() -> Iterator[str]:
    """HOST:PORT of a server that keeps everything in memory; skips the test where there is none."""
    program = shutil.which("redis-server")
    if program is None:
        pytest.skip("redis-server is not installed (`make redis`)")
    port = free_port()
    command = [program, "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def answers() -> bool:
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), 1.0) as connection:
            connection.sendall(b"PING\r\n")
            return connection.recv(16).startswith(b"+PONG")
        return False

    try:
        until(answers, START_SECONDS, "Redis answers")
        yield f"127.0.0.1:{port}"
    finally:
        server.kill()
        server.wait()


@contextmanager
def gateway(variables: Mapping[str, str], log: Path) -> Iterator[Addresses]:
    """`zoetrope gateway` on ports of its own."""
    command = [sys.executable, "-m", "zoetrope.serving.cli", "gateway", "--grpc", "127.0.0.1:0"]
    process = ServiceProcess([*command, "--http", "127.0.0.1:0"], log, {**os.environ, **variables})
    try:
        yield process.wait_ready(START_SECONDS)
    finally:
        process.stop()


@contextmanager
def sweeper(variables: Mapping[str, str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """`zoetrope sweeper`, whose standard input is empty as in a container."""
    command = [sys.executable, "-m", "zoetrope.serving.cli", "sweeper"]
    with log.open("wb") as file:
        process = subprocess.Popen(
            command, env={**os.environ, **variables}, stdin=subprocess.DEVNULL, stdout=file, stderr=file
        )
    try:
        until(lambda: process.poll() is None and b"ready" in log.read_bytes(), START_SECONDS, "the sweeper is ready")
        yield process
    finally:
        process.terminate()
        assert process.wait(STOP_SECONDS) == 0
