"""Describe a compatibility API: its routes, the form of its errors, its webhooks. Imports no web code."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from pydantic import BaseModel

from zoetrope.serving.gateway.errors.api_error import ApiError
from zoetrope.serving.gateway.http.common.signing import Signer
from zoetrope.serving.jobs.job import Job

if TYPE_CHECKING:
    from fastapi import APIRouter

JSON = "application/json"
WebhookBody: TypeAlias = Callable[[Job, str, Signer], dict[str, Any]]


@dataclass(frozen=True)
class ErrorFormat:
    """The form in which an API answers errors.

    Attributes:
        render: returns the HTTP status and the JSON body.
        model: describes the body in the OpenAPI document; None: some object.
        media_type: of the body.
    """

    render: Callable[[ApiError], tuple[int, dict[str, Any]]]
    model: type[BaseModel] | None = None
    media_type: str = JSON


@dataclass(frozen=True)
class CompatibilityApi:
    """An API that others defined, so that their clients work with this service.

    Attributes:
        name: stands in a job's ``origin["api"]`` and tags the routes in the OpenAPI document.
        errors: the form of its errors.
        routers: makes its routes; imports web code only when called, for the sweeper renders webhooks without any.
        webhook_body: renders a job, given the base URL of the HTTP side and what signs URLs, as its clients expect it
            in a webhook; None: they get Zoetrope's own event.
    """

    name: str
    errors: ErrorFormat
    routers: Callable[[], Sequence[APIRouter]]
    webhook_body: WebhookBody | None = None
