"""What a service is told reaches its engines."""

from __future__ import annotations

import pytest

from zoetrope.serving.config.settings import Settings
from zoetrope.serving.ray_host.application import _gang


@pytest.mark.parametrize(("told", "expected"), [(None, False), ("true", True)])
def test_engines_compile_where_the_service_is_told_to(
    told: str | None, expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("ZOETROPE_COMPILE", raising=False)
    if told is not None:
        monkeypatch.setenv("ZOETROPE_COMPILE", told)
    assert _gang(Settings(), 1, "both", gpus=False).compile is expected


@pytest.mark.parametrize(("told", "expected"), [(None, "never"), ("auto", "auto")])
def test_engines_capture_steps_where_the_service_is_told_to(
    told: str | None, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("ZOETROPE_CUDA_GRAPHS", raising=False)
    if told is not None:
        monkeypatch.setenv("ZOETROPE_CUDA_GRAPHS", told)
    assert _gang(Settings(), 1, "both", gpus=False).cuda_graphs == expected
