"""Filters and page tokens."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zoetrope.serving.gateway.errors.api_error import ApiError
from zoetrope.serving.gateway.submit.listing import decode_page_token, encode_page_token, parse_filter
from zoetrope.serving.jobs.job import JobFilter, State


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", JobFilter()),
        ("  ", JobFilter()),
        ("state=succeeded", JobFilter(states=(State.SUCCEEDED,))),
        (" DONE = True ", JobFilter(states=(State.SUCCEEDED, State.FAILED, State.CANCELLED))),
        ("done=false", JobFilter(states=(State.QUEUED, State.RUNNING))),
        ('labels.a="b c" AND labels.d:e', JobFilter(labels={"a": "b c", "d": "e"})),
        (r'labels.a="say \"hi\""', JobFilter(labels={"a": 'say "hi"'})),
        ("task=edit_video and model=nano", JobFilter(kind="edit_video", model="nano")),
        ("create_time>=1970-01-01T00:01:00Z AND create_time<1970-01-01T00:02:00+00:00",
         JobFilter(created_after=60.0, created_before=120.0)),
    ],
)  # fmt: skip
def test_filters(text: str, expected: JobFilter) -> None:
    assert parse_filter(text) == expected


@pytest.mark.parametrize(
    "text",
    ["colour=red", "state=lost", "state", "state=", "state=queued OR state=running", "state=queued AND", "state>queued",
     "create_time>=yesterday", "create_time=2026-01-01", 'labels.a="b', "AND", "done=maybe", "x" * 3_000],
)  # fmt: skip
def test_filters_that_are_refused(text: str) -> None:
    with pytest.raises(ApiError) as caught:
        parse_filter(text)
    assert caught.value.code == "INVALID_ARGUMENT"
    assert caught.value.violations[0].field == "filter"


@given(st.text(max_size=80))
def test_any_text_is_a_filter_or_refused(text: str) -> None:
    try:
        parse_filter(text)
    except ApiError as error:
        assert error.code == "INVALID_ARGUMENT"


def test_page_tokens_are_of_one_filter() -> None:
    token = encode_page_token(12.5, "vid_a", "x")
    assert decode_page_token(token, "x") == (12.5, "vid_a")
    assert decode_page_token("", "x") is None
    with pytest.raises(ApiError):
        decode_page_token(token, "y")


@given(st.text(max_size=80))
def test_any_text_is_a_token_or_refused(text: str) -> None:
    try:
        decode_page_token(text, "x")
    except ApiError as error:
        assert error.code == "INVALID_ARGUMENT"
