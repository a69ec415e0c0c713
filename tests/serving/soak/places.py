"""Where the service of a soak keeps what lasts: a database, files and a disk, each behind something that can fail."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import httpx

from tests.serving.soak.proxy import Proxy, Streams
from tests.serving.soak.service import free_port, until

DISK_BYTES = 512 << 20  # far more than all files of a soak
CREDENTIALS = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret"}


@dataclass(frozen=True)
class Places:
    """``database`` and ``artifacts`` are addresses past the proxies; ``settings`` sends a service through them."""

    data: Path
    database: str
    artifacts: str
    settings: Mapping[str, str]
    file: Path | None  # of SQLite
    disk: Path | None  # a file system of the data directory alone
    database_proxy: Proxy | None
    bucket_proxy: Proxy | None


@contextmanager
def open_places(directory: Path, postgres: str, s3: bool) -> Iterator[Places]:
    """
    Args:
        postgres: the URL of a database; "": SQLite. s3: files lie in a bucket of a server of our own.
    """
    data = directory / "data"
    data.mkdir(parents=True)
    settings = {"ZOETROPE_DATA_DIR": str(data)}
    database, artifacts = postgres or f"sqlite:///{data / 'jobs.db'}", str(data / "artifacts")
    database_proxy = bucket_proxy = None
    with ExitStack() as stack:
        disk = stack.enter_context(_disk(data))
        if postgres:
            connect, address = postgres_behind(postgres)
            database_proxy = Proxy(connect)
            stack.callback(database_proxy.close)
            settings["ZOETROPE_DATABASE"] = address.format(port=database_proxy.port)
        if s3:
            port = stack.enter_context(bucket())
            bucket_proxy = Proxy(partial(asyncio.open_connection, "127.0.0.1", port))
            stack.callback(bucket_proxy.close)
            stack.enter_context(environment(CREDENTIALS))
            url = "s3://bucket/soak?endpoint=http://127.0.0.1:{}"
            artifacts, settings["ZOETROPE_ARTIFACT_STORE"] = url.format(port), url.format(bucket_proxy.port)
        file = None if postgres else data / "jobs.db"
        yield Places(data, database, artifacts, settings, file, disk, database_proxy, bucket_proxy)


@contextmanager
def _disk(folder: Path) -> Iterator[Path | None]:
    """A small file system there, where we may mount one."""
    mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode:
        yield None
        return
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def postgres_behind(url: str) -> tuple[Callable[[], Awaitable[Streams]], str]:
    """How to connect to a server, and the address of a proxy in front of it less its port."""
    from psycopg.conninfo import conninfo_to_dict

    parts = {name: str(value) for name, value in conninfo_to_dict(url).items()}
    host, port = parts.get("host", "127.0.0.1"), parts.get("port", "5432")
    address = f"postgresql://{parts['user']}@127.0.0.1:{{port}}/{parts['dbname']}?sslmode=disable"
    if host.startswith("/"):
        return partial(asyncio.open_unix_connection, f"{host}/.s.PGSQL.{port}"), address
    return partial(asyncio.open_connection, host, int(port)), address


@contextmanager
def bucket() -> Iterator[int]:
    """A server that speaks S3 and has one bucket; its port."""
    port = free_port()
    server = subprocess.Popen(
        [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )

    def made() -> bool:
        assert server.poll() is None, "the S3 server ended"
        try:
            return httpx.put(f"http://127.0.0.1:{port}/bucket").is_success
        except httpx.TransportError:
            return False

    try:
        until(made, 60, "a bucket is there")
        yield port
    finally:
        server.kill()
        server.wait()


@contextmanager
def environment(values: Mapping[str, str]) -> Iterator[None]:
    before = dict(os.environ)
    os.environ.update(values)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)
