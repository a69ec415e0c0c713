"""Misspelt settings."""

from __future__ import annotations

import pytest

from zoetrope.serving.config.variables import unknown_variables


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("ZOETROPE_MODLE", "ZOETROPE_MODLE is not a setting; did you mean ZOETROPE_MODEL?"),
        (
            "ZOETROPE_ALLOWED_NETWORKS",
            "ZOETROPE_ALLOWED_NETWORKS is not a setting; did you mean ZOETROPE_ALLOW_NETWORKS?",
        ),
        ("zoetrope_rank", "zoetrope_rank is not a setting; did you mean ZOETROPE_RANKS?"),
        ("ZOETROPE_APIKEY", "ZOETROPE_APIKEY is not a setting; did you mean ZOETROPE_API_KEY?"),
        ("ZOETROPE_XYZZY", "ZOETROPE_XYZZY is not a setting"),
    ],
)
def test_the_nearest_name_is_told(name: str, line: str) -> None:
    assert unknown_variables([name, "PATH", "ZOETROPE_MODEL"]) == [line]


@pytest.mark.parametrize(
    "name",
    [
        "ZOETROPE_MODEL",
        "zoetrope_model",
        "ZOETROPE_SERVER",
        "ZOETROPE_SETTINGS",
        "ZOETROPE_SERVICE_HOST",  # these are Kubernetes's, for services named zoetrope and zoetrope-grpc
        "ZOETROPE_PORT",
        "ZOETROPE_PORT_8080_TCP_ADDR",
        "ZOETROPE_SERVICE_PORT_HTTP",
        "ZOETROPE_GRPC_PORT_50051_TCP",
    ],
)
def test_what_is_known_is_not_told(name: str) -> None:
    assert unknown_variables([name]) == []
