"""The bodies that the API of fal's queue takes and answers."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

Loc = list[str | int]


class FieldError(BaseModel):
    loc: Loc
    msg: str
    type: str


class ErrorNote(BaseModel):
    message: str
    code: int


class FalError(BaseModel):
    """What is wrong: fields at fault (422), or a sentence."""

    detail: list[FieldError] | str
    error_type: str
    message: str
    error: ErrorNote


class AppInput(BaseModel):
    """The fields of the app; see the guide of this API."""

    model_config = ConfigDict(extra="allow")


class Enqueued(BaseModel):
    status: Literal["IN_QUEUE"] = "IN_QUEUE"
    request_id: str
    gateway_request_id: str
    response_url: str
    status_url: str
    cancel_url: str
    queue_position: int


class LogLine(BaseModel):
    message: str
    level: Literal["INFO", "WARN"]
    source: Literal["USER"] = "USER"
    timestamp: str


class QueueStatus(BaseModel):
    status: Literal["IN_QUEUE", "IN_PROGRESS", "COMPLETED"]
    request_id: str
    response_url: str
    status_url: str
    cancel_url: str
    queue_position: int | None = Field(default=None, description="while IN_QUEUE: the requests before it")
    logs: list[LogLine] | None = Field(default=None, description="empty unless they are asked for")
    metrics: dict[str, float] | None = None
    error: str | None = None
    error_type: str | None = None


class VideoFile(BaseModel):
    url: str = Field(description="signed: needs no key for a day")
    content_type: str
    file_name: str
    file_size: int
    width: int
    height: int
    fps: float
    duration: float
    num_frames: int


class RequestOutput(BaseModel):
    video: VideoFile
    seed: int
    prompt: str = Field(description="as it was given")
    actual_prompt: str | None = Field(default=None, description="as it was used, if it was rewritten")
    timings: dict[str, float]


class CancelAnswer(BaseModel):
    status: Literal["CANCELLATION_REQUESTED", "ALREADY_COMPLETED"]


class InitiateUpload(BaseModel):
    content_type: str = Field(default="", max_length=256, description="ignored: a file is examined")
    file_name: str = Field(default="", max_length=1_000)


class InitiatedUpload(BaseModel):
    upload_url: str = Field(description="PUT the file here, without a key")
    file_url: str = Field(description="names it in inputs")


class UploadToken(BaseModel):
    token: str
    token_type: str
    base_url: str
    expires_at: str


class Uploaded(BaseModel):
    access_url: str


class UploadDone(BaseModel):
    """Says that the file is there."""


def shown(model: BaseModel) -> dict[str, Any]:
    """Return a body without what it leaves open."""
    return model.model_dump(mode="json", exclude_none=True)
