"""Media rows on each database: uploads, sharing of files, and what keeps one from being deleted."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest

from tests.serving.jobs.harness import LIMITS, RESULT, Clock, claim, new_job
from zoetrope.serving.jobs.db.errors import StoreError
from zoetrope.serving.jobs.errors import MediaInUse, OffsetMismatch, QuotaExceeded, UnknownMedia
from zoetrope.serving.jobs.job import Job, State
from zoetrope.serving.jobs.media_table import Media
from zoetrope.serving.jobs.open import Stores, open_stores

Create = Callable[..., Job]


def media(media_id: str = "med_1", **changes: Any) -> Media:
    values: dict[str, Any] = {
        "id": media_id,
        "owner": "o",
        "state": "uploading",
        "key": None,
        "sha256": None,
        "size_bytes": 30,
        "received_bytes": 0,
        "mime_type": None,
        "filename": "clip é.mp4",
        "info": None,
        "created_at": 0.0,
        "expire_at": 5_000.0,
    }
    return Media(**(values | changes))


def uploaded(stores: Stores, media_id: str, sha256: str = "aa", owner: str = "o", **changes: Any) -> Media:
    stores.media.create(media(media_id, owner=owner, **changes))
    return stores.media.ready(
        media_id, owner, sha256=sha256, key=f"media/{media_id}", info={"frames": 9}, mime_type="video/mp4"
    )


def test_an_upload_goes_on_where_it_stopped(stores: Stores, clock: Clock) -> None:
    begun = stores.media.create(media())
    assert begun == media(created_at=clock.now) == stores.media.get("med_1", "o")
    assert stores.media.get("med_1", "other") is None
    assert stores.media.advance("med_1", "o", 0, 10).received_bytes == 10
    for offset in (0, 9, 11):
        with pytest.raises(OffsetMismatch) as caught:
            stores.media.advance("med_1", "o", offset, 10)
        assert caught.value.expected == 10
    assert stores.media.advance("med_1", "o", 10, 20).received_bytes == 30
    ready = stores.media.ready("med_1", "o", sha256="aa", key="media/1", info={"frames": 9}, mime_type="video/mp4")
    assert ready == replace(
        begun,
        state="ready",
        key="media/1",
        sha256="aa",
        received_bytes=30,
        mime_type="video/mp4",
        info={"frames": 9},
    )
    assert stores.media.get("med_1", "o") == ready
    with pytest.raises(OffsetMismatch):
        stores.media.advance("med_1", "o", 30, 1)
    with pytest.raises(StoreError):
        stores.media.create(media())
    for call in (
        lambda: stores.media.advance("med_1", "other", 0, 1),
        lambda: stores.media.ready("med_2", "o", sha256="a", key="k", info={}, mime_type="m"),
        lambda: stores.media.delete("med_1", "other"),
    ):
        with pytest.raises(UnknownMedia):
            call()


def test_the_same_content_is_stored_once_for_an_owner(stores: Stores) -> None:
    assert uploaded(stores, "med_1").key == "media/med_1"
    assert uploaded(stores, "med_2").key == "media/med_1"
    assert uploaded(stores, "med_3", owner="other").key == "media/med_3"
    assert uploaded(stores, "med_4", sha256="bb").key == "media/med_4"
    assert stores.media.delete("med_1", "o") is None  # the second one needs the file
    assert uploaded(stores, "med_5").key == "media/med_1"
    assert stores.media.delete("med_2", "o") is None
    assert stores.media.delete("med_5", "o") == "media/med_1"
    assert uploaded(stores, "med_6").key == "media/med_6"


def test_pages_are_newest_first(stores: Stores, clock: Clock) -> None:
    for number in range(3):
        clock.now += 1
        uploaded(stores, f"med_{number}", sha256=str(number))
    uploaded(stores, "elsewhere", owner="other")
    page = stores.media.list("o", 2)
    assert [item.id for item in page] == ["med_2", "med_1"]
    assert [item.id for item in stores.media.list("o", 2, (page[-1].created_at, page[-1].id))] == ["med_0"]


def test_a_job_needs_ready_media_of_its_owner(stores: Stores) -> None:
    uploaded(stores, "med_1")
    stores.media.create(media("med_2"))
    for media_id, owner in (("med_1", "other"), ("med_2", "o"), ("med_3", "o")):
        with pytest.raises(UnknownMedia) as caught:
            stores.jobs.create(new_job("a", owner=owner, media=["med_1", media_id][-1:]), LIMITS)
        assert caught.value.media_id == media_id
    with pytest.raises(UnknownMedia):
        stores.jobs.create(new_job("a", owner="o", media=["med_1", "med_3"]), LIMITS)
    job = stores.jobs.create(new_job("a", owner="o", media=["med_1", "med_1"], request_id="r"), LIMITS)
    assert job.media == ("med_1",)
    # A replay answers as the first request did, whatever became of its media.
    stores.jobs.request_cancel("a", "o")
    stores.media.delete("med_1", "o")
    assert stores.jobs.create(new_job("b", owner="o", media=["med_1"], request_id="r"), LIMITS).id == "a"


def test_a_medium_is_kept_while_a_live_job_needs_it(stores: Stores, clock: Clock) -> None:
    uploaded(stores, "med_1", expire_at=1_500.0)
    for job_id in "ab":
        stores.jobs.create(new_job(job_id, owner="o", media=["med_1"]), LIMITS)
    clock.now = 2_000.0
    with pytest.raises(MediaInUse):
        stores.media.delete("med_1", "o")
    assert stores.media.expired(9) == []
    stores.jobs.request_cancel("a", "o")
    claim(stores.jobs)
    with pytest.raises(MediaInUse):
        stores.media.delete("med_1", "o")
    stores.jobs.finish("b", 1, State.SUCCEEDED, result=RESULT)
    ((gone, key),) = stores.media.expired(9)
    assert (gone.id, key) == ("med_1", "media/med_1")
    assert stores.media.get("med_1", "o") is None
    job = stores.jobs.get("b", "o")
    assert job is not None and job.media == ("med_1",)  # what it was made of
    assert stores.jobs.delete("b", "o") is not None
    assert stores.database.read("SELECT job_id FROM job_media") == []


def test_media_expire_unless_they_are_touched(stores: Stores, clock: Clock) -> None:
    uploaded(stores, "med_1", expire_at=1_500.0)
    uploaded(stores, "med_2", expire_at=1_600.0)  # the same file
    stores.media.create(media("med_3", expire_at=1_700.0))  # an upload that was given up
    uploaded(stores, "med_4", sha256="bb", expire_at=1_700.0)
    assert stores.media.touch(["med_4", "med_9"], "o", 1_800.0) == 1
    assert stores.media.touch(["med_4"], "o", 1_750.0) == 1  # never shorter
    assert stores.media.touch(["med_4"], "other", 9_999.0) == 0
    clock.now = 1_500.0
    assert [(item.id, key) for item, key in stores.media.expired(9)] == [("med_1", None)]
    clock.now = 1_799.0
    assert [(item.id, key) for item, key in stores.media.expired(1)] == [("med_2", "media/med_1")]
    assert [(item.id, key) for item, key in stores.media.expired(9)] == [("med_3", None)]
    clock.now = 1_800.0
    assert [(item.id, key) for item, key in stores.media.expired(9)] == [("med_4", "media/med_4")]


def test_sharing_and_sweeping_at_once_loses_no_file(database: str, stores: Stores) -> None:
    """Uploads of one content come in while media of it expire and are deleted: at no time does a ready medium name a
    file that somebody was told to delete, and no file is left that nobody names."""
    sweeper = open_stores(database, lambda: 1_000.0)
    written: list[str] = []
    deleted: list[str] = []
    done = threading.Event()

    def upload(worker: int) -> None:
        for number in range(25):
            media_id = f"med_{worker}_{number}"
            own = f"media/{media_id}"
            written.append(own)
            try:
                item = uploaded(stores, media_id, expire_at=900.0 if number % 2 else 9_000.0)
            except UnknownMedia:
                deleted.append(own)  # swept before it was ready
                continue
            if item.key != own:
                deleted.append(own)  # as the caller of ready() does
            if number % 2 == 0 and (key := stores.media.delete(item.id, "o")) is not None:
                deleted.append(key)

    def sweep() -> None:
        while not done.is_set():
            deleted.extend(key for _, key in sweeper.media.expired(5) if key is not None)

    with ThreadPoolExecutor(5) as pool:
        sweeping = pool.submit(sweep)
        try:
            for uploading in [pool.submit(upload, worker) for worker in range(4)]:
                uploading.result()
        finally:
            done.set()
        sweeping.result()
    left = {item.key for item in stores.media.list("o", 1_000)}
    assert len(deleted) == len(set(deleted))
    assert left == set(written) - set(deleted)
    sweeper.close()


def test_announcements_at_once_stay_within_the_quota(stores: Stores) -> None:
    def announce(number: int) -> bool:
        try:
            stores.media.create(media(f"med_{number:02}", size_bytes=30), max_bytes=100)
        except QuotaExceeded as error:
            assert (error.quota, error.limit, error.used) == ("media_bytes", 100, 90)
            return False
        return True

    with ThreadPoolExecutor(12) as pool:
        assert sum(pool.map(announce, range(40))) == 3
    assert sum(item.size_bytes or 0 for item in stores.media.list("o", 99)) == 90
