"""Answer addresses that the service does not have, with what a client of OpenAI has probably set wrong."""

from __future__ import annotations

import re
from typing import Any

from zoetrope.model.request.schema_errors import short

# Addresses of OpenAI's API, without the /v1 before them.
OPENAI_PATH = re.compile(
    r"/(audio|batches|chat|completions|embeddings|files|images|models|moderations|responses|uploads|videos)(/.*)?"
)
OTHER_WORK = re.compile(r"/v1/(audio|batches|chat|completions|embeddings|images|moderations|responses|uploads)(/.*)?")


def refuse_address(method: str, path: str, base_url: str, status: int, allowed: str) -> dict[str, Any] | None:
    """Return the body of a 404 or 405 as OpenAI's clients read it; None: the address is no concern of theirs.

    Args:
        base_url: at which the caller reaches the HTTP side.
        allowed: the methods that the address takes, for a 405.
    """
    if not (path == "/v1" or path.startswith("/v1/") or OPENAI_PATH.fullmatch(path)):
        return None
    if status == 405:
        message = f"{short(path)} does not take {method}; it takes {allowed}"
        if path == "/v1/videos/sync":  # of vLLM-Omni; other methods take it for a video's id
            message = "videos are not made while a call waits: POST /v1/videos, then GET /v1/videos/{video_id}"
    else:
        message = f"there is no {short(path)}"
        if hint := _hint(path, base_url):
            message += f"; {hint}"
    code = "method_not_allowed" if status == 405 else "not_found"
    error = {"message": message, "type": "invalid_request_error", "param": None, "code": code}
    return {"error": error, "detail": message}  # `detail`: for Replicate's clients, whose addresses begin alike


def _hint(path: str, base_url: str) -> str:
    if path.startswith("/v1/v1/") or path == "/v1/v1":
        return f"the client adds /v1 itself: set its base URL to {base_url}"
    if OPENAI_PATH.fullmatch(path):
        return f"OpenAI's clients need a base URL with /v1 at the end: {base_url}/v1"
    if OTHER_WORK.fullmatch(path):
        return "this service makes videos: POST /v1/videos"
    return f"see {base_url}/openapi.json for the addresses there are"
