"""The job database's tables, version by version, for SQLite and PostgreSQL alike."""

from __future__ import annotations

import re
from collections.abc import Iterator

from zoetrope.serving.jobs.db.errors import StoreError, StoreOutdated

APPLICATION_ID = 0x5A4F4554  # "ZOET" in a SQLite file's header distinguishes our files from other programs'

LABEL_CHARS = 256  # of a label's key or value that an index can hold

# One entry for each version of the schema; entry i migrates from version i to i + 1. Never edit a released one.
# Written for SQLite; `for_postgres` translates.
MIGRATIONS: tuple[tuple[str, ...], ...] = (
    (
        """
        CREATE TABLE job (
            id               TEXT PRIMARY KEY,
            owner            TEXT NOT NULL,
            state            TEXT NOT NULL CHECK (state IN ('queued', 'running', 'succeeded', 'failed', 'cancelled')),
            stage            TEXT,
            model            TEXT NOT NULL,
            spec             TEXT NOT NULL,
            step             INTEGER NOT NULL DEFAULT 0,
            steps            INTEGER NOT NULL,
            created_at       REAL NOT NULL,
            started_at       REAL,
            finished_at      REAL,
            attempt          INTEGER NOT NULL DEFAULT 0,
            lease_epoch      INTEGER NOT NULL DEFAULT 0,
            lease_owner      TEXT,
            lease_until      REAL,
            cancel_requested INTEGER NOT NULL DEFAULT 0,
            error_code       TEXT,
            error_message    TEXT,
            result           TEXT,
            eta_seconds      REAL,
            request_id       TEXT,
            fingerprint      TEXT NOT NULL,
            CHECK ((state = 'running') = (lease_owner IS NOT NULL)),
            CHECK ((state = 'running') = (lease_until IS NOT NULL)),
            CHECK ((state = 'running') = (stage IS NOT NULL)),
            CHECK ((state IN ('succeeded', 'failed', 'cancelled')) = (finished_at IS NOT NULL)),
            CHECK ((state = 'succeeded') = (result IS NOT NULL)),
            CHECK ((state = 'failed') = (error_code IS NOT NULL))
        ) STRICT
        """,
        "CREATE UNIQUE INDEX job_request ON job (owner, request_id) WHERE request_id IS NOT NULL",
        # What claims, counts of the queue and positions in it scan: unfinished jobs only.
        "CREATE INDEX job_live ON job (created_at, id) WHERE finished_at IS NULL",
        "CREATE INDEX job_page ON job (owner, created_at, id)",
        "CREATE INDEX job_recent ON job (model, finished_at) WHERE state = 'succeeded'",
        """
        CREATE TABLE engine (
            id         TEXT PRIMARY KEY,
            model      TEXT NOT NULL,
            gang_epoch INTEGER NOT NULL,
            ranks      INTEGER NOT NULL,
            seen_at    REAL NOT NULL
        ) STRICT
        """,
    ),
    ("ALTER TABLE job ADD COLUMN warnings TEXT NOT NULL DEFAULT '[]'",),
    (
        "ALTER TABLE job ADD COLUMN key_id TEXT",
        "ALTER TABLE job ADD COLUMN kind TEXT NOT NULL DEFAULT ''",
        "ALTER TABLE job ADD COLUMN labels TEXT NOT NULL DEFAULT '{}'",
        "ALTER TABLE job ADD COLUMN priority INTEGER NOT NULL DEFAULT 0 CHECK (priority BETWEEN 0 AND 9)",
        "ALTER TABLE job ADD COLUMN deadline_at REAL",
        "ALTER TABLE job ADD COLUMN retention_seconds REAL NOT NULL DEFAULT 86400",
        "ALTER TABLE job ADD COLUMN expire_at REAL",
        "ALTER TABLE job ADD COLUMN seconds REAL NOT NULL DEFAULT 0",
        "ALTER TABLE job ADD COLUMN origin TEXT NOT NULL DEFAULT '{}'",
        "ALTER TABLE job ADD COLUMN webhook TEXT",
        "ALTER TABLE job ADD COLUMN preview TEXT",
        "ALTER TABLE job ADD COLUMN verdicts TEXT NOT NULL DEFAULT '[]'",
        "ALTER TABLE job ADD COLUMN media TEXT NOT NULL DEFAULT '[]'",
        "ALTER TABLE job ADD COLUMN traceparent TEXT",
        "ALTER TABLE engine ADD COLUMN state TEXT NOT NULL DEFAULT 'ready'",
        "ALTER TABLE engine ADD COLUMN restarts TEXT NOT NULL DEFAULT '{}'",
        "DROP INDEX job_live",
        "CREATE INDEX job_live ON job (priority DESC, created_at, id) WHERE finished_at IS NULL",
        "CREATE INDEX job_queued ON job (priority DESC, created_at, id) WHERE state = 'queued'",
        "CREATE INDEX job_lease ON job (lease_until) WHERE state = 'running'",
        "CREATE INDEX job_deadline ON job (deadline_at) WHERE finished_at IS NULL AND deadline_at IS NOT NULL",
        "CREATE INDEX job_expiry ON job (expire_at) WHERE expire_at IS NOT NULL",
        # What limits are compared with, updated by every change: counting takes as long as the queue.
        """
        CREATE TABLE tally (
            name   TEXT PRIMARY KEY,
            jobs   INTEGER NOT NULL,
            millis INTEGER NOT NULL
        ) STRICT
        """,
        """
        CREATE TABLE job_event (
            seq        INTEGER PRIMARY KEY,
            job_id     TEXT NOT NULL,
            owner      TEXT NOT NULL,
            at         REAL NOT NULL,
            what       TEXT NOT NULL,
            from_state TEXT,
            to_state   TEXT,
            actor      TEXT NOT NULL,
            attempt    INTEGER NOT NULL,
            epoch      INTEGER NOT NULL,
            note       TEXT NOT NULL
        ) STRICT
        """,
        "CREATE INDEX job_event_job ON job_event (job_id, seq)",
        "CREATE INDEX job_event_deleted ON job_event (at) WHERE to_state IS NULL",
        """
        CREATE TABLE outbox (
            id         TEXT PRIMARY KEY,
            job_id     TEXT NOT NULL,
            owner      TEXT NOT NULL,
            event      TEXT NOT NULL,
            url        TEXT NOT NULL,
            body       TEXT,
            attempts   INTEGER NOT NULL DEFAULT 0,
            created_at REAL NOT NULL,
            next_at    REAL,
            ended_at   REAL,
            status     INTEGER,
            note       TEXT NOT NULL DEFAULT '',
            CHECK ((next_at IS NULL) = (ended_at IS NOT NULL))
        ) STRICT
        """,
        "CREATE INDEX outbox_due ON outbox (next_at) WHERE next_at IS NOT NULL",
        "CREATE INDEX outbox_ended ON outbox (ended_at) WHERE ended_at IS NOT NULL",
        "CREATE INDEX outbox_job ON outbox (job_id)",
        """
        CREATE TABLE webhook_secret (
            owner  TEXT PRIMARY KEY,
            secret TEXT NOT NULL
        ) STRICT
        """,
        """
        CREATE TABLE media (
            id             TEXT PRIMARY KEY,
            owner          TEXT NOT NULL,
            state          TEXT NOT NULL CHECK (state IN ('uploading', 'ready')),
            key            TEXT,
            sha256         TEXT,
            size_bytes     INTEGER,
            received_bytes INTEGER NOT NULL,
            mime_type      TEXT,
            filename       TEXT,
            info           TEXT,
            created_at     REAL NOT NULL,
            expire_at      REAL NOT NULL
        ) STRICT
        """,
        "CREATE INDEX media_page ON media (owner, created_at, id)",
        "CREATE INDEX media_hash ON media (owner, sha256) WHERE state = 'ready'",
        "CREATE INDEX media_key ON media (key) WHERE key IS NOT NULL",
        "CREATE INDEX media_expiry ON media (expire_at)",
        """
        CREATE TABLE job_media (
            job_id   TEXT NOT NULL,
            media_id TEXT NOT NULL,
            PRIMARY KEY (media_id, job_id)
        ) STRICT
        """,
        "CREATE INDEX job_media_job ON job_media (job_id)",
        """
        CREATE TABLE api_key (
            id         TEXT PRIMARY KEY,
            name       TEXT NOT NULL,
            owner      TEXT NOT NULL,
            hash       TEXT NOT NULL UNIQUE,
            limits     TEXT NOT NULL,
            created_at REAL NOT NULL,
            revoked_at REAL
        ) STRICT
        """,
    ),
    (
        # Claims since the job last got further than ever before, and the step that it reached.
        "ALTER TABLE job ADD COLUMN fruitless INTEGER NOT NULL DEFAULT 0",
        "ALTER TABLE job ADD COLUMN furthest INTEGER NOT NULL DEFAULT 0",
        # What a job is waiting for, while something that it needs is unavailable.
        "ALTER TABLE job ADD COLUMN notice TEXT NOT NULL DEFAULT ''",
        # What a claim scans: the unfinished jobs of a model, however many there are of others.
        "CREATE INDEX job_claim ON job (model, priority DESC, created_at, id) WHERE finished_at IS NULL",
        # Deleted jobs whose files must still be removed: now, and once more when no holder that lost its lease can
        # still be writing.
        """
        CREATE TABLE deleted_job (
            job_id     TEXT PRIMARY KEY,
            keys       TEXT NOT NULL,
            deleted_at REAL NOT NULL,
            due_at     REAL NOT NULL
        ) STRICT
        """,
        "CREATE INDEX deleted_job_due ON deleted_job (due_at)",
        # Labels again, for lists by them: key and value cut to LABEL_CHARS, which an index can hold.
        """
        CREATE TABLE job_label (
            job_id     TEXT NOT NULL,
            owner      TEXT NOT NULL,
            key        TEXT NOT NULL,
            value      TEXT NOT NULL,
            created_at REAL NOT NULL
        ) STRICT
        """,
        "CREATE INDEX job_label_page ON job_label (owner, key, value, created_at, job_id)",
        "CREATE INDEX job_label_job ON job_label (job_id)",
    ),
    (
        # Tenants take turns: a claim scans the unfinished jobs of one tenant, and so does a position in the queue.
        "CREATE TABLE tenant_turn (owner TEXT PRIMARY KEY, turn INTEGER NOT NULL) STRICT",
        "CREATE INDEX tenant_turn_last ON tenant_turn (turn)",
        "DROP INDEX job_claim",
        "CREATE INDEX job_claim ON job (model, owner, priority DESC, created_at, id) WHERE finished_at IS NULL",
        "DROP INDEX job_queued",
        "CREATE INDEX job_queued ON job (owner, priority DESC, created_at, id) WHERE state = 'queued'",
        "CREATE INDEX job_running ON job (owner, lease_until) WHERE state = 'running'",
        # Where a message goes; what an older version stored counts as one host.
        "ALTER TABLE outbox ADD COLUMN host TEXT NOT NULL DEFAULT ''",
        "CREATE INDEX outbox_turn ON outbox (owner, next_at, created_at, id, host) WHERE next_at IS NOT NULL",
        # What counts against each tenant's share.
        "INSERT INTO tally SELECT 'queued ' || owner, count(*), 0 FROM job WHERE state = 'queued' GROUP BY owner",
    ),
    ("ALTER TABLE engine ADD COLUMN jobs TEXT NOT NULL DEFAULT '[]'",),
    (
        # Adapters that requests may name: of a model, for some tenants or all.
        """
        CREATE TABLE adapter (
            id         TEXT PRIMARY KEY,
            name       TEXT NOT NULL,
            model      TEXT NOT NULL,
            tenants    TEXT,
            sha256     TEXT NOT NULL,
            size_bytes INTEGER NOT NULL,
            rank       INTEGER NOT NULL,
            created_at REAL NOT NULL,
            UNIQUE (model, name)
        ) STRICT
        """,
    ),
    (
        # The router's prices, what jobs have used of them, and what it makes known of its engines and its queue.
        "ALTER TABLE job ADD COLUMN price REAL NOT NULL DEFAULT 0",
        "ALTER TABLE job ADD COLUMN used REAL NOT NULL DEFAULT 0",
        "ALTER TABLE engine ADD COLUMN costs TEXT NOT NULL DEFAULT '{}'",
        "ALTER TABLE engine ADD COLUMN step TEXT NOT NULL DEFAULT '{}'",
        "CREATE TABLE forecast (model TEXT PRIMARY KEY, written_at REAL NOT NULL, body TEXT NOT NULL) STRICT",
    ),
    (
        # Routers read what is new in the queue, and decide themselves whose turn it is.
        "DROP TABLE tenant_turn",
        "DROP INDEX job_claim",
        "CREATE INDEX job_waiting ON job (model, created_at, id) WHERE finished_at IS NULL",
    ),
    # The weights that a job was asked of: a repeated request is another one if they have changed.
    ("ALTER TABLE job ADD COLUMN weights TEXT NOT NULL DEFAULT ''",),
)

# What a version does to existing rows, after it has changed the tables.
BACKFILL: dict[int, tuple[str, ...]] = {
    4: (
        f"INSERT INTO job_label SELECT job.id, job.owner, substr(label.key, 1, {LABEL_CHARS}),"
        f" substr(label.value, 1, {LABEL_CHARS}), job.created_at FROM job, json_each(job.labels) AS label",
    ),
    5: (
        "INSERT INTO tally SELECT 'results ' || owner, sum(coalesce(json_extract(result, '$.video.size_bytes'), 0)"
        " + coalesce(json_extract(result, '$.latents.size_bytes'), 0)), 0 FROM job WHERE result IS NOT NULL"
        " GROUP BY owner",
    ),
}
# The same for SQLite only: PostgreSQL databases start with version 3.
SQLITE_BACKFILL: dict[int, tuple[str, ...]] = {
    3: (
        "UPDATE job SET kind = coalesce(json_extract(spec, '$.task.kind'), '')",
        "UPDATE job SET seconds = coalesce(json_extract(spec, '$.frames') * 1.0 / json_extract(spec, '$.fps'), 0)",
        # An upgrade deletes nothing at once: what ended long ago is kept for another day.
        "UPDATE job SET expire_at = max(finished_at, CAST(strftime('%s', 'now') AS REAL)) + retention_seconds"
        " WHERE finished_at IS NOT NULL",
        "INSERT INTO tally SELECT 'state ' || state, count(*), 0 FROM job GROUP BY state",
    ),
}

_POSTGRES = (
    (r"INTEGER PRIMARY KEY", "BIGINT GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY"),
    (r"\bINTEGER\b", "BIGINT"),
    (r"\bREAL\b", "DOUBLE PRECISION"),
    (r"\bTEXT\b", 'TEXT COLLATE "C"'),  # ordered by code point, as SQLite does
    (r"\) STRICT\b", ")"),
    (r"json_each\((\S+)\)", r"json_each_text(\1::json)"),
    (r"json_extract\((\w+), '\$\.(\w+)\.(\w+)'\)", r"(\1::json #>> '{\2,\3}')::bigint"),
)


def for_postgres(sql: str) -> str:
    """Translate a statement of `MIGRATIONS` or `BACKFILL`."""
    for pattern, words in _POSTGRES:
        sql = re.sub(pattern, words, sql)
    return sql


def check_version(name: str, version: int) -> None:
    """Check that nothing is outstanding.

    Args:
        version: 0: there are no tables.

    Raises:
        StoreOutdated, StoreError: the version is older, or newer; ``name`` stands in front.
    """
    if version < len(MIGRATIONS):
        has = f"schema version {version}, this release needs {len(MIGRATIONS)}" if version else "no tables"
        raise StoreOutdated(f"{name} has {has}; run `zoetrope migrate`")
    _check_known(name, version)


def _check_known(name: str, version: int) -> None:
    if version > len(MIGRATIONS):
        raise StoreError(
            f"{name} has schema version {version}, this release knows versions up to {len(MIGRATIONS)}; "
            "use the newer release that wrote it"
        )


def outstanding(name: str, version: int, *, postgres: bool) -> Iterator[str]:
    """Yield the statements that migrate a database from a version to the newest one.

    Raises:
        StoreError: the version is newer than this release; ``name`` stands in front.
    """
    _check_known(name, version)
    for number, migration in enumerate(MIGRATIONS[version:], version + 1):
        statements = (*migration, *BACKFILL.get(number, ()))
        yield from map(for_postgres, statements) if postgres else (*statements, *SQLITE_BACKFILL.get(number, ()))
