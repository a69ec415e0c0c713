"""Pictures, clips and sound that clients bring: uploaded, fetched or taken from a job; examined, and kept a while."""

from __future__ import annotations

import asyncio
import base64
import binascii
import hashlib
import tempfile
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote_to_bytes

from zoetrope.model.request.schema_errors import short
from zoetrope.model.request.tasks import InvalidRequest, MediaInfo, Violation
from zoetrope.model.runtime.errors import Picklable
from zoetrope.serving.api.names import MEDIA, MEDIA_ID, OPERATIONS, new_id
from zoetrope.serving.config.settings import Settings
from zoetrope.serving.gateway.submit.media_refs import digest
from zoetrope.serving.jobs.errors import OffsetMismatch
from zoetrope.serving.jobs.job import State
from zoetrope.serving.jobs.media_table import Media, MediaTable
from zoetrope.serving.jobs.store import JobStore
from zoetrope.serving.media import MediaError
from zoetrope.serving.media.sandbox.sandbox import Sandbox
from zoetrope.serving.media.task_inputs import info_for_field
from zoetrope.serving.outbound import FetchError, Guard
from zoetrope.serving.storage.store import ArtifactError, ArtifactExists, ArtifactMissing, ArtifactStore
from zoetrope.serving.storage.upload_parts import part_key, part_keys

FETCH_SECONDS = 60.0
MAX_AT_ONCE = 4  # media of one request that are fetched at a time
MAX_FILENAME_CHARS = 255
DECODE_BYTES = 256 << 10  # of base64 at a time; a multiple of 4


class MediaNotFound(Picklable):
    """There is no such file, or it is another tenant's, or it is still being uploaded."""

    def __init__(self, field: str, name: str) -> None:
        self.violation = Violation(field, f"{short(name)} is not a known file that is ready")
        super().__init__(f"{field}: {self.violation.description}")


class UploadBroken(Exception):
    """The bytes that arrived are not those that were announced; the upload starts anew."""


@dataclass(frozen=True)
class Prepared:
    """A medium that a job can use.

    Attributes:
        info: None for a sound.
        digest: stands for it in a fingerprint. An upload counts by its bytes: who repeats a request uploads them anew,
            under another name.
    """

    id: str
    info: MediaInfo | None
    digest: str


class ClientMedia:
    """Keeps media in the artifact store, and what is known of them in the job database."""

    def __init__(
        self,
        settings: Settings,
        table: MediaTable,
        jobs: JobStore,
        artifacts: ArtifactStore,
        sandbox: Sandbox,
        guard: Guard,
    ) -> None:
        self._settings = settings
        self._table = table
        self._jobs = jobs
        self._artifacts = artifacts
        self._sandbox = sandbox
        self._guard = guard

    # Uploads.

    async def create(self, owner: str, size: int, sha256: str, filename: str, media_id: str = "") -> Media:
        """Announce an upload.

        Args:
            media_id: that it is to have; "": a new one.

        Raises:
            InvalidRequest: too large, or no checksum.
            QuotaExceeded: the tenant's media would be too much.
        """
        limit = self._settings.max_upload_bytes
        bad = []
        if not 1 <= size <= limit:
            bad.append(Violation("size_bytes", f"{size} must be from 1 to {limit}"))
        if len(sha256) != 64 or not set(sha256) <= set("0123456789abcdef"):
            bad.append(Violation("sha256", f"{short(sha256)} is not 64 digits of lower-case hexadecimal"))
        if len(filename) > MAX_FILENAME_CHARS or "\0" in filename:
            description = f"has {len(filename)} characters, at most {MAX_FILENAME_CHARS} without NUL are allowed"
            bad.append(Violation("filename", description))
        if bad:
            raise InvalidRequest(*bad)
        most = self._settings.max_media_bytes
        return await asyncio.to_thread(self._table.create, self._new(owner, size, sha256, filename, media_id), most)

    async def get(self, owner: str, media_id: str) -> Media:
        """
        Raises:
            MediaNotFound.
        """
        media = await asyncio.to_thread(self._table.get, media_id, owner)
        if media is None:
            raise MediaNotFound("name", MEDIA + media_id)
        return media

    async def ready(self, owner: str, media_id: str) -> Media:
        """Return a file that is complete.

        Raises:
            MediaNotFound.
        """
        media = await self.get(owner, media_id)
        if media.state != "ready":
            raise MediaNotFound("name", MEDIA + media_id)
        return media

    async def append(self, media: Media, offset: int, data: bytes) -> Media:
        """Store the next PART_BYTES of an upload, or what is left of it.

        Raises:
            OffsetMismatch: it does not belong there.
            UploadBroken: other bytes of this place arrived before.
        """
        if offset != media.received_bytes:
            raise OffsetMismatch(media.received_bytes)
        key = part_key(media.id, offset)
        try:
            await asyncio.to_thread(self._artifacts.put_bytes, key, data, "application/octet-stream")
        except ArtifactExists:
            raise UploadBroken("the bytes are not those that were sent before; announce the upload anew") from None
        return await asyncio.to_thread(self._table.advance, media.id, media.owner, offset, len(data))

    async def finish(self, media: Media) -> Media:
        """Compare the checksum of an upload that is complete and examine the file; when it is not accepted, the upload
        is gone.

        Raises:
            UploadBroken: the checksum differs.
            InvalidRequest: the file is none that can be used.
        """
        with self._scratch() as directory:
            path = Path(directory) / "upload"
            try:
                if await asyncio.to_thread(self._join, media, path) != media.sha256:
                    raise UploadBroken("the file arrived with another SHA-256 than announced; announce it anew")
                ready = await self._examine_and_store(media, path)
            except (UploadBroken, InvalidRequest):
                await self.delete(media.owner, media.id)
                raise
        await self._drop_parts(media)
        return ready

    async def add_file(self, owner: str, path: Path, filename: str, media_id: str = "") -> Media:
        """Add a file that is here already, such as a form's. ``media_id``: see `create`.

        Raises:
            InvalidRequest: too large, or none that can be used.
        """
        size = path.stat().st_size
        sha256 = await asyncio.to_thread(_sha256, path)
        media = await self.create(owner, size, sha256, filename[:MAX_FILENAME_CHARS].replace("\0", ""), media_id)
        try:
            return await self._examine_and_store(media, path)
        except BaseException:
            await asyncio.to_thread(self._table.delete, media.id, owner)
            raise

    async def delete(self, owner: str, media_id: str) -> None:
        """
        Raises:
            UnknownMedia; MediaInUse: by a job that is not done.
        """
        media = await self.get(owner, media_id)
        key = await asyncio.to_thread(self._table.delete, media_id, owner)
        await self._drop_parts(media)
        if key is not None:
            await asyncio.to_thread(self._artifacts.delete, [key])

    # What a request names.

    async def prepare(self, media: Mapping[str, str], fields: Mapping[str, str], owner: str) -> dict[str, Prepared]:
        """Have all media of a request at hand.

        Args:
            media: placeholder -> media/ID, operations/ID, or an http, https or data address.
            fields: placeholder -> field, for errors.

        Raises:
            InvalidRequest: with every medium that cannot be fetched or used.
            MediaNotFound.
        """
        if not media:
            return {}
        slots = asyncio.Semaphore(MAX_AT_ONCE)
        bad: dict[str, tuple[Violation, ...]] = {}

        async def one(placeholder: str, source: str) -> tuple[str, Prepared | None]:
            async with slots:
                try:
                    found = await self._prepare(source, fields[placeholder], owner)
                except InvalidRequest as error:
                    bad[placeholder] = tuple(Violation(fields[placeholder], v.description) for v in error.violations)
                    return placeholder, None
            return placeholder, found

        pairs = await asyncio.gather(*(one(*item) for item in media.items()))
        if bad:
            raise InvalidRequest(*(violation for placeholder in media for violation in bad.get(placeholder, ())))
        found = {placeholder: item for placeholder, item in pairs if item is not None}
        until = time.time() + self._settings.media_retention_seconds
        await asyncio.to_thread(self._table.touch, [item.id for item in found.values()], owner, until)
        return found

    async def _prepare(self, source: str, field: str, owner: str) -> Prepared:
        media = await self._find(source, field, owner)
        print_of_medium = media.sha256 if source.startswith(MEDIA) else None
        if print_of_medium is None:
            print_of_medium = await asyncio.to_thread(digest, source)  # of megabytes, where it is a data: address
        return Prepared(media.id, info_for_field(media.info or {}, field), print_of_medium)

    async def _find(self, source: str, field: str, owner: str) -> Media:
        if source.startswith(MEDIA):
            media = await asyncio.to_thread(self._table.get, source.removeprefix(MEDIA), owner)
            if media is None or media.state != "ready":
                raise MediaNotFound(field, source)
            return media
        with self._scratch() as directory:
            path = Path(directory) / "file"
            if source.startswith(OPERATIONS):
                await self._copy_result(source.removeprefix(OPERATIONS), path, field, owner)
                return await self.add_file(owner, path, "video.mp4")
            if source.startswith("data:"):
                await asyncio.to_thread(_write_data, source, self._settings.max_upload_bytes, path)
                return await self.add_file(owner, path, "")
            if source.startswith(("http://", "https://")):
                await self._fetch(source, path)
                return await self.add_file(owner, path, "")
        raise InvalidRequest(
            Violation(field, f"{short(source)} is no uploaded file ({MEDIA}...) and no http, https or data address")
        )

    async def _fetch(self, url: str, path: Path) -> None:
        limit = self._settings.max_upload_bytes
        try:
            await self._guard.fetch(url, limit_bytes=limit, timeout_seconds=FETCH_SECONDS, to=path)
        except FetchError as error:
            raise InvalidRequest(Violation("", str(error))) from None

    async def _copy_result(self, job_id: str, path: Path, field: str, owner: str) -> None:
        job = await asyncio.to_thread(self._jobs.get, job_id, owner)
        if job is None or job.state is not State.SUCCEEDED or job.result is None:
            raise MediaNotFound(field, OPERATIONS + job_id)
        try:
            await asyncio.to_thread(self._artifacts.copy_to, job.result["video"]["key"], path)
        except ArtifactMissing:
            raise MediaNotFound(field, OPERATIONS + job_id) from None

    async def _examine_and_store(self, media: Media, path: Path) -> Media:
        try:
            found = await self._sandbox.examine(path, tenant=media.owner)
        except MediaError as error:
            raise InvalidRequest(Violation("data", str(error))) from None
        key = f"media/{media.id}"
        await asyncio.to_thread(self._artifacts.put_file, key, path, found.mime_type)
        ready = await asyncio.to_thread(
            self._table.ready,
            media.id,
            media.owner,
            sha256=media.sha256 or "",
            key=key,
            info=found.info,
            mime_type=found.mime_type,
        )
        if ready.key != key:  # the owner had the same bytes already
            await asyncio.to_thread(self._artifacts.delete, [key])
        return ready

    def _new(self, owner: str, size: int, sha256: str, filename: str, media_id: str) -> Media:
        now = time.time()
        return Media(
            id=media_id or new_id(MEDIA_ID),
            owner=owner,
            state="uploading",
            key=None,
            sha256=sha256,
            size_bytes=size,
            received_bytes=0,
            mime_type="",
            filename=filename,
            info=None,
            created_at=now,
            expire_at=now + self._settings.media_retention_seconds,
        )

    def _join(self, media: Media, path: Path) -> str:
        digest = hashlib.sha256()
        with path.open("wb") as file:
            for key in part_keys(media):
                for chunk in self._artifacts.read(key):
                    digest.update(chunk)
                    file.write(chunk)
        return digest.hexdigest()

    async def _drop_parts(self, media: Media) -> None:
        with suppress(ArtifactError):  # the sweeper comes by again
            await asyncio.to_thread(self._artifacts.delete, part_keys(media))

    def _scratch(self) -> tempfile.TemporaryDirectory[str]:
        self._settings.scratch.mkdir(parents=True, exist_ok=True)
        return tempfile.TemporaryDirectory(dir=self._settings.scratch)


def data_bytes(url: str, limit: int) -> bytes:
    """Return what a data: URL (RFC 2397) holds.

    Raises:
        InvalidRequest: it is malformed or too long.
    """
    head, comma, body = url.removeprefix("data:").partition(",")
    if not comma:
        raise InvalidRequest(Violation("", "is a data: address without a comma"))
    if len(body) > limit * 4:
        raise InvalidRequest(Violation("", f"is a data: address of more than {limit} bytes"))
    try:
        data = unquote_to_bytes(body)
        if head.endswith(";base64"):
            data = _decode(data)
    except (binascii.Error, ValueError):
        raise InvalidRequest(Violation("", "is a data: address whose base64 is malformed")) from None
    if not 1 <= len(data) <= limit:
        raise InvalidRequest(Violation("", f"is a data: address of {len(data)} bytes, 1 to {limit} are allowed"))
    return data


def _decode(text: bytes) -> bytes:
    """Decode base64 in pieces: in one go, megabytes of it would hold the interpreter, and so all other calls.

    Raises:
        binascii.Error: it is malformed.
    """
    if 0 <= text.find(b"=") < len(text) - 2:
        raise binascii.Error("padding within the data")
    pieces = range(0, len(text), DECODE_BYTES)
    return b"".join(base64.b64decode(text[start : start + DECODE_BYTES], validate=True) for start in pieces)


def _write_data(url: str, limit: int, path: Path) -> None:
    path.write_bytes(data_bytes(url, limit))


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
