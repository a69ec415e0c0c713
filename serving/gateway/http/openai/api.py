"""OpenAI's videos API: the ``openai`` SDKs work with ``OPENAI_BASE_URL=http://HOST:PORT/v1``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from zoetrope.serving.gateway.errors.api_error import ApiError, with_fields
from zoetrope.serving.gateway.http.common.compatibility import CompatibilityApi, ErrorFormat

if TYPE_CHECKING:
    from fastapi import APIRouter

# The service's names of fields -> OpenAI's.
FIELDS = {
    "name": "video_id",
    "duration_seconds": "seconds",
    "frames": "num_frames",
    "steps": "num_inference_steps",
    "guidance": "guidance_scale",
    "guidance_low": "guidance_scale_2",
    "ratio": "aspect_ratio",
    "expand_prompt": "enhance_prompt",
    "image": "input_reference",
    "references": "input_reference",
    "request_id": "Idempotency-Key",
}
TYPES = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}
CODES = {
    "UNKNOWN_MODEL": "model_not_found",
    "KEY_NEEDED": "invalid_api_key",
    "UNKNOWN_JOB": "video_not_found",
    "UNKNOWN_MEDIA": "file_not_found",
}


def render_error(error: ApiError) -> tuple[int, dict[str, Any]]:
    """Return the status and ``{"error": {"message", "type", "param", "code"}}``."""
    found = with_fields(error, _field)
    status = found.http_status
    body = {
        "message": found.message,
        "type": TYPES.get(status, "invalid_request_error" if status < 500 else "server_error"),
        "param": found.violations[0].field if found.violations else None,
        "code": CODES.get(found.reason, found.reason.lower()),
    }
    return status, {"error": body}


def _field(name: str) -> str:
    head, dot, rest = name.partition(".")
    if head == "references":
        return "input_reference"
    return FIELDS.get(head, head) + dot + rest


def _routers() -> Sequence[APIRouter]:
    from zoetrope.serving.gateway.http.openai.routes import router  # web code

    return (router,)


OPENAI = CompatibilityApi(name="openai", errors=ErrorFormat(render_error), routers=_routers)
