"""Fields of a request by the names of the options that set them."""

from __future__ import annotations

import pytest

from zoetrope.serving.cli.errors import option_name


@pytest.mark.parametrize(
    ("field", "option"),
    [
        ("prompt", "prompt"),
        ("text_to_video.prompt", "prompt"),
        ("task.negative_prompt", "negative"),
        ("duration_seconds", "duration"),
        ("first_last_frame.last_frame", "last-image"),
        ("reference_to_video.references.0", "reference 1"),
        ("panels.8", "panel 9"),
        ("task", "task"),
        ("labels.team", "label"),
        ("webhook.url", "webhook"),
        ("format", "out"),
    ],
)
def test_option_names(field: str, option: str) -> None:
    assert option_name(field) == option
