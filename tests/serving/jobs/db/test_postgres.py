"""What only PostgreSQL brings: a server that goes away, others' locks, its own clock and passwords."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.docs.pages import ROOT
from tests.serving.jobs.harness import LIMITS, claim, new_job
from zoetrope.serving.jobs.db.database import Tx
from zoetrope.serving.jobs.db.errors import StoreError
from zoetrope.serving.jobs.db.migrations import MIGRATIONS, for_postgres
from zoetrope.serving.jobs.job import JobFilter, State
from zoetrope.serving.jobs.open import Stores, open_stores


@pytest.fixture
def database(postgres: str) -> str:
    return postgres


@pytest.fixture
def stores(database: str) -> Iterator[Stores]:
    stores = open_stores(database)
    yield stores
    stores.close()


def ask(url: str, sql: str, *values: Any) -> list[Any]:
    import psycopg

    with psycopg.connect(url, autocommit=True) as connection:
        cursor = connection.execute(sql.encode(), values)
        return cursor.fetchall() if cursor.description else []


def kill_all(url: str) -> None:
    """Ends every connection but the one that asks, as a server does that starts again."""
    others = "pid <> pg_backend_pid() AND usename = user"
    ask(url, f"SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE {others}")


def test_lost_connections_are_opened_again(database: str, stores: Stores) -> None:
    stores.jobs.create(new_job("a"), LIMITS)
    for number in range(2):
        kill_all(database)
        assert stores.jobs.get("a", "") is not None
        kill_all(database)
        assert stores.jobs.create(new_job(f"b{number}"), LIMITS).id == f"b{number}"


def test_a_transaction_whose_connection_broke_is_done_again(database: str, stores: Stores) -> None:
    runs = 0

    def body(tx: Tx) -> int:
        nonlocal runs
        runs += 1
        tx.run("INSERT INTO webhook_secret (owner, secret) VALUES ('o', 's')")
        if runs == 1:
            kill_all(database)
        return tx.run("UPDATE webhook_secret SET secret = 't'")

    assert stores.database.write(body) == 1
    assert runs == 2
    assert [row["secret"] for row in stores.database.read("SELECT secret FROM webhook_secret")] == ["t"]


def test_a_commit_whose_outcome_is_unknown_is_an_error(database: str, stores: Stores) -> None:
    def body(tx: Tx) -> None:
        tx.run("INSERT INTO webhook_secret (owner, secret) VALUES ('o', 's')")
        kill_all(database)

    with pytest.raises(StoreError, match=r"^job database postgres on "):
        stores.database.write(body)
    assert stores.database.read("SELECT owner FROM webhook_secret") == []
    assert stores.jobs.create(new_job("a"), LIMITS).id == "a"


def test_deadlocks_are_resolved_unnoticed(database: str, stores: Stores) -> None:
    other = open_stores(database)
    for name in "ab":
        stores.outbox.secret(name)
    met = threading.Barrier(2)
    sql = "UPDATE webhook_secret SET secret = secret || ? WHERE owner = ?"
    runs: list[str] = []

    def change(mine: Stores, order: str) -> int:
        def body(tx: Tx) -> int:
            runs.append(order)
            first, second = list(order)
            changed = tx.run(sql, (first, first))
            if runs.count(order) == 1:
                met.wait(30)
            return changed + tx.run(sql, (second, second))

        return mine.database.write(body)

    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(change, (stores, other), ("ab", "ba"))) == [2, 2]
    assert len(runs) == 3  # one of them twice
    secrets = {row["owner"]: row["secret"][38:] for row in stores.database.read("SELECT * FROM webhook_secret")}
    assert secrets == {"a": "aa", "b": "bb"}
    other.close()


def test_time_is_the_servers(database: str, stores: Stores, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "time", lambda: 5.0)  # a machine whose clock is wrong
    ((now,),) = ask(database, "SELECT extract(epoch FROM clock_timestamp())::float8")
    job = stores.jobs.create(new_job("a", retention_seconds=0), LIMITS)
    assert 0 <= job.created_at - now < 10
    (running,) = claim(stores.jobs)
    assert running.lease_until is not None and running.lease_until > now + 10
    stores.jobs.request_cancel("a", "")
    assert claim(stores.jobs) == [] and stores.jobs.delete_expired(9) == 0


def test_many_openers_of_a_new_database_agree(postgres: str) -> None:
    with ThreadPoolExecutor(6) as pool:
        for stores in pool.map(open_stores, [postgres] * 6):
            assert stores.jobs.list("", page_size=1) == []
            stores.close()
    assert ask(postgres, "SELECT version FROM zoetrope.schema_version") == [(len(MIGRATIONS),)]


def test_an_older_schema_keeps_its_jobs(postgres: str) -> None:
    ask(postgres, "CREATE SCHEMA zoetrope")
    for statement in (sql for migration in MIGRATIONS[:3] for sql in migration):
        ask(postgres, "SET search_path = zoetrope; " + for_postgres(statement))
    ask(postgres, "CREATE TABLE zoetrope.schema_version (version BIGINT NOT NULL)")
    ask(postgres, "INSERT INTO zoetrope.schema_version VALUES (3)")
    columns = "id, owner, model, spec, steps, created_at, fingerprint, state, labels"
    values = """'a', '', 'nano', '{"task": {"kind": "text_to_video"}}', 10, 1.0, 'f', 'queued', '{"team": "red"}'"""
    ask(postgres, f"INSERT INTO zoetrope.job ({columns}) VALUES ({values})")
    made = """'b', 'o', 'nano', '{}', 10, 1.0, 'f', 'succeeded', 2.0, '{"video": {"size_bytes": 7}, "latents": null}'"""
    columns = "id, owner, model, spec, steps, created_at, fingerprint, state, finished_at, result"
    ask(postgres, f"INSERT INTO zoetrope.job ({columns}) VALUES ({made})")
    stores = open_stores(postgres)
    assert stores.jobs.usage("o", None, 9).result_bytes == 7
    assert stores.jobs.usage("", None, 9).queued_jobs == 1
    assert [job.id for job in stores.jobs.list("", page_size=9, where=JobFilter(labels={"team": "red"}))] == ["a"]
    assert [job.id for job in claim(stores.jobs, max_attempts=1)] == ["a"]
    stores.close()


def test_a_newer_schema_is_refused_with_both_versions(postgres: str) -> None:
    open_stores(postgres).close()
    ask(postgres, "UPDATE zoetrope.schema_version SET version = 77")
    with pytest.raises(StoreError, match=rf"version 77, this release knows versions up to {len(MIGRATIONS)}"):
        open_stores(postgres)


def test_another_programs_schema_is_refused_untouched(postgres: str) -> None:
    ask(postgres, "CREATE SCHEMA zoetrope")
    ask(postgres, "CREATE TABLE zoetrope.job (id int)")
    with pytest.raises(StoreError, match="another program"):
        open_stores(postgres)
    assert ask(postgres, "SELECT tablename FROM pg_tables WHERE schemaname = 'zoetrope'") == [("job",)]


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://me:geheim@127.0.0.1:1/jobs",
        "postgresql://me:geheim@[::1/jobs",
        "postgres://me:geheim@127.0.0.1:port/jobs",
        "postgresql://me@127.0.0.1:1/jobs?password=geheim&sslmode=sometimes",
    ],
)
def test_a_server_that_cannot_be_reached_is_named_without_the_password(url: str) -> None:
    with pytest.raises(StoreError) as caught:
        open_stores(url)
    assert "geheim" not in str(caught.value) and "\n" not in str(caught.value)


def test_a_missing_database_is_named(postgres: str) -> None:
    with pytest.raises(StoreError, match=r'cannot open the job database nowhere on .*"nowhere" does not exist'):
        open_stores(postgres.replace("/postgres?", "/nowhere?"))


@pytest.fixture
def limited(database: str) -> Iterator[str]:
    """The URL of a role without rights so far."""
    from psycopg.conninfo import conninfo_to_dict

    parts = conninfo_to_dict(database)
    ask(database, "CREATE ROLE service LOGIN PASSWORD 'service'")
    yield f"postgresql://service:service@/{parts['dbname']}?host={parts['host']}&port={parts.get('port', 5432)}"
    ask(database, "DROP OWNED BY service")
    ask(database, "DROP ROLE service")


def test_a_role_that_may_not_change_tables_works_with_the_rights_that_the_documents_give(
    database: str, limited: str
) -> None:
    text = (ROOT / "docs" / "operations" / "index.md").read_text()
    (grants,) = re.findall(r"```sql\n(.*?)```", text, re.DOTALL)
    open_stores(database).close()
    for statement in filter(str.strip, grants.split(";")):
        ask(database, statement)
    stores = open_stores(limited, migrate=False)
    try:
        stores.jobs.create(new_job("a"), LIMITS)
        (job,) = claim(stores.jobs)
        assert stores.jobs.finish(job.id, job.lease_epoch, State.CANCELLED)
        assert [event.what for event in stores.jobs.events("a", "")] == ["created", "claimed", "cancelled"]
        stores.keys.create("k", "us")
        stores.outbox.secret("us")
        with pytest.raises(StoreError, match="permission denied for schema zoetrope"):
            stores.database.write(lambda tx: tx.run("CREATE TABLE another (id TEXT)"))
    finally:
        stores.close()
