from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.serving.hostile.kit import Target, target


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    """The module's gateway, which asks for no key. No test may make it fail unexpectedly."""
    with target(tmp_path_factory.mktemp("hostile"), max_queued=1_000_000, max_upload_bytes=300_000) as running:
        yield running
        running.service.empty_queue()
        running.check_alive()
        assert running.errors() == []
