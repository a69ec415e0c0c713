"""Bodies and answers of the Replicate API."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, SkipValidation

from zoetrope.model.request.tasks import VideoRequest
from zoetrope.serving.gateway.http.openai import schema as openai_schema
from zoetrope.serving.gateway.http.replicate.fields import EditInput, ImageInput, ReferenceInput, TextInput

Event = Literal["start", "output", "logs", "completed"]


class PredictionRequest(BaseModel):
    """Of a model that the path names."""

    model_config = ConfigDict(extra="forbid")

    # Checked by the model that is asked for; its fields at fault then have its names.
    input: SkipValidation[TextInput | ImageInput | ReferenceInput | EditInput | VideoRequest]
    webhook: str | None = Field(default=None, description="Told of the prediction by POST.")
    webhook_events_filter: list[Event] | None = Field(default=None, description="Default: output and completed.")
    webhook_completed: str | None = Field(default=None, description="Old: webhook, for completed alone.")
    stream: bool | None = Field(default=None, description="Without effect: a video is no stream of pieces.")


class AnyPredictionRequest(PredictionRequest):
    """Of a model that the body names, by one of the two."""

    version: str | None = Field(default=None, description="A version's id, OWNER/NAME:ID or OWNER/NAME.")
    model: str | None = Field(default=None, description="OWNER/NAME.")


class Prediction(BaseModel):
    """A job."""

    id: str
    model: str
    version: str
    status: Literal["starting", "processing", "succeeded", "failed", "canceled"]
    input: dict[str, Any]
    output: str | None
    logs: str
    error: str | None
    metrics: dict[str, float]
    created_at: str
    started_at: str | None
    completed_at: str | None
    deadline: str | None
    data_removed: bool
    source: Literal["api"]
    urls: dict[str, str]


class PredictionPage(BaseModel):
    """Newest first; next is the URL of the next page."""

    previous: None
    next: str | None
    results: list[Prediction]


class Version(BaseModel):
    """Of a model; changes with its fields and with the model that is served."""

    id: str
    created_at: str = "1970-01-01T00:00:00.000000Z"  # clients want to see one, and a computed version has none
    cog_version: str = "0.0.0"
    openapi_schema: dict[str, Any]


class VersionPage(BaseModel):
    """All of them."""

    previous: None
    next: None
    results: list[Version]


class ReplicateModel(BaseModel):
    """A model as a client may name it."""

    url: str
    owner: str
    name: str
    description: str
    visibility: Literal["public"] = "public"
    github_url: None = None
    paper_url: None = None
    license_url: None = None
    run_count: int = 0
    cover_image_url: None = None
    default_example: None = None
    latest_version: Version


class ModelPage(openai_schema.ModelList):
    """All of them, and the same for clients of OpenAI."""

    previous: None
    next: None
    results: list[ReplicateModel]


class Account(BaseModel):
    """The tenant of the key."""

    type: Literal["organization"]
    username: str
    name: str
    github_url: None


class UploadForm(BaseModel):
    """A file to use as an input."""

    content: bytes = Field(description="The file.", json_schema_extra={"format": "binary"})
    filename: str | None = None
    type: str | None = Field(default=None, description="Not used: the content decides.")
    metadata: str | None = Field(
        default=None, description="A JSON object, as a field or as a file. It is checked, and not kept."
    )


class File(BaseModel):
    """An uploaded file."""

    id: str
    name: str
    content_type: str
    size: int
    etag: str
    checksums: dict[str, str]
    metadata: dict[str, Any]
    created_at: str
    expires_at: str
    urls: dict[str, str]


class FilePage(BaseModel):
    """Newest first."""

    previous: None
    next: str | None
    results: list[File]


class Secret(BaseModel):
    """What signs the tenant's webhooks."""

    key: str


class InvalidField(BaseModel):
    """A field at fault."""

    field: str
    description: str


class Problem(BaseModel):
    """RFC 7807."""

    type: str
    title: str
    status: int
    detail: str
    reason: str
    invalid_fields: list[InvalidField]
    request_id: str | None = None
