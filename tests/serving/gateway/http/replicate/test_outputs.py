"""Which clients get the file itself in place of a URL."""

from __future__ import annotations

import pytest

from zoetrope.serving.gateway.http.replicate.outputs import wants_data

NPM, AI = "replicate-javascript/1.4.0", "ai/7.0.173 ai-sdk/provider-utils/5.0.6 runtime/node.js/20"
PYTHON_1, PYTHON_2 = "replicate-python/1.0.7", "AsyncReplicate/Python 2.0.0b4"


@pytest.mark.parametrize(
    ("agent", "waits", "inline"),
    [
        *((NPM, True, True), (NPM, False, True), (AI, True, True), (AI, False, True)),
        *((PYTHON_1, True, True), (PYTHON_1, False, False), (PYTHON_2, True, True), (PYTHON_2, False, False)),
        *(("Replicate/Python 2.0.0b4", True, True), ("curl/8.5.0", True, False), ("", True, False)),
        *(("python-requests/2.32.3", True, False), ("my-replicate-javascript", True, False)),
    ],
)
def test_only_those_that_could_not_use_a_url(agent: str, waits: bool, inline: bool) -> None:
    assert wants_data("http://127.0.0.1:8080", {"user-agent": agent}, {"waits": waits}) is inline
    assert not wants_data("https://videos.example", {"user-agent": agent}, {"waits": waits})


def test_jobs_of_other_apis_have_urls() -> None:
    assert not wants_data("http://127.0.0.1:8080", {"user-agent": PYTHON_1}, {"api": "openai"})
    assert not wants_data("http://127.0.0.1:8080", {}, {})
