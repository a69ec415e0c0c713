"""Messages that hold more than they look, seen from their bytes."""

from __future__ import annotations

import time
from typing import Any

import pytest
from google.protobuf.message import DecodeError
from hypothesis import given
from hypothesis import strategies as st

from tests.serving.gateway.harness import text_request
from zoetrope.serving.api.zoetrope.video.v1 import video_pb2
from zoetrope.serving.gateway.grpc.wire_format import MAX_FIELDS, MAX_OWN_FIELDS, has_many_fields

BATCH: Any = video_pb2.BatchCreateVideosRequest
CREATE: Any = video_pb2.CreateVideoRequest


def labels(count: int) -> dict[str, str]:
    return {str(number): "x" * 256 for number in range(count)}


def test_the_largest_batch_that_is_meant_is_fine() -> None:
    media = [{"uri": "https://example.com/" + "x" * 2_000}] * 5
    request = CREATE(reference_to_video={"prompt": "x", "references": media}, labels=labels(32), seed=1, steps=9)
    assert not has_many_fields(BATCH(requests=[request] * 100).SerializeToString(), BATCH.DESCRIPTOR)


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (b"\x0a\x00" * 4_000_000, BATCH),
        (text_request(labels=labels(MAX_OWN_FIELDS)).SerializeToString(), CREATE),
        (BATCH(requests=[text_request(labels=labels(500))] * 100).SerializeToString(), BATCH),
        (b"\x0b\x0c" * 4_000_000, BATCH),  # groups, which nobody knows
        (b"\x98\x06\x01" * 2_000_000, CREATE),  # a number under a field that nobody knows
    ],
    ids=["entries", "labels", "labels of entries", "groups", "unknown fields"],
)
def test_many_fields_are_seen_at_once(data: bytes, kind: Any) -> None:
    started = time.perf_counter()
    assert has_many_fields(data, kind.DESCRIPTOR)
    assert time.perf_counter() - started < 0.5


def test_one_large_field_is_one() -> None:
    request = CREATE(image_to_video={"prompt": "x", "image": {"data": b"\x0a\x00" * 3_000_000}})
    assert not has_many_fields(request.SerializeToString(), CREATE.DESCRIPTOR)


@given(st.binary(max_size=3 * MAX_OWN_FIELDS))
def test_any_bytes(data: bytes) -> None:
    """It ends, and calls nothing large that a parser finds small."""
    if has_many_fields(data, BATCH.DESCRIPTOR):
        return
    try:
        message = BATCH.FromString(data)
    except DecodeError:
        return
    assert len(message.requests) <= MAX_FIELDS
