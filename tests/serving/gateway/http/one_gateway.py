"""One gateway with nano for all tests of a folder. It ends with the last of them: idle, it would take others' time."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.serving.gateway.harness import Service, running_service

_running: dict[Path, tuple[ExitStack, Service]] = {}


def gateway_of(folder: Path, directories: pytest.TempPathFactory, **changes: Any) -> Service:
    """Start it, with these settings, unless it runs."""
    if folder not in _running:
        with ExitStack() as stack:
            service = stack.enter_context(running_service(directories.mktemp(folder.name), model="nano", **changes))
            _running[folder] = stack.pop_all(), service
    return _running[folder][1]


def end_gateway_of(folder: Path) -> None:
    """End it, if there is one."""
    if folder in _running:
        _running.pop(folder)[0].close()
