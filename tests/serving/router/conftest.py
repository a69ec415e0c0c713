"""What the router's tests work in, on both databases."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.serving.router.harness import House


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.integration)])
def database(request: pytest.FixtureRequest) -> str:
    """The URL of a new database; empty for a file of the house's own."""
    return str(request.getfixturevalue("postgres")) if request.param == "postgres" else ""


@pytest.fixture
def build(database: str, tmp_path: Path) -> Iterator[Callable[..., House]]:
    """Makes a house with these settings."""
    houses: list[House] = []

    def call(**settings: Any) -> House:
        houses.append(House(tmp_path, database, **settings))
        return houses[-1]

    yield call
    for house in houses:
        house.stores.close()
