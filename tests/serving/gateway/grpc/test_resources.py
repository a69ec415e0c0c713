"""Videos as resources: their names, GetVideo, pages of lists, and updates by mask."""

from __future__ import annotations

import base64
import re
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.field_mask_pb2 import FieldMask

from tests.serving.gateway.harness import Service, failure, reason, violations
from zoetrope.serving.api.zoetrope.video.v1 import video_pb2
from zoetrope.serving.client import ClientError


def video_name(name: str) -> str:
    return name.replace("operations/", "videos/")


def test_get_video(service: Service, tmp_path: Path) -> None:
    name = service.client.create(prompt="x", seed=3)
    code, status = failure(lambda: service.videos.GetVideo(video_pb2.GetVideoRequest(name=video_name(name))))
    assert (code, reason(status)) == ("FAILED_PRECONDITION", "NOT_SUCCEEDED")
    service.succeed(service.claim(name), b"video", tmp_path)
    by_video = service.client.get_video(video_name(name))
    assert by_video == service.client.get_video(name) == service.client.get(name).video
    assert (by_video.name, by_video.seed, by_video.size_bytes) == (video_name(name), 3, 5)
    for unknown, why in (("videos/vid_x", "UNKNOWN_VIDEO"), ("vid_x", "UNKNOWN_OPERATION")):
        request = video_pb2.GetVideoRequest(name=unknown)
        code, status = failure(partial(service.videos.GetVideo, request))
        assert (code, reason(status), list(violations(status))) == ("NOT_FOUND", why, ["name"])


def test_methods_take_a_video_s_name(service: Service, tmp_path: Path) -> None:
    name = service.make(b"video", tmp_path)
    video = video_name(name)
    service.client.download(video, tmp_path / "out.mp4")
    assert (tmp_path / "out.mp4").read_bytes() == b"video"
    assert [status.name for status in service.client.watch(video)] == [video]
    assert service.client.events(video) == service.client.events(name)
    assert service.client.update(video, labels={"a": "b"}).labels == {"a": "b"}
    with pytest.raises(ClientError) as caught:  # an operation is named by its own name alone
        service.client.get(video)
    assert caught.value.reason == "UNKNOWN_OPERATION"
    for source in ("videos/vid_none", "operations/vid_none"):
        with pytest.raises(ClientError) as caught:
            service.client.create(task={"kind": "edit_video", "prompt": "x", "video": source})
        assert caught.value.code == "NOT_FOUND"


def test_events_in_pages(service: Service, tmp_path: Path) -> None:
    name = service.make(b"video", tmp_path)
    whole = service.client.events(name)
    assert [event.to_state for event in whole] == ["queued", "running", "succeeded"]
    request = video_pb2.ListVideoEventsRequest(name=name, page_size=2)
    first = service.videos.ListVideoEvents(request)
    assert [event.to_state for event in first.events] == ["queued", "running"]
    request.page_token = first.next_page_token
    last = service.videos.ListVideoEvents(request)
    assert ([event.to_state for event in last.events], last.next_page_token) == (["succeeded"], "")
    other = video_pb2.ListVideoEventsRequest(name=service.client.create(prompt="x"), page_token=first.next_page_token)
    code, status = failure(lambda: service.videos.ListVideoEvents(other))
    assert (code, list(violations(status))) == ("INVALID_ARGUMENT", ["page_token"])


def test_models_in_pages(service: Service) -> None:
    answer = service.videos.ListModels(video_pb2.ListModelsRequest(page_size=1))
    assert ([model.name for model in answer.models], answer.next_page_token) == (["tiny"], "")
    for request in (video_pb2.ListModelsRequest(page_size=-1), video_pb2.ListModelsRequest(page_token="x")):
        code, _ = failure(partial(service.videos.ListModels, request))
        assert code == "INVALID_ARGUMENT"


def test_full_replacement(service: Service, tmp_path: Path) -> None:
    name = service.client.create(prompt="x", labels={"a": "1"})

    def update(**changes: Any) -> video_pb2.VideoMetadata:
        request = video_pb2.UpdateVideoRequest(name=name, changes=video_pb2.VideoChanges(**changes))
        request.update_mask.CopyFrom(FieldMask(paths=["*"]))
        metadata = video_pb2.VideoMetadata()
        assert service.videos.UpdateVideo(request).metadata.Unpack(metadata)
        return metadata

    found = update(priority=2)
    assert (dict(found.labels), found.priority) == ({}, 2)
    service.succeed(service.claim(name), b"video", tmp_path)
    found = update(labels={"b": "2"}, priority=2, expire_time=metadata_of(service, name).expire_time)
    assert dict(found.labels) == {"b": "2"}
    soon = metadata_of(service, name).expire_time
    soon.seconds = int(time.time()) + 60
    assert update(labels={"b": "2"}, priority=2, expire_time=soon).expire_time == soon
    # Of a job that is done the priority cannot be changed, nor can it do without an expiry.
    code, status = failure(lambda: update(labels={"b": "2"}, priority=3, expire_time=soon))
    assert code == "FAILED_PRECONDITION"
    code, status = failure(lambda: update(labels={"b": "2"}, priority=2))
    assert (code, list(violations(status))) == ("INVALID_ARGUMENT", ["changes.expire_time"])
    assert dict(metadata_of(service, name).labels) == {"b": "2"}
    code, status = failure(
        lambda: service.videos.UpdateVideo(
            video_pb2.UpdateVideoRequest(name=name, update_mask=FieldMask(paths=["*", "labels"]))
        )
    )
    assert (code, list(violations(status))) == ("INVALID_ARGUMENT", ["update_mask"])


def metadata_of(service: Service, name: str) -> video_pb2.VideoMetadata:
    metadata = video_pb2.VideoMetadata()
    assert service.videos.UpdateVideo(video_pb2.UpdateVideoRequest(name=name)).metadata.Unpack(metadata)
    return metadata


def test_page_tokens_show_nothing_of_the_filter(service: Service) -> None:
    for _ in range(2):
        service.client.create(prompt="x", labels={"secret": "label"})
    token = service.client.list(page_size=1, filter="labels.secret=label").next_page_token
    assert re.fullmatch(r"[A-Za-z0-9_-]{20,80}", token)  # needs no quoting anywhere
    held = base64.urlsafe_b64decode(token + "=" * (-len(token) % 4))
    assert not any(word in held for word in (b"label", b"secret", b"Filter", b"created", b'{"', b'["'))
    assert len(service.client.list(page_token=token, filter="labels.secret=label").operations) == 1
