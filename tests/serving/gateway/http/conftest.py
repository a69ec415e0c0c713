"""Ends the gateway that the tests of a folder share."""

from __future__ import annotations

from collections.abc import Generator

import pytest

from tests.serving.gateway.http.one_gateway import end_gateway_of


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> Generator[None, None, None]:
    result = yield
    if nextitem is None or nextitem.path.parent != item.path.parent:
        end_gateway_of(item.path.parent)
    return result
