# ruff: noqa: N802 (the methods are named as in the proto)
"""zoetrope.video.v1.MediaService over the gateway's media desk."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from google.protobuf import empty_pb2

from zoetrope.serving.api.names import MEDIA
from zoetrope.serving.api.zoetrope.video.v1 import media_pb2
from zoetrope.serving.gateway.auth.callers import caller
from zoetrope.serving.gateway.core.core import Core
from zoetrope.serving.gateway.errors.api_error import ApiError, invalid_argument
from zoetrope.serving.gateway.grpc import encode
from zoetrope.serving.gateway.submit.listing import check_page_size, decode_page_token, encode_page_token
from zoetrope.serving.jobs.errors import OffsetMismatch
from zoetrope.serving.jobs.media_table import Media
from zoetrope.serving.storage.upload_parts import PART_BYTES

MAX_PIECE_BYTES = 1 << 20


class MediaService:
    """The servicer; every method raises what zoetrope.serving.gateway.core.error_mapping turns into a status."""

    def __init__(self, core: Core) -> None:
        self._core = core

    async def CreateMedia(self, request: media_pb2.CreateMediaRequest, context: Any) -> media_pb2.MediaFile:
        client_media = self._core.client_media
        media = await client_media.create(caller().owner, request.size_bytes, request.sha256, request.filename)
        return encode.media_file(media)

    async def WriteMedia(
        self, requests: AsyncIterator[media_pb2.WriteMediaRequest], context: Any
    ) -> media_pb2.MediaFile:
        with self._core.revocations.stay(caller()) as stay:
            return await self._upload(stay.during(requests))

    async def _upload(self, requests: AsyncIterator[media_pb2.WriteMediaRequest]) -> media_pb2.MediaFile:
        owner, client_media = caller().owner, self._core.client_media
        media: Media | None = None
        waiting = bytearray()
        async for piece in requests:
            if media is None:
                media = await self._uploading(piece.name, owner)
            expected, size = media.received_bytes + len(waiting), media.size_bytes or 0
            if piece.offset != expected:
                raise OffsetMismatch(expected)
            if len(piece.data) > MAX_PIECE_BYTES:
                raise invalid_argument("data", f"has {len(piece.data)} bytes, at most {MAX_PIECE_BYTES} are allowed")
            if expected + len(piece.data) > size:
                raise invalid_argument("data", f"goes beyond the {size} bytes that were announced")
            waiting += piece.data
            while len(waiting) >= PART_BYTES or (waiting and media.received_bytes + len(waiting) == size):
                part = bytes(waiting[:PART_BYTES])
                media = await client_media.append(media, media.received_bytes, part)
                del waiting[: len(part)]
        if media is None:
            raise invalid_argument("name", "is not set: the first message names the upload")
        if media.received_bytes == media.size_bytes:
            media = await client_media.finish(media)
        return encode.media_file(media)

    async def GetMedia(self, request: media_pb2.GetMediaRequest, context: Any) -> media_pb2.MediaFile:
        return encode.media_file(await self._core.client_media.get(caller().owner, id_of(request.name)))

    async def ListMedia(self, request: media_pb2.ListMediaRequest, context: Any) -> media_pb2.ListMediaResponse:
        size = check_page_size(request.page_size)
        before = decode_page_token(request.page_token, "media")
        found = await self._core.media(caller(), page_size=size + 1, before=before)
        more = len(found) > size
        return media_pb2.ListMediaResponse(
            media=[encode.media_file(media) for media in found[:size]],
            next_page_token=encode_page_token(found[size - 1].created_at, found[size - 1].id, "media") if more else "",
        )

    async def DeleteMedia(self, request: media_pb2.DeleteMediaRequest, context: Any) -> empty_pb2.Empty:
        await self._core.client_media.delete(caller().owner, id_of(request.name))
        return empty_pb2.Empty()

    async def _uploading(self, name: str, owner: str) -> Media:
        media = await self._core.client_media.get(owner, id_of(name))
        if media.state != "uploading":
            raise ApiError("FAILED_PRECONDITION", "UPLOAD_COMPLETE", f"{MEDIA}{media.id} is complete")
        return media


def id_of(name: str) -> str:
    """Return the id in a name; a malformed name gives an id that no file has."""
    return name.removeprefix(MEDIA)
