from __future__ import annotations

from tests.serving.gateway.conftest import gateway, service

__all__ = ["gateway", "service"]
