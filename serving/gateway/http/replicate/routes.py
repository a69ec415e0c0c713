"""Routes of the Replicate API: predictions, models, the account and the webhooks' secret.

Deliberate differences from the original:
* Every prediction of the tenant is listed, also jobs that came through another API.
* Over plain HTTP ``output`` of a create or get is a data: URL for clients that make a file only of those
  (`serving.gateway.http.replicate.outputs`).
* What Cancel-After ends has the status "canceled" even if it had not started: clients do not know "aborted".
* Prompts are expanded only if that is asked for.
"""

from __future__ import annotations

import asyncio
import time
from datetime import datetime
from typing import Annotated, Any, TypeAlias

from fastapi import Depends, Query
from starlette.responses import Response

from zoetrope.model.request.schema_errors import short
from zoetrope.serving.gateway.core.error_mapping import as_api_error
from zoetrope.serving.gateway.errors.api_error import ApiError, field_error, invalid_argument, with_fields
from zoetrope.serving.gateway.http.common.calls import CurrentCall, HttpCall
from zoetrope.serving.gateway.http.common.files import file_response
from zoetrope.serving.gateway.http.common.routes import FILE, AsciiResponse, api_router
from zoetrope.serving.gateway.http.common.signed_urls import signed_job
from zoetrope.serving.gateway.http.openai import schema as openai_schema
from zoetrope.serving.gateway.http.replicate import schema
from zoetrope.serving.gateway.http.replicate import views as replicate_views
from zoetrope.serving.gateway.http.replicate.api import REPLICATE
from zoetrope.serving.gateway.http.replicate.catalogue import OfferedModel, find_model, offered_models
from zoetrope.serving.gateway.http.replicate.files import Cursor, cursor_of, localised
from zoetrope.serving.gateway.http.replicate.headers import CreateHeaders, create_headers
from zoetrope.serving.gateway.http.replicate.inputs import Names, TranslatedInput, translate
from zoetrope.serving.gateway.http.replicate.outputs import answer, answers
from zoetrope.serving.gateway.http.replicate.views import version_id
from zoetrope.serving.gateway.submit.listing import encode_page_token
from zoetrope.serving.gateway.submit.options import Options
from zoetrope.serving.gateway.submit.submission import Submission
from zoetrope.serving.jobs.job import Job, JobFilter, JobWebhook, WebhookEvent

PAGE_SIZE = 100
CANCEL_SECONDS = 5.0  # that a cancel waits for the job to end, which takes it a step
DEFAULT_EVENTS: tuple[WebhookEvent, ...] = ("output", "completed")
# The service's names of options -> Replicate's.
OPTION_NAMES = {
    "webhook.url": "webhook",
    "webhook.events": "webhook_events_filter",
    "deadline": "Cancel-After",
    "request_id": "Idempotency-Key",
    "model": "model",
}
PREDICTION = "/v1/predictions/{prediction_id}"
MODEL = "/v1/models/{owner}/{name}"
router = api_router(REPLICATE.name, REPLICATE.errors)
open_router = api_router(REPLICATE.name, REPLICATE.errors, needs_key=False)
Asked: TypeAlias = Annotated[CreateHeaders, Depends(create_headers)]
Time: TypeAlias = Annotated[str | None, Query(description="ISO 8601")]


@router.post(
    "/v1/predictions",
    summary="Make a video with the model or version that the body names.",
    status_code=201,
    response_model=schema.Prediction,
)
async def create(call: CurrentCall, body: schema.AnyPredictionRequest, asked: Asked) -> Response:
    if (body.version is None) == (body.model is None):
        raise invalid_argument("version", "give either version or model")
    model, version = _by_version(call, body.version) if body.version is not None else (_by_name(call, body.model), None)
    return await _create(call, model, version, body, asked)


@router.post(f"{MODEL}/predictions", summary="Make a video.", status_code=201, response_model=schema.Prediction)
async def create_of_model(
    call: CurrentCall, owner: str, name: str, body: schema.PredictionRequest, asked: Asked
) -> Response:
    return await _create(call, _by_name(call, f"{owner}/{name}"), None, body, asked)


async def _create(
    call: HttpCall, model: OfferedModel, version: str | None, body: schema.PredictionRequest, asked: CreateHeaders
) -> Response:
    started = time.monotonic()
    given: Any = body.input
    if not isinstance(given, dict):
        raise invalid_argument("input", f"must be an object, got {short(given)}")
    found = translate(model, given, bool(call.core.settings.prompt_expansion_url))
    origin: dict[str, Any] = {
        "api": REPLICATE.name,
        "model": model.id,
        "version": version,
        "waits": asked.wait is not None,
    }
    origin |= replicate_views.echo(given, found.expand)
    if asked.cancel_after is not None:
        origin["cancel_after"] = asked.cancel_after
    options = Options(
        deadline_at=None if asked.cancel_after is None else time.time() + asked.cancel_after,
        deadline_seconds=asked.cancel_after,
        webhook=_webhook(body),
        expand_prompt=found.expand,
        origin=origin,
        traceparent=asked.traceparent,
    )
    data = localised(call, found.data)
    job = await _submit(call, Submission(data, options, asked.idempotency_key, warnings=found.warnings), found)
    if asked.wait is None:
        return await answer(call, job, 201)
    job = await _until_done(call, job, started + asked.wait - time.monotonic())
    return await answer(call, job, 201 if job.state.final else 202, starting=True)


async def _submit(call: HttpCall, submission: Submission, found: TranslatedInput) -> Job:
    """Submit a job.

    Raises:
        ApiError: with fields as the client wrote them.
    """
    names = Names(found.names)
    try:
        return await call.core.submitter.submit(submission, call.who)
    except Exception as error:
        raise with_fields(as_api_error(error), lambda name: OPTION_NAMES.get(name) or names.client(name)) from error


async def _until_done(call: HttpCall, job: Job, seconds: float) -> Job:
    """Wait for the job, and return it as it was seen last."""
    async for sighting in call.core.follow(job, call.who, time.monotonic() + seconds):
        if sighting.job is not None:
            job = sighting.job
    return job


@router.get("/v1/predictions", summary="Predictions, newest first.", response_model=schema.PredictionPage)
async def list_predictions(
    call: CurrentCall, created_after: Time = None, created_before: Time = None, cursor: Cursor = ""
) -> Response:
    where = JobFilter(
        created_after=_time(created_after, "created_after"), created_before=_time(created_before, "created_before")
    )
    made_for = f"predictions {where.created_after} {where.created_before}"
    before = cursor_of(cursor, made_for)
    jobs = await call.core.jobs(call.who, page_size=PAGE_SIZE + 1, where=where, before=before)
    jobs, more = jobs[:PAGE_SIZE], len(jobs) > PAGE_SIZE
    changes = {"cursor": encode_page_token(jobs[-1].created_at, jobs[-1].id, made_for)} if more else {}
    following = str(call.request.url.include_query_params(**changes).query)
    return AsciiResponse(
        {
            "previous": None,
            "next": f"{call.base_url}/v1/predictions?{following}" if more else None,
            "results": await answers(call, jobs),
        }
    )


@router.get(PREDICTION, summary="A prediction.", response_model=schema.Prediction)
async def get(call: CurrentCall, prediction_id: str) -> Response:
    return await answer(call, await call.core.job(prediction_id, call.who))


@router.post(f"{PREDICTION}/cancel", summary="Cancel a prediction.", response_model=schema.Prediction)
async def cancel(call: CurrentCall, prediction_id: str) -> Response:
    job = await call.core.cancel(prediction_id, call.who)
    if not job.state.final:
        job = await _until_done(call, job, CANCEL_SECONDS)
    return await answer(call, job)


@router.get(f"{PREDICTION}/output/{{filename}}", summary="The video or picture; honours Range.", **FILE)
async def output(call: CurrentCall, prediction_id: str, filename: str) -> Response:
    return _file(call, await call.core.job(prediction_id, call.who), filename)


def _file(call: HttpCall, job: Job, filename: str) -> Response:
    if filename != replicate_views.output_name(job):
        raise ApiError("NOT_FOUND", "UNKNOWN_FILE", f"the prediction's output is {replicate_views.output_name(job)}")
    return file_response(call, job)


@open_router.get(
    "/files/{job_id}/{filename}", summary="A finished video or picture by its signed URL; honours Range.", **FILE
)
async def signed_output(
    call: CurrentCall,
    job_id: str,
    filename: str,
    expires: Annotated[str, Query(description="seconds since the epoch")] = "",
    signature: Annotated[str, Query(description="as this service gave it")] = "",
) -> Response:
    return _file(call, await signed_job(call.core, job_id, expires, signature), filename)


@router.get("/v1/models", summary="Models, for OpenAI's clients too.", response_model=schema.ModelPage)
async def list_models(call: CurrentCall) -> Response:
    # Replicate's list and OpenAI's, which have the same path, in one.
    base, models = call.base_url, call.models
    ours = [openai_schema.OpenAIModel(id=name, created=0, owned_by="zoetrope") for name in models.names]
    return AsciiResponse(
        {
            "previous": None,
            "next": None,
            "results": [replicate_views.model_view(model, models, base) for model in offered_models(models)],
            **openai_schema.ModelList(data=ours).model_dump(),
        }
    )


@router.get(MODEL, summary="A model.", response_model=schema.ReplicateModel)
async def get_model(call: CurrentCall, owner: str, name: str) -> Response:
    return AsciiResponse(replicate_views.model_view(_by_name(call, f"{owner}/{name}"), call.models, call.base_url))


@router.get(f"{MODEL}/versions", summary="A model's version.", response_model=schema.VersionPage)
async def list_versions(call: CurrentCall, owner: str, name: str) -> Response:
    version = replicate_views.version(_by_name(call, f"{owner}/{name}"), call.models)
    return AsciiResponse({"previous": None, "next": None, "results": [version.model_dump()]})


@router.get(f"{MODEL}/versions/{{version_id}}", summary="A version.", response_model=schema.Version)
async def get_version(call: CurrentCall, owner: str, name: str, version_id: str) -> Response:
    version = replicate_views.version(_by_name(call, f"{owner}/{name}"), call.models)
    if version_id != version.id:
        raise ApiError("NOT_FOUND", "UNKNOWN_VERSION", f"{owner}/{name} has no version {short(version_id)}")
    return AsciiResponse(version.model_dump())


@router.get("/v1/account", summary="The tenant of the key.", response_model=schema.Account)
async def account(call: CurrentCall) -> Response:
    username = call.who.owner or "local"
    name = call.who.key_name or username
    return AsciiResponse({"type": "organization", "username": username, "name": name, "github_url": None})


@router.get("/v1/webhooks/default/secret", summary="What signs the tenant's webhooks.", response_model=schema.Secret)
async def webhook_secret(call: CurrentCall) -> Response:
    return AsciiResponse({"key": await asyncio.to_thread(call.core.stores.outbox.secret, call.who.owner)})


def _webhook(body: schema.PredictionRequest) -> JobWebhook | None:
    if body.webhook is not None:
        if body.webhook_completed is not None:
            raise invalid_argument("webhook_completed", "cannot be combined with webhook")
        chosen = DEFAULT_EVENTS if body.webhook_events_filter is None else tuple(body.webhook_events_filter)
        return JobWebhook(body.webhook, chosen or DEFAULT_EVENTS)
    return None if body.webhook_completed is None else JobWebhook(body.webhook_completed, ("completed",))


def _by_name(call: HttpCall, name: str | None) -> OfferedModel:
    """Find a model by OWNER/NAME.

    Raises:
        ApiError: NOT_FOUND.
    """
    if name is not None and (model := find_model(name, call.models)) is not None:
        return model
    known = ", ".join(model.id for model in offered_models(call.models))
    raise field_error("NOT_FOUND", "UNKNOWN_MODEL", "model", f"{short(name)} is not served here; served: {known}")


def _by_version(call: HttpCall, version: str) -> tuple[OfferedModel, str | None]:
    """Find a model by a version's id, OWNER/NAME:ID or OWNER/NAME; returns the version's id too, if it was given.

    Raises:
        ApiError: NOT_FOUND.
    """
    name, _, wanted = version.rpartition(":") if ":" in version else ("", "", version)
    if not name and "/" in wanted:
        return _by_name(call, wanted), None
    if name:
        candidates = [_by_name(call, name)]
    else:
        candidates = offered_models(call.models)
    for model in candidates:
        if wanted == version_id(model, call.models):
            return model, wanted
    description = f"{short(version)} is not one of a model that is served here"
    raise field_error("NOT_FOUND", "UNKNOWN_VERSION", "version", description)


def _time(value: str | None, name: str) -> float | None:
    if value is None:
        return None
    try:
        return datetime.fromisoformat(value).timestamp()
    except (ValueError, OverflowError):
        raise invalid_argument(name, f"{short(value)} is not a time such as 2026-11-01T00:00:00Z") from None
