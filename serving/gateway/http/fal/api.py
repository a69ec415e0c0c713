"""fal's queue: ``fal-client`` for Python works with ``FAL_QUEUE_RUN_HOST``, ``@fal-ai/client`` for Node with
``proxyUrl``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from zoetrope.serving.gateway.errors.api_error import ApiError
from zoetrope.serving.gateway.http.common.compatibility import CompatibilityApi, ErrorFormat
from zoetrope.serving.gateway.http.fal.schema import FalError
from zoetrope.serving.gateway.http.fal.views import API, fields_at_fault, webhook

if TYPE_CHECKING:
    from fastapi import APIRouter

# Reasons with a status that fal's clients understand better. They repeat what is answered 409.
STATUS = {
    "INVALID_REQUEST": 422,
    "MALFORMED_JSON": 422,
    "PROMPT_REFUSED": 422,
    "REQUEST_ID_REUSED": 422,
    "UNKNOWN_MEDIA": 422,
    "BODY_TOO_LARGE": 413,
    "RANGE_BEYOND_END": 416,
    "FILE_EXISTS": 400,
}
# As fal calls what is wrong with a field.
TYPES = {
    "MALFORMED_JSON": "json_invalid",
    "PROMPT_REFUSED": "content_policy_violation",
    "UNKNOWN_MEDIA": "file_download_error",
}


def render_error(error: ApiError) -> tuple[int, dict[str, Any]]:
    """Return the status and ``detail``: a list of fields at fault for 422, else a sentence. What the clients show of
    other fields is there too: ``message`` (fal's for Node), ``error`` (Vercel's AI SDK)."""
    status = STATUS.get(error.reason, error.http_status)
    body: dict[str, Any] = {"detail": error.message, "error_type": error.reason.lower()}
    if status == 422:
        kind = TYPES.get(error.reason, "value_error")
        found = [(violation.field, violation.description) for violation in error.violations]
        body["detail"] = fields_at_fault(found or [("body", error.message)], kind)
    return status, {**body, "message": error.message, "error": {"message": error.message, "code": status}}


def _routers() -> Sequence[APIRouter]:
    from zoetrope.serving.gateway.http.fal import proxy, routes, storage  # web code

    return (*routes.ROUTERS, *storage.ROUTERS, proxy.router)


FAL = CompatibilityApi(name=API, errors=ErrorFormat(render_error, FalError), routers=_routers, webhook_body=webhook)
