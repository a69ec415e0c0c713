"""A full disk and a database that is away: refused with when to try again, and nothing is stored half."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from google.rpc import error_details_pb2

from tests.serving.gateway.harness import Service, detail, failure, reason, running_service, text_request, until
from tests.serving.gateway.http.samples import picture
from zoetrope.serving.api.zoetrope.video.v1 import media_pb2, media_pb2_grpc, video_pb2
from zoetrope.serving.jobs.job import JobFilter

SMALL_BYTES = 6 << 20


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of a few MiB."""
    folder = tmp_path / "small"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={SMALL_BYTES}", "tmpfs", folder], capture_output=True, text=True
    )
    if mounted.returncode:
        pytest.skip(f"no file system can be mounted here: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


def check_refused(service: Service, request: video_pb2.CreateVideoRequest) -> None:
    code, status = failure(lambda: service.videos.CreateVideo(request))
    assert (code, reason(status)) == ("UNAVAILABLE", "STORE_UNAVAILABLE")
    retry = detail(status, error_details_pb2.RetryInfo)
    assert retry is not None and retry.retry_delay.seconds >= 1
    assert "small" not in status.message and "/" not in status.message


def test_a_full_disk(tmp_path: Path, small_disk: Path) -> None:
    with running_service(tmp_path, data_dir=small_disk, model="nano") as service:
        before = service.videos.CreateVideo(text_request(request_id="before"))
        with (small_disk / "filler").open("wb", buffering=0) as filler, suppress(OSError):
            while True:
                filler.write(b"\1" * 4_096)
        made = []
        for i in range(400):  # pages that the database has already may still take some
            request = text_request(prompt="p" * 4_000, request_id=f"full-{i}")
            try:
                made.append(service.videos.CreateVideo(request).name)
            except Exception:
                check_refused(service, request)
                break
        else:
            pytest.fail("the disk never got full")
        image = media_pb2.Media(data=picture(400, 300))
        full = video_pb2.CreateVideoRequest(image_to_video=video_pb2.ImageToVideo(image=image))
        check_refused(service, full)
        names = {f"operations/{job.id}" for job in service.store.list("", page_size=1_000, where=JobFilter())}
        assert names == {before.name, *made}
        assert service.videos.CreateVideo(text_request(request_id="before")).name == before.name, "replays are answered"
        (small_disk / "filler").unlink()
        again = service.videos.CreateVideo(text_request(prompt="p" * 4_000, request_id=f"full-{len(made)}"))
        assert again.name not in names
        files = media_pb2_grpc.MediaServiceStub(service.channel)  # type: ignore[no-untyped-call]
        listed = files.ListMedia(media_pb2.ListMediaRequest())
        assert [file.name for file in listed.media if file.state == media_pb2.MEDIA_STATE_READY] == []
        assert service.videos.CreateVideo(full).name


def test_a_database_that_goes_away_and_comes_back(tmp_path: Path, postgres: str) -> None:
    import psycopg

    with running_service(tmp_path, database=postgres) as service:
        before = service.videos.CreateVideo(text_request(request_id="before"))
        with psycopg.connect(postgres, autocommit=True) as operator:
            operator.execute("ALTER SCHEMA zoetrope RENAME TO away")
            operator.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE pid <> pg_backend_pid() AND datname = current_database()"
            )
            check_refused(service, text_request(request_id="during"))
            operator.execute("ALTER SCHEMA away RENAME TO zoetrope")
        again = until(lambda: _made(service, text_request(request_id="during")))
        assert again != before.name
        assert service.videos.CreateVideo(text_request(request_id="before")).name == before.name


def _made(service: Service, request: video_pb2.CreateVideoRequest) -> str | None:
    import grpc

    try:
        return str(service.videos.CreateVideo(request).name)
    except grpc.RpcError as error:
        assert error.code() is grpc.StatusCode.UNAVAILABLE
        return None
