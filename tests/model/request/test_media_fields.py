"""Each task declares its media once; all else that knows of them asks the declaration."""

from __future__ import annotations

from typing import Annotated

import pytest
from pydantic import BaseModel

from zoetrope.model.request.media_fields import MediaField, Takes, media_fields
from zoetrope.model.request.tasks import MEDIA_FIELDS, TASKS, EditVideo, ImageToVideo
from zoetrope.serving.api.zoetrope.video.v1 import video_pb2


def test_fields_are_found_within_types() -> None:
    assert media_fields(ImageToVideo) == {
        "image": MediaField("image", Takes("image"), many=False),
        "clip": MediaField("clip", Takes("clip", max_seconds=15.0), many=False),
        "last_frame": MediaField("last_frame", Takes("image"), many=False),
    }
    assert media_fields(EditVideo) == {
        "video": MediaField("video", Takes("clip", 2.0, 10.0), many=False),
        "references": MediaField("references", Takes(max_seconds=10.0), many=True),
    }


def test_a_name_takes_the_same_in_all_tasks() -> None:
    class Other(BaseModel):
        image: Annotated[str, Takes("clip")]

    with pytest.raises(ValueError, match=r"Other\.image takes something other than another task's image"):
        media_fields(ImageToVideo, Other)


def test_the_api_has_the_same_media_fields() -> None:
    request = video_pb2.CreateVideoRequest.DESCRIPTOR
    kinds = {kind.name: kind.message_type for kind in request.oneofs_by_name["task"].fields}
    assert set(kinds) == {task.model_fields["kind"].default for task in TASKS}
    for task in TASKS:
        message = kinds[task.model_fields["kind"].default]
        named = {field.name: field.is_repeated for field in message.fields if field.message_type is not None}
        assert named == {name: field.many for name, field in media_fields(task).items()}
        assert {field.name for field in message.fields} == task.model_fields.keys() - {"kind"}
    assert set(MEDIA_FIELDS) == {name for task in TASKS for name in media_fields(task)}
