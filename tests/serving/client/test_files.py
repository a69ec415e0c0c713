"""Uploads and downloads: in pieces, resumed, checked."""

from __future__ import annotations

import hashlib
import io
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.serving.gateway.harness import (
    GatewayProcess,
    Service,
    failure,
    reason,
    running_service,
    until,
    violations,
)
from zoetrope.serving.api.zoetrope.video.v1 import media_pb2, media_pb2_grpc
from zoetrope.serving.client import ClientError

PART = 4 << 20  # that the service stores in one go
BYTES = random.Random(0).randbytes(2_500_000)


@pytest.fixture(scope="module")
def picture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A PNG of more than two parts."""
    path = tmp_path_factory.mktemp("media") / "noise.png"
    pixels = np.random.default_rng(0).integers(0, 255, (1_700, 1_800, 3), np.uint8)
    Image.fromarray(pixels).save(path, compress_level=0)
    assert path.stat().st_size > 2 * PART
    return path


@pytest.fixture
def media(service: Service) -> Any:
    return media_pb2_grpc.MediaServiceStub(service.channel)  # type: ignore[no-untyped-call]


def announce(media: Any, data: bytes, **changes: Any) -> str:
    fields = {"size_bytes": len(data), "sha256": hashlib.sha256(data).hexdigest(), **changes}
    return str(media.CreateMedia(media_pb2.CreateMediaRequest(**fields)).name)


def pieces(name: str, data: bytes, start: int = 0, size: int = 1 << 20) -> Iterator[media_pb2.WriteMediaRequest]:
    for offset in range(0, len(data), size):
        yield media_pb2.WriteMediaRequest(name=name, offset=start + offset, data=data[offset : offset + size])


def test_upload_list_get_delete(service: Service, picture: Path) -> None:
    seen: list[tuple[int, int]] = []
    file = service.client.upload(picture, on_progress=lambda have, total: seen.append((have, total)))
    size = picture.stat().st_size
    assert seen[-1] == (size, size)
    assert [have for have, _ in seen] == sorted({have for have, _ in seen})
    assert (file.ready, file.kind, file.mime_type) == (True, "image", "image/png")
    assert (file.width, file.height) == (1_800, 1_700)
    assert (file.filename, file.size_bytes, file.received_bytes) == ("noise.png", size, size)
    assert file.sha256 == hashlib.sha256(picture.read_bytes()).hexdigest()
    assert file.expire_time - file.create_time == pytest.approx(86_400, abs=60)
    assert service.client.get_media(file.name) == file
    small = io.BytesIO()
    Image.new("RGB", (8, 8), "red").save(small, "webp")
    other = service.client.upload(small.getvalue(), filename="red.webp")
    page = service.client.list_media(1)
    assert [m.name for m in page.media] == [other.name]
    assert file.name in [m.name for m in service.client.list_media(200, page.next_page_token).media]
    service.client.delete_media(other.name)
    with pytest.raises(ClientError, match="is not a known file"):
        service.client.get_media(other.name)
    job = service.client.create(task={"kind": "text_to_video", "prompt": "x"})
    service.client.cancel(job)
    service.client.delete_media(file.name)


def test_an_upload_outlives_the_gateway(tmp_path: Path, picture: Path) -> None:
    with running_service(tmp_path) as service:
        sent: list[int] = []
        killed_at: list[int] = []

        def progress(have: int, total: int) -> None:
            sent.append(have)
            if have >= PART + (2 << 20) and not killed_at:
                (row,) = service.stores.media.list("", 2)
                until(lambda: (service.stores.media.get(row.id, "") or row).received_bytes >= PART)
                killed_at.append(len(sent))
                service.gateway.kill()
                service.gateway = GatewayProcess(service.settings)

        file = service.client.upload(picture, on_progress=progress)
        assert file.ready
        assert file.sha256 == hashlib.sha256(picture.read_bytes()).hexdigest()
        after = sent[killed_at[0] :]
        assert PART < after[0] <= sent[killed_at[0] - 1], "from where the service had it, not from the start"
        assert after == sorted(set(after))
        assert after[-1] == file.size_bytes
        assert [m.name for m in service.client.list_media().media] == [file.name]


def test_an_upload_is_taken_up_by_another_process(service: Service, media: Any, picture: Path) -> None:
    data = picture.read_bytes()
    name = announce(media, data)
    call = media.WriteMedia(pieces(name, data[: PART + 1_000_000]))
    assert call.state == media_pb2.MEDIA_STATE_UPLOADING
    assert call.received_bytes == PART
    sent: list[int] = []
    file = service.client.upload(picture, resume=name, on_progress=lambda have, total: sent.append(have))
    assert (file.name, file.ready) == (name, True)
    assert min(sent) > PART
    assert service.client.upload(picture, resume=name).name == name  # it is complete: nothing is sent
    with pytest.raises(ClientError, match=f"^resume: {name} was announced for another file$"):
        service.client.upload(b"another", resume=name)


def test_wrong_checksum(service: Service, media: Any, tmp_path: Path) -> None:
    data = b"x" * 3_000_000
    name = announce(media, data, sha256=hashlib.sha256(b"y").hexdigest())
    code, status = failure(lambda: media.WriteMedia(pieces(name, data)))
    assert (code, reason(status)) == ("DATA_LOSS", "WRONG_CHECKSUM")
    code, status = failure(lambda: media.GetMedia(media_pb2.GetMediaRequest(name=name)))
    assert code == "NOT_FOUND"
    # A file that changes while it goes up.
    path = tmp_path / "changing"
    path.write_bytes(data)

    def change(have: int, total: int) -> None:
        with path.open("r+b") as file:
            file.seek(total - 1)
            file.write(b"?")

    before = service.client.list_media(200)
    with pytest.raises(ClientError) as caught:
        service.client.upload(path, on_progress=change)
    assert (caught.value.code, caught.value.reason) == ("DATA_LOSS", "WRONG_CHECKSUM")
    with pytest.raises(ClientError, match="the file ended early, at "):
        service.client.upload(path, on_progress=lambda have, total: path.write_bytes(b""))
    # What ended early can be gone on with; what was wrong is gone.
    assert len(service.client.list_media(200).media) == len(before.media) + 1


def test_bad_uploads(service: Service, media: Any, tmp_path: Path) -> None:
    for fields, field in (
        ({"size_bytes": 0}, "size_bytes"),
        ({"size_bytes": 100_000_001}, "size_bytes"),
        ({"sha256": "A" * 64}, "sha256"),
        ({"filename": "x" * 256}, "filename"),
    ):
        code, status = failure(lambda fields=fields: announce(media, b"x", **fields))  # type: ignore[misc]
        assert (code, list(violations(status))) == ("INVALID_ARGUMENT", [field])
    data = b"x" * 2_000_000
    name = announce(media, data)

    def upload(*messages: media_pb2.WriteMediaRequest) -> Any:
        return failure(lambda: media.WriteMedia(iter(messages)))

    code, status = upload(media_pb2.WriteMediaRequest(name=name, offset=5, data=b"x"))
    assert (code, reason(status)) == ("OUT_OF_RANGE", "WRONG_OFFSET")
    code, status = upload(media_pb2.WriteMediaRequest(name=name, data=b"x" * ((1 << 20) + 1)))
    assert violations(status) == {"data": "has 1048577 bytes, at most 1048576 are allowed"}
    code, status = upload(*pieces(name, data + b"more"))
    assert violations(status) == {"data": "goes beyond the 2000000 bytes that were announced"}
    code, status = upload()
    assert (code, list(violations(status))) == ("INVALID_ARGUMENT", ["name"])
    code, status = upload(media_pb2.WriteMediaRequest(name="media/med_none", data=b"x"))
    assert (code, list(violations(status))) == ("NOT_FOUND", ["name"])
    code, status = failure(lambda: media.WriteMedia(pieces(name, data)))
    assert (code, list(violations(status))) == ("INVALID_ARGUMENT", ["data"])  # it is no picture, clip or sound
    with pytest.raises(ClientError, match=r"^source: .* cannot be read: No such file"):
        service.client.upload(tmp_path / "none")


def test_ranges(service: Service, tmp_path: Path) -> None:
    name = service.make(BYTES, tmp_path)
    for offset, length in ((0, 0), (5, 0), (5, 10), (1_000_000, 1_200_000), (len(BYTES) - 3, 50), (len(BYTES), 0)):
        end = offset + length if length else None
        assert b"".join(service.client.read(name, offset, length)) == BYTES[offset:end]
    for fields, code in (
        ({"offset": len(BYTES) + 1}, "OUT_OF_RANGE"),
        ({"offset": -1}, "INVALID_ARGUMENT"),
        ({"length": -1}, "INVALID_ARGUMENT"),
        ({"offset": 2**70}, "INVALID_ARGUMENT"),
        ({"artifact": "sound"}, "INVALID_ARGUMENT"),
        ({"artifact": "latents"}, "FAILED_PRECONDITION"),
    ):
        with pytest.raises(ClientError) as caught:
            list(service.client.read(name, **fields))
        assert caught.value.code == code


def test_a_download_outlives_the_gateway(tmp_path: Path) -> None:
    with running_service(tmp_path) as service:
        data = random.Random(1).randbytes(12_000_000)
        name = service.make(data, tmp_path)
        out = tmp_path / "out.mp4"
        starts: list[int] = []

        def progress(have: int, total: int) -> None:
            starts.append(have)
            if len(starts) == 2:
                service.gateway.kill()
                service.gateway = GatewayProcess(service.settings)

        service.client.download(name, out, on_progress=progress)
        assert out.read_bytes() == data
        assert starts == sorted(set(starts)), "no byte is fetched twice"
        parts = service.client.read(name)
        read = next(parts)
        service.gateway.kill()
        service.gateway = GatewayProcess(service.settings)
        assert read + b"".join(parts) == data


def test_one_download_writes_a_file_at_a_time(service: Service, tmp_path: Path) -> None:
    """Two that appended to one file once left it with every piece twice, and reported success."""
    data = random.Random(2).randbytes(12_000_000)
    name, out = service.make(data, tmp_path), tmp_path / "once.mp4"
    second: list[str] = []

    def progress(have: int, total: int) -> None:
        if not second:
            with pytest.raises(ClientError) as caught:
                service.client.download(name, out)
            second.append(caught.value.code)

    service.client.download(name, out, on_progress=progress)
    assert second == ["ABORTED"]
    assert out.read_bytes() == data
    service.client.download(name, out)
    assert out.read_bytes() == data
    assert [path.name for path in tmp_path.iterdir() if path.name.endswith(".partial")] == []


def test_a_stream_that_nobody_reads_on_is_ended(service: Service, tmp_path: Path) -> None:
    name = service.make(BYTES, tmp_path)
    parts = service.client.read(name)
    next(parts)
    parts.close()  # type: ignore[attr-defined]
    assert next(parts, None) is None
    assert service.client.get(name).state == "succeeded"
