"""`zoetrope migrate` on both databases: tables, the first key, waiting, and a database that was restored."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.serving.jobs.harness import LIMITS, new_job
from zoetrope.serving.cli import main
from zoetrope.serving.jobs.db.errors import StoreOutdated
from zoetrope.serving.jobs.open import Stores, open_stores

SECRET = "zk_" + "s3cret_-" * 4
OTHERS = "0.0.0.0:0"  # other machines can connect there, so a key is needed


@pytest.fixture(params=["sqlite", "postgres"])
def database(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The URL of a database without tables, which the commands find too."""
    monkeypatch.setenv("ZOETROPE_DATA_DIR", str(tmp_path / "data"))
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/data/jobs.db"
    url = str(request.getfixturevalue("postgres"))
    monkeypatch.setenv("ZOETROPE_DATABASE", url)
    return url


@pytest.fixture
def secret_file(tmp_path: Path) -> str:
    (tmp_path / "secret").write_text(SECRET + "\n")
    return str(tmp_path / "secret")


@contextlib.contextmanager
def opened(database: str) -> Iterator[Stores]:
    with contextlib.closing(open_stores(database, migrate=False)) as stores:
        yield stores


def test_tables_are_made_once_and_by_migrate_alone(database: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(StoreOutdated, match=r"^job database .* has no tables; run `zoetrope migrate`$"):
        open_stores(database, migrate=False)
    for _ in range(2):
        assert main(["migrate"]) == 0
        assert capsys.readouterr().out == "the tables have schema version 10\n"
    with opened(database) as stores:
        assert stores.jobs.create(new_job("a"), LIMITS).id == "a"


def test_tables_of_an_older_release_are_refused(
    database: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from zoetrope.serving.jobs.db import migrations

    assert main(["migrate"]) == 0
    newer = (*migrations.MIGRATIONS, ("CREATE TABLE another (id TEXT)",))
    for module in ("migrations", "sqlite", "postgres"):
        monkeypatch.setattr(f"zoetrope.serving.jobs.db.{module}.MIGRATIONS", newer)
    with pytest.raises(StoreOutdated, match=r"has schema version 10, this release needs 11; run `zoetrope migrate`$"):
        open_stores(database, migrate=False)
    monkeypatch.setenv("ZOETROPE_MIGRATE", "never")
    assert main(["keys", "list"]) == 1
    assert "run `zoetrope migrate`" in capsys.readouterr().err
    assert main(["migrate"]) == 0, "it is the one that may"
    assert main(["keys", "list"]) == 0


def test_the_first_key_is_made_once(
    database: str, secret_file: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ZOETROPE_BOOTSTRAP_KEY", secret_file)
    assert main(["migrate"]) == 0
    with opened(database) as stores:
        key = stores.keys.find(SECRET)
        assert key is not None and (key.name, key.owner) == ("bootstrap", "default")
        assert f"made the first key, {key.id}, of tenant 'default'\n" in capsys.readouterr().out
        assert main(["migrate"]) == 0
        assert len(stores.keys.list()) == 1
        stores.keys.revoke(key.id)
        assert main(["migrate"]) == 0, "a key that was revoked does not come back"
        assert stores.keys.find(SECRET) is None
    captured = capsys.readouterr()
    assert "bootstrap-key: it was not made, for there are or were other keys" in captured.err
    assert SECRET not in captured.out + captured.err


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"zk_short", "the secret must be zk_ and 32 to 200 letters, digits, - and _"),
        (b"", "the secret must be zk_ and 32 to 200 letters, digits, - and _"),
        (b"\xff\xfe", "cannot be read: it is not text"),
        (None, "cannot be read: No such file or directory"),
    ],
)
def test_a_secret_that_cannot_be_one(
    text: bytes | None,
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("ZOETROPE_DATA_DIR", str(tmp_path / "data"))
    if text is not None:
        (tmp_path / "secret").write_bytes(text)
    assert main(["migrate", "--bootstrap-key", str(tmp_path / "secret")]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: bootstrap-key: ") and error.endswith(f"{message}\n")
    assert "short" not in error


def test_others_wait_for_tables_and_a_key(
    database: str, secret_file: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("zoetrope.serving.cli.migrate.POLL_SECONDS", 0.01)
    assert main(["migrate", "--wait", "0"]) == 1
    assert "not ready after 0 s: job database" in capsys.readouterr().err
    monkeypatch.setenv("ZOETROPE_GRPC", OTHERS)
    outcome: list[int] = []
    waiting = threading.Thread(target=lambda: outcome.append(main(["migrate", "--wait", "60"])))
    waiting.start()
    assert main(["migrate"]) == 0
    assert main(["migrate", "--wait", "0"]) == 1, "there is no key"
    assert not outcome
    assert main(["migrate", "--bootstrap-key", secret_file]) == 0
    waiting.join(60)
    assert outcome == [0]


def test_what_changes_nothing_takes_nothing_to_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ZOETROPE_DATA_DIR", str(tmp_path))
    assert main(["migrate", "--wait", "1", "--restored"]) == 2
    assert capsys.readouterr().err == "error: wait: changes nothing: leave out --restored and --bootstrap-key\n"
