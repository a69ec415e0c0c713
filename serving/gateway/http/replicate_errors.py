"""Answers of the Replicate face, and its errors."""

from __future__ import annotations

import json
from typing import Any

from starlette.responses import Response

from serving.gateway.errors import ApiError
from serving.gateway.http.replicate_models import Problem

ERROR_MODEL = Problem
ERROR_TYPE = "application/problem+json"
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
# Where HTTP, or Replicate, has a status that says more than google.rpc's does.
STATUS = {
    "INVALID_REQUEST": 422,
    "PROMPT_REFUSED": 422,
    "REQUEST_ID_REUSED": 422,
    "BODY_TOO_LARGE": 413,
    "RANGE_BEYOND_END": 416,
    "MEDIA_IN_USE": 409,
    "NOT_SUCCEEDED": 409,
}


def render_error(error: ApiError) -> Response:
    """RFC 7807, with the fields at fault."""
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
    return answer(body, status, ERROR_TYPE)


def answer(content: dict[str, Any], status: int = 200, media_type: str = "application/json") -> Response:
    """JSON in ASCII: what clients send and see again may hold any character."""
    return Response(json.dumps(content), status, media_type=media_type)
