"""Replicate's HTTP API: the ``replicate`` SDKs work with ``REPLICATE_BASE_URL``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from zoetrope.serving.gateway.errors.api_error import ApiError
from zoetrope.serving.gateway.http.common.compatibility import CompatibilityApi, ErrorFormat
from zoetrope.serving.gateway.http.replicate.schema import Problem
from zoetrope.serving.gateway.http.replicate.views import API, output_name, prediction

if TYPE_CHECKING:
    from fastapi import APIRouter

TITLES = {
    "INVALID_ARGUMENT": "Input validation failed",
    "FAILED_PRECONDITION": "Not possible now",
    "OUT_OF_RANGE": "Range not satisfiable",
    "UNAUTHENTICATED": "Unauthenticated",
    "PERMISSION_DENIED": "Forbidden",
    "NOT_FOUND": "Not found",
    "ALREADY_EXISTS": "Conflict",
    "RESOURCE_EXHAUSTED": "Too many requests",
    "UNAVAILABLE": "Unavailable",
}
# Reasons for which HTTP, or Replicate, has a status that says more than google.rpc's does.
STATUS = {
    "INVALID_REQUEST": 422,
    "PROMPT_REFUSED": 422,
    "REQUEST_ID_REUSED": 422,
    "BODY_TOO_LARGE": 413,
    "RANGE_BEYOND_END": 416,
    "MEDIA_IN_USE": 409,
    "NOT_SUCCEEDED": 409,
}


def render_error(error: ApiError) -> tuple[int, dict[str, Any]]:
    """Return the status and a problem of RFC 7807 with the fields at fault."""
    status = STATUS.get(error.reason, error.http_status)
    body: dict[str, Any] = {
        "type": "about:blank",
        "title": TITLES.get(error.code, "Internal error"),
        "status": status,
        "detail": error.message,
        "reason": error.reason,
        "invalid_fields": [{"field": v.field, "description": v.description} for v in error.violations],
    }
    if "request_id" in error.metadata:
        body["request_id"] = error.metadata["request_id"]
    return status, body


def _routers() -> Sequence[APIRouter]:
    from zoetrope.serving.gateway.http.replicate import files, routes  # web code

    return (routes.router, routes.open_router, files.router)


REPLICATE = CompatibilityApi(
    name=API,
    errors=ErrorFormat(render_error, Problem, "application/problem+json"),
    routers=_routers,
    webhook_body=lambda job, base_url, signer: prediction(
        job, base_url, output=signer.video_url(job, base_url, output_name(job))
    ),
)
