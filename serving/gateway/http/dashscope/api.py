"""DashScope's video synthesis: the ``dashscope`` SDK works with ``DASHSCOPE_HTTP_BASE_URL=http://HOST:PORT/api/v1``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from zoetrope.serving.gateway.errors.api_error import ApiError, with_fields
from zoetrope.serving.gateway.http.common.compatibility import CompatibilityApi, ErrorFormat
from zoetrope.serving.gateway.http.dashscope.schema import request_id

if TYPE_CHECKING:
    from fastapi import APIRouter

# The service's names of fields -> DashScope's.
FIELDS = {
    "duration_seconds": "parameters.duration",
    "frames": "parameters.duration",
    "generate_audio": "parameters.audio",
    "steps": "parameters.num_inference_steps",
    "guidance": "parameters.guidance_scale",
    "flow_shift": "parameters.flow_shift",
    "sampler": "parameters.sampler",
    "quality": "parameters.quality",
    "guidance_start": "parameters.guidance_start",
    "guidance_end": "parameters.guidance_end",
    "loras": "parameters.loras",
    "fit": "parameters.fit",
    "ratio": "parameters.ratio",
    "seed": "parameters.seed",
    "fps": "parameters.fps",
    "prompt": "input.prompt",
    "negative_prompt": "input.negative_prompt",
    "references": "input.media",
    "task": "model",
    "request_id": "Idempotency-Key",
    "name": "task_id",
}
CODES = {
    "UNKNOWN_MODEL": "ModelNotFound",
    "UNKNOWN_JOB": "TaskNotFound",
    "UNKNOWN_MEDIA": "InvalidURL",
    "KEY_NEEDED": "InvalidApiKey",
    "RATE_EXCEEDED": "Throttling.RateQuota",
    "QUEUE_FULL": "Throttling",
    "QUOTA_EXCEEDED": "Throttling.AllocationQuota",
    "PROMPT_REFUSED": "DataInspectionFailed",
    "NOT_ASYNC": "AccessDenied",
    "TASK_ENDED": "UnsupportedOperation",
}
CODES_BY_STATUS = {
    401: "InvalidApiKey",
    403: "AccessDenied",
    404: "ResourceNotFound",
    409: "Conflict",
    429: "Throttling",
    503: "ServiceUnavailable",
}


def render_error(error: ApiError) -> tuple[int, dict[str, Any]]:
    """Return the status and ``{"request_id", "code", "message"}``."""
    found = with_fields(error, lambda field: field_name(field, FIELDS))
    status = found.http_status
    fallback = CODES_BY_STATUS.get(status, "InvalidParameter" if status < 500 else "InternalError")
    return status, {"request_id": request_id(), "code": CODES.get(found.reason, fallback), "message": found.message}


def field_name(field: str, names: Mapping[str, str]) -> str:
    """Return a field's name in the request; that of what it is a part of, if it has none of its own."""
    return names.get(field, names.get(field.partition(".")[0], field))


def _routers() -> Sequence[APIRouter]:
    from zoetrope.serving.gateway.http.dashscope.routes import ROUTERS  # web code

    return ROUTERS


DASHSCOPE = CompatibilityApi(name="dashscope", errors=ErrorFormat(render_error), routers=_routers)
