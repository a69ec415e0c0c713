"""The rows of media: clients' uploads and inputs fetched for them. The artifact store has the files."""

from __future__ import annotations

import builtins
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from zoetrope.serving.jobs.db.database import Database, Tx
from zoetrope.serving.jobs.db.records import from_row, insert, to_column, to_values
from zoetrope.serving.jobs.errors import MediaInUse, OffsetMismatch, QuotaExceeded, UnknownMedia

LOCK = "media"  # which media share a key does not change before the commit
USED = (
    "EXISTS (SELECT 1 FROM job_media JOIN job ON job.id = job_media.job_id"
    " WHERE job_media.media_id = media.id AND job.finished_at IS NULL)"
)


@dataclass(frozen=True)
class Media:
    """One row. Times are seconds since the epoch (UTC)."""

    id: str
    owner: str
    state: Literal["uploading", "ready"]
    key: str | None  # of the file in the artifact store; several media of an owner may share one
    sha256: str | None
    size_bytes: int | None  # None during an upload of unknown length
    received_bytes: int
    mime_type: str | None
    filename: str | None
    info: dict[str, Any] | None  # what the decoder found: size, length and so on; opaque here
    created_at: float
    expire_at: float


class MediaTable:
    """Media, each of one owner. Every method may raise StoreError."""

    def __init__(self, database: Database) -> None:
        self._db = database

    def create(self, media: Media, max_bytes: int | None = None) -> Media:
        """Store a new row, with ``created_at`` set to now; its state is "ready" if the file is complete.

        Raises:
            QuotaExceeded: the announced sizes of all the owner's media would exceed ``max_bytes``.
        """

        def body(tx: Tx) -> Media:
            if max_bytes is not None:
                row = tx.one("SELECT sum(size_bytes) AS size FROM media WHERE owner = ?", (media.owner,))
                used = int((row["size"] if row is not None else None) or 0)
                if used + (media.size_bytes or 0) > max_bytes:
                    raise QuotaExceeded("media_bytes", max_bytes, used)
            values = to_values(replace(media, created_at=tx.now()))
            tx.run(insert("media", tuple(values)), tuple(values.values()))
            return _get(tx, media.id, media.owner)

        return self._db.write(body, lock=LOCK)

    def advance(self, media_id: str, owner: str, offset: int, count: int) -> Media:
        """Record that ``count`` more bytes of an upload, starting at ``offset``, are stored.

        Raises:
            OffsetMismatch: the upload continues at another byte, or has ended.
            UnknownMedia: this owner has no such medium.
        """

        def body(tx: Tx) -> Media:
            changed = tx.run(
                "UPDATE media SET received_bytes = received_bytes + ?"
                " WHERE id = ? AND owner = ? AND state = 'uploading' AND received_bytes = ?",
                (count, media_id, owner, offset),
            )
            media = _get(tx, media_id, owner)
            if not changed:
                raise OffsetMismatch(media.received_bytes)
            return media

        return self._db.write(body)

    def ready(self, media_id: str, owner: str, *, sha256: str, key: str, info: dict[str, Any], mime_type: str) -> Media:
        """End an upload. If the owner has a ready medium with the same content, this one takes its key: the caller then
        deletes its own copy.

        Raises:
            UnknownMedia: this owner has no such medium.
        """

        def body(tx: Tx) -> Media:
            same = tx.one(
                "SELECT key FROM media WHERE owner = ? AND sha256 = ? AND state = 'ready' AND key IS NOT NULL"
                " AND id <> ? ORDER BY created_at, id LIMIT 1",
                (owner, sha256, media_id),
            )
            tx.run(
                "UPDATE media SET state = 'ready', sha256 = ?, key = ?, info = ?, mime_type = ?,"
                " size_bytes = coalesce(size_bytes, received_bytes) WHERE id = ? AND owner = ?",
                (sha256, key if same is None else same["key"], to_column(info), mime_type, media_id, owner),
            )
            return _get(tx, media_id, owner)

        return self._db.write(body, lock=LOCK)

    def get(self, media_id: str, owner: str) -> Media | None:
        """Return the medium, or None if this owner has no such medium."""
        rows = self._db.read("SELECT * FROM media WHERE id = ? AND owner = ?", (media_id, owner))
        return from_row(Media, rows[0]) if rows else None

    def list(self, owner: str, page_size: int, before: tuple[float, str] | None = None) -> builtins.list[Media]:
        """List an owner's media, newest first; ``before`` is (created_at, id) of the last one of the previous page."""
        sql, values = "SELECT * FROM media WHERE owner = ?", [owner, *(before or ())]
        if before is not None:
            sql += " AND (created_at, id) < (?, ?)"
        sql += " ORDER BY created_at DESC, id DESC LIMIT ?"
        return [from_row(Media, row) for row in self._db.read(sql, (*values, max(page_size, 0)))]

    def delete(self, media_id: str, owner: str) -> str | None:
        """Delete a medium.

        Returns:
            The key of the file that nobody needs any longer, for the caller to delete; None if there is none.

        Raises:
            MediaInUse: an unfinished job needs it.
            UnknownMedia: this owner has no such medium.
        """

        def body(tx: Tx) -> str | None:
            # Locked before its use is looked up: a job that is just being created waits for this, or this for it.
            where = f"id = ? AND owner = ?{tx.dialect.for_update}"
            row = tx.one(f"SELECT key FROM media WHERE {where}", (media_id, owner))
            if row is None:
                raise UnknownMedia(media_id)
            if tx.one(f"SELECT id FROM media WHERE id = ? AND {USED}", (media_id,)) is not None:
                raise MediaInUse(media_id)
            return _delete(tx, media_id, row["key"])

        return self._db.write(body, lock=LOCK)

    def expired(self, limit: int) -> builtins.list[tuple[Media, str | None]]:
        """Delete up to ``limit`` expired media that no unfinished job needs.

        Returns:
            Each with the key of its file if nobody else needs it, for the caller to delete.
        """

        def body(tx: Tx) -> builtins.list[tuple[Media, str | None]]:
            rows = tx.all(
                f"SELECT * FROM media WHERE expire_at <= ? AND NOT {USED} ORDER BY expire_at, id LIMIT ?"
                f"{tx.dialect.skip_locked}",
                (tx.now(), max(limit, 0)),
            )
            gone = []
            for row in rows:
                if tx.one(f"SELECT id FROM media WHERE id = ? AND {USED}", (row["id"],)) is None:
                    gone.append((from_row(Media, row), _delete(tx, row["id"], row["key"])))
            return gone

        return self._db.write(body, lock=LOCK)

    def touch(self, media_ids: Sequence[str], owner: str, expire_at: float) -> int:
        """Keep media at least until ``expire_at``. Returns how many of them there are."""

        def body(tx: Tx) -> int:
            among, value = tx.among("id", media_ids)
            return tx.run(
                "UPDATE media SET expire_at = CASE WHEN expire_at > ? THEN expire_at ELSE ? END"
                f" WHERE owner = ? AND {among}",
                (expire_at, expire_at, owner, value),
            )

        return self._db.write(body)


def _get(tx: Tx, media_id: str, owner: str) -> Media:
    row = tx.one("SELECT * FROM media WHERE id = ? AND owner = ?", (media_id, owner))
    if row is None:
        raise UnknownMedia(media_id)
    return from_row(Media, row)


def _delete(tx: Tx, media_id: str, key: str | None) -> str | None:
    tx.run("DELETE FROM job_media WHERE media_id = ?", (media_id,))
    tx.run("DELETE FROM media WHERE id = ?", (media_id,))
    if key is None or tx.one("SELECT id FROM media WHERE key = ? LIMIT 1", (key,)) is not None:
        return None
    return key
