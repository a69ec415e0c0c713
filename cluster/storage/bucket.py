"""Objects by key in a bucket, through obstore."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from datetime import datetime, timedelta
from itertools import chain
from urllib.parse import parse_qs, unquote, urlsplit
from uuid import uuid4

import obstore
from obstore.exceptions import AlreadyExistsError, NotSupportedError
from obstore.store import ObjectStore, S3Store, from_url

PARTS = "parts"  # where `check` writes
# Up to this size an object goes up in one request, which the bucket takes only where the key is free.
SINGLE_PUT_BYTES = 32 << 20
CHUNK_BYTES = 8 << 20  # of a multipart upload
CONCURRENT_CHUNKS = 4
REQUEST_TIMEOUT = timedelta(seconds=60)
RETRY_TIMEOUT = timedelta(seconds=30)
CHECK_TIMEOUT = timedelta(seconds=5)
OPTIONS = ("endpoint", "region", "conditional_put", "virtual_hosted_style_request")


class BucketObjects:
    """A bucket, or what lies under a prefix in it.

    Methods raise obstore's errors: FileNotFoundError for an unknown key, FileExistsError for a taken one.

    * Objects of up to SINGLE_PUT_BYTES are created with ``If-None-Match: *``: of two writers of a key one wins. Larger
      ones, and all where ``conditional_put=disabled``, are put after checking that the key is free, so that of two who
      write the same key at the same moment both may succeed and the later object stays, whole. Keys carry job ids and
      epochs, so nobody does.
    * An interrupted multipart upload leaves hidden parts: give the bucket a lifecycle rule for incomplete uploads.
    """

    def __init__(self, url: str, single_put_bytes: int = SINGLE_PUT_BYTES) -> None:
        """Open a bucket; nothing is sent yet.

        Args:
            url: ``s3://bucket/prefix?endpoint=http://host:9000&region=eu-central-1``; credentials, and what the query
                leaves out, come from the AWS_* variables or the machine's role. Others, such as ``gs://``, ``az://``
                and ``memory://`` (this object alone), as obstore takes them.

        Raises:
            ValueError, BaseError: the URL is malformed or of an unknown kind.
        """
        self._single_put_bytes = single_put_bytes
        if url.startswith("s3://"):
            self._store: ObjectStore = _open_s3(url, REQUEST_TIMEOUT, RETRY_TIMEOUT, 5)
            self._checked: ObjectStore = _open_s3(url, CHECK_TIMEOUT, CHECK_TIMEOUT, 1)
        else:
            self._store = self._checked = from_url(url)

    def create(self, key: str, chunks: Iterable[bytes], mime_type: str, filename: str | None) -> None:
        """Write an object under a key that must be free. It appears whole."""
        source = iter(chunks)
        head, whole = _up_to(source, self._single_put_bytes)
        if self._has(key):
            for _ in source:  # the caller counts and hashes what it hands over
                pass
            raise FileExistsError(key)
        attributes = {"Content-Type": mime_type}
        if filename:
            attributes["Content-Disposition"] = f'inline; filename="{filename}"'
        if whole:
            data = b"".join(head)
            try:
                obstore.put(self._store, key, data, mode="create", attributes=attributes)
            except AlreadyExistsError:
                raise FileExistsError(key) from None
            except (NotSupportedError, NotImplementedError):  # conditional_put=disabled
                obstore.put(self._store, key, data, attributes=attributes)
            return
        writer = obstore.open_writer(
            self._store, key, attributes=attributes, buffer_size=CHUNK_BYTES, max_concurrency=CONCURRENT_CHUNKS
        )
        for chunk in chain(head, source):
            writer.write(chunk)
        writer.close()  # only now there is an object; without it, hidden parts

    def put(self, key: str, chunks: Iterable[bytes | memoryview]) -> None:
        """Write an object, or replace it. It appears whole."""
        obstore.put(self._store, key, iter(chunks))

    def size(self, key: str) -> int:
        return obstore.head(self._store, key)["size"]

    def read(self, key: str) -> bytes:
        return bytes(obstore.get(self._store, key).bytes())

    def read_range(self, key: str, start: int, end: int) -> bytes:
        return bytes(obstore.get_range(self._store, key, start=start, end=end))

    def delete(self, key: str) -> None:
        """Remove an object, if it is there."""
        try:
            obstore.delete(self._store, key)
        except FileNotFoundError:
            return

    def list_keys(self, folder: str, before: datetime | None = None) -> list[str]:
        """Return the keys below ``folder/``, or those written before a time (aware of its zone)."""
        return [
            item["path"]
            for batch in obstore.list(self._store, f"{folder}/")
            for item in batch
            if before is None or item["last_modified"] < before
        ]

    def local_path(self, key: str) -> None:
        """Return None: nothing here is a local file."""

    def sign(self, key: str, seconds: float) -> str | None:
        """Return an address from which anybody can GET the object for so long; None where the store has none."""
        if not isinstance(self._store, S3Store):
            return None
        return obstore.sign(self._store, "GET", key, timedelta(seconds=seconds))

    def check(self) -> None:
        """Raise obstore's errors where an object could not be written now; takes a few seconds at most."""
        key = f"{PARTS}/{uuid4().hex}"
        obstore.put(self._checked, key, b"zoetrope")
        obstore.delete(self._checked, key)

    def discard_parts(self) -> None:
        """Do nothing: unfinished uploads belong to the bucket, and other gateways may be writing."""

    def discard_unfinished(self, folder: str) -> None:
        """Do nothing: an object store never shows what is unfinished."""

    def _has(self, key: str) -> bool:
        try:
            obstore.head(self._store, key)
        except FileNotFoundError:
            return False
        return True


def _open_s3(url: str, timeout: timedelta, retry_timeout: timedelta, retries: int) -> S3Store:
    parts = urlsplit(url)
    options = {name: values[-1] for name, values in parse_qs(parts.query, keep_blank_values=True).items()}
    unknown = sorted(set(options) - set(OPTIONS))
    if unknown:
        raise ValueError(f"option {unknown[0]!r} is not one of {', '.join(OPTIONS)}")
    if not parts.netloc or "@" in parts.netloc or ":" in parts.netloc:
        raise ValueError("the URL must be s3://bucket/prefix; credentials come from AWS_* variables")
    given = (options.get("endpoint"), os.environ.get("AWS_ENDPOINT_URL_S3"), os.environ.get("AWS_ENDPOINT_URL"))
    endpoint = next(filter(None, given), None)
    config: dict[str, str] = {name: value for name, value in options.items() if name != "endpoint"}
    if endpoint:
        if not endpoint.startswith(("http://", "https://")):
            raise ValueError("the endpoint must be http://HOST:PORT or https://HOST")
        config["endpoint"] = endpoint
        # A store behind an address of its own rarely has regions; signatures need one all the same.
        if not any(os.environ.get(name) for name in ("AWS_REGION", "AWS_DEFAULT_REGION")):
            config.setdefault("region", "us-east-1")
    return S3Store(
        parts.netloc,
        prefix=unquote(parts.path).strip("/") or None,
        config=config,  # type: ignore[arg-type]
        client_options={
            "allow_http": bool(endpoint and endpoint.startswith("http://")),
            "timeout": timeout,
            "connect_timeout": CHECK_TIMEOUT,
        },
        retry_config={"max_retries": retries, "retry_timeout": retry_timeout},
    )


def _up_to(source: Iterator[bytes], limit: int) -> tuple[list[bytes], bool]:
    """The first chunks, a little more than ``limit`` bytes of them at most, and whether that is all."""
    taken, size = [], 0
    for chunk in source:
        taken.append(chunk)
        size += len(chunk)
        if size > limit:
            return taken, False
    return taken, True
