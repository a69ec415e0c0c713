"""The Replicate face: predictions, models, the account and webhooks' secret, as its official clients know them.

Where we differ, on purpose:
* Every prediction of the tenant is listed, also jobs that came through another face.
* Over plain HTTP ``output`` of a create or get is a data: address, for the clients make a file only of those and of
  https: addresses. Lists and webhooks always have the address of the route.
* What Cancel-After ends has the status "canceled" also where it had not begun: clients do not know "aborted".
* Prompts are expanded only where that is asked for.
"""

from __future__ import annotations

import asyncio
import base64
import json
import secrets
import time
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing
from datetime import datetime
from typing import Any

from starlette.responses import Response

from model.tasks import Violation, short
from serving.artifacts import ArtifactMissing
from serving.gateway.errors import ApiError, as_api_error, invalid_argument
from serving.gateway.http import openai_models, replicate_files, replicate_views
from serving.gateway.http import replicate_models as schema
from serving.gateway.http.base import (
    Call,
    Endpoint,
    FileResponse,
    base_url,
    file_response,
    parse,
    read_json,
    with_fields,
)
from serving.gateway.http.replicate_errors import answer, render_error
from serving.gateway.http.replicate_files import localised
from serving.gateway.http.replicate_headers import (
    MAX_WAIT_SECONDS,
    cancel_after_seconds,
    trace_parent,
    wait_seconds,
)
from serving.gateway.http.replicate_inputs import FaceModel, Names, Translated, face_models, translate
from serving.gateway.http.replicate_views import API, data_prefix, prediction, version_id
from serving.gateway.intake import Order
from serving.gateway.listing import decode_page_token, encode_page_token
from serving.gateway.options import Options
from serving.jobs.job import Job, JobFilter, State, Webhook, WebhookEvent

__all__ = ["ENDPOINTS", "prediction", "render_error"]

PAGE_SIZE = 100
CANCEL_SECONDS = 5.0  # that a cancel waits for the job to end, which takes it a step
MAX_INLINE_BYTES = 64 << 20  # of a video that is put into an answer
INLINE_CHUNK = 3 << 18  # bytes; a multiple of 3, so that pieces of base64 can be joined
DEFAULT_EVENTS: tuple[WebhookEvent, ...] = ("output", "completed")
# Fields of our options, as this face has them.
OPTION_NAMES = {
    "webhook.url": "webhook",
    "webhook.events": "webhook_events_filter",
    "deadline": "Cancel-After",
    "request_id": "Idempotency-Key",
    "model": "model",
    "page_token": "cursor",
}


async def create(call: Call) -> Response:
    """POST /v1/predictions"""
    body = parse(schema.AnyPredictionRequest, await read_json(call.request))
    if (body.version is None) == (body.model is None):
        raise invalid_argument("version", "give either version or model")
    face, version = _by_version(call, body.version) if body.version is not None else (_by_name(call, body.model), None)
    return await _create(call, face, version, body)


async def create_of_model(call: Call) -> Response:
    """POST /v1/models/{owner}/{name}/predictions"""
    face = _face_model(call)
    return await _create(call, face, None, parse(schema.PredictionRequest, await read_json(call.request)))


async def _create(call: Call, face: FaceModel, version: str | None, body: schema.PredictionRequest) -> Response:
    started = time.monotonic()
    headers = call.request.headers
    wait = wait_seconds(headers.get("prefer"))
    cancel_after = cancel_after_seconds(headers.get("cancel-after"))
    given: Any = body.input
    if not isinstance(given, dict):
        raise invalid_argument("input", f"is no object, got {short(given)}")
    found = translate(face, given, bool(call.core.settings.prompt_expansion_url))
    origin: dict[str, Any] = {"api": API, "model": face.id, "version": version, "notes": list(found.notes)}
    origin |= replicate_views.echo(given, found.expand)
    if cancel_after is not None:
        origin["cancel_after"] = cancel_after
    options = Options(
        deadline_at=None if cancel_after is None else time.time() + cancel_after,
        webhook=_webhook(body),
        expand_prompt=found.expand,
        origin=origin,
        traceparent=trace_parent(headers.get("traceparent")),
    )
    order = Order(localised(call, found.data), options, headers.get("idempotency-key", ""))
    job = await _submit(call, order, found)
    if wait is None:
        return await _answer(call, job, 201)
    job = await _until_done(call, job, started + wait - time.monotonic())
    return await _answer(call, job, 201 if job.state.final else 202, starting=True)


async def _submit(call: Call, order: Order, found: Translated) -> Job:
    """
    Raises:
        ApiError: its fields as the client wrote them.
    """
    names = Names(found.names)
    try:
        return await call.core.intake.submit(order, call.who)
    except Exception as error:
        raise with_fields(as_api_error(error), lambda name: OPTION_NAMES.get(name) or names.client(name)) from error


async def _until_done(call: Call, job: Job, seconds: float) -> Job:
    """The job once it is done, or as it was seen last."""
    async for sighting in call.core.follow(job, call.who, time.monotonic() + seconds):
        if sighting.job is not None:
            job = sighting.job
    return job


async def list_predictions(call: Call) -> Response:
    """GET /v1/predictions"""
    query = call.request.query_params
    where = JobFilter(created_after=_time(query, "created_after"), created_before=_time(query, "created_before"))
    made_for = f"predictions {where.created_after} {where.created_before}"
    try:
        before = decode_page_token(query.get("cursor", ""), made_for)
    except ApiError as error:
        raise with_fields(error, lambda name: OPTION_NAMES.get(name, name)) from None
    jobs = await call.core.jobs(call.who, page_size=PAGE_SIZE + 1, where=where, before=before)
    jobs, more = jobs[:PAGE_SIZE], len(jobs) > PAGE_SIZE
    base = base_url(call)
    changes = {"cursor": encode_page_token(jobs[-1].created_at, jobs[-1].id, made_for)} if more else {}
    following = str(call.request.url.include_query_params(**changes).query)
    return answer(
        {
            "previous": None,
            "next": f"{base}/v1/predictions?{following}" if more else None,
            "results": [prediction(job, base) for job in jobs],
        }
    )


async def get(call: Call) -> Response:
    """GET /v1/predictions/{prediction_id}"""
    return await _answer(call, await call.core.job(call.path["prediction_id"], call.who))


async def cancel(call: Call) -> Response:
    """POST /v1/predictions/{prediction_id}/cancel"""
    job = await call.core.cancel(call.path["prediction_id"], call.who)
    if not job.state.final:
        job = await _until_done(call, job, CANCEL_SECONDS)
    return await _answer(call, job)


async def output(call: Call) -> Response:
    """GET /v1/predictions/{prediction_id}/output/{filename}"""
    job = await call.core.job(call.path["prediction_id"], call.who)
    if call.path["filename"] != replicate_views.output_name(job):
        raise ApiError("NOT_FOUND", "UNKNOWN_FILE", f"the prediction's output is {replicate_views.output_name(job)}")
    return file_response(call, job)


async def list_models(call: Call) -> Response:
    """GET /v1/models: Replicate's list and OpenAI's, which have the same path, in one."""
    base, card = base_url(call), call.core.card
    ours = openai_models.Model(id=card.name, created=0, owned_by="zoetrope")
    return answer(
        {
            "previous": None,
            "next": None,
            "results": [replicate_views.model(face, card, base) for face in face_models(card)],
            **openai_models.ModelList(data=[ours]).model_dump(),
        }
    )


async def get_model(call: Call) -> Response:
    """GET /v1/models/{owner}/{name}"""
    return answer(replicate_views.model(_face_model(call), call.core.card, base_url(call)))


async def list_versions(call: Call) -> Response:
    """GET /v1/models/{owner}/{name}/versions"""
    version = replicate_views.version(_face_model(call), call.core.card)
    return answer({"previous": None, "next": None, "results": [version]})


async def get_version(call: Call) -> Response:
    """GET /v1/models/{owner}/{name}/versions/{version_id}"""
    face, card = _face_model(call), call.core.card
    if call.path["version_id"] != version_id(face, card):
        raise ApiError("NOT_FOUND", "UNKNOWN_VERSION", f"{face.id} has no version {short(call.path['version_id'])}")
    return answer(replicate_views.version(face, card))


async def account(call: Call) -> Response:
    """GET /v1/account"""
    username = call.who.owner or "local"
    name = call.who.key_name or username
    return answer({"type": "organization", "username": username, "name": name, "github_url": None})


async def webhook_secret(call: Call) -> Response:
    """GET /v1/webhooks/default/secret"""
    return answer({"key": await asyncio.to_thread(call.core.stores.outbox.secret, call.who.owner)})


def _webhook(body: schema.PredictionRequest) -> Webhook | None:
    if body.webhook is not None:
        if body.webhook_completed is not None:
            raise invalid_argument("webhook_completed", "is given together with webhook, give one of them")
        chosen = DEFAULT_EVENTS if body.webhook_events_filter is None else tuple(body.webhook_events_filter)
        return Webhook(body.webhook, chosen or DEFAULT_EVENTS)
    return None if body.webhook_completed is None else Webhook(body.webhook_completed, ("completed",))


def _face_model(call: Call) -> FaceModel:
    return _by_name(call, f"{call.path['owner']}/{call.path['name']}")


def _by_name(call: Call, name: str | None) -> FaceModel:
    """
    Raises:
        ApiError: NOT_FOUND.
    """
    faces = face_models(call.core.card)
    for face in faces:
        if face.id == name:
            return face
    known = ", ".join(face.id for face in faces)
    violation = Violation("model", f"{short(name)} is not served here; served: {known}")
    message = f"model: {violation.description}"
    raise ApiError("NOT_FOUND", "UNKNOWN_MODEL", message, violations=(violation,))


def _by_version(call: Call, version: str) -> tuple[FaceModel, str | None]:
    """The model of a version's id, of OWNER/NAME:ID or of OWNER/NAME, and the id.

    Raises:
        ApiError: NOT_FOUND.
    """
    card = call.core.card
    name, _, wanted = version.rpartition(":") if ":" in version else ("", "", version)
    if not name and "/" in wanted:
        return _by_name(call, wanted), None
    for face in face_models(card):
        if name in ("", face.id) and wanted == version_id(face, card):
            return face, wanted
    violation = Violation("version", f"{short(version)} is not one of a model that is served here")
    message = f"version: {violation.description}"
    raise ApiError("NOT_FOUND", "UNKNOWN_VERSION", message, violations=(violation,))


def _time(query: Any, name: str) -> float | None:
    value = query.get(name)
    if value is None:
        return None
    try:
        return datetime.fromisoformat(value).timestamp()
    except (ValueError, OverflowError):
        raise invalid_argument(name, f"{short(value)} is no time such as 2026-11-01T00:00:00Z") from None


async def _answer(call: Call, job: Job, status: int = 200, *, starting: bool = False) -> Response:
    """A prediction; over plain HTTP with its video in it."""
    base = base_url(call)
    video = job.result["video"] if job.state is State.SUCCEEDED and job.result is not None else None
    if video is not None and not base.startswith("https:") and video["size_bytes"] <= MAX_INLINE_BYTES:
        chunks = call.core.read(video["key"])
        try:
            first = await anext(chunks, b"")
        except ArtifactMissing:  # it was deleted a moment ago
            return answer(prediction(job, base), status)
        return _inline(job, base, status, first, chunks)
    notice = await call.core.watching.notice(job)
    return answer(prediction(job, base, starting=starting, notice=notice), status)


def _inline(job: Job, base: str, status: int, first: bytes, rest: AsyncGenerator[bytes]) -> Response:
    """The prediction around its video, in a stream: many megabytes that no answer should hold in memory."""
    assert job.result is not None
    video = job.result["video"]
    mark = secrets.token_hex(16)
    text = json.dumps(prediction(job, base, output=mark))
    head, tail = (part.encode() for part in text.split(mark))
    head += data_prefix(video["mime_type"]).encode()

    async def body() -> AsyncIterator[bytes]:
        yield head
        held = first
        async with aclosing(rest):
            async for chunk in rest:
                held += chunk
                whole = len(held) // INLINE_CHUNK * INLINE_CHUNK
                if whole:
                    yield base64.b64encode(held[:whole])
                    held = held[whole:]
        yield base64.b64encode(held) + tail

    length = len(head) + (video["size_bytes"] + 2) // 3 * 4 + len(tail)
    return FileResponse(body(), status, {"content-length": str(length)}, media_type="application/json")


PREDICTION = "/v1/predictions/{prediction_id}"
MODEL = "/v1/models/{owner}/{name}"
CREATE_HEADERS = (
    ("Prefer", f"wait or wait=N: answer when the video is there, or after N (at most {MAX_WAIT_SECONDS}) seconds"),
    ("Cancel-After", "such as 90s or 1h30m: end the prediction when it takes longer"),
    ("Idempotency-Key", "a create that is repeated with the same one finds the first one's prediction"),
)
PAGE = ("cursor", "as the page before gave it")
TIMES = (("created_after", "ISO 8601; at or after"), ("created_before", "ISO 8601; before"))
ENDPOINTS: Sequence[Endpoint] = (
    Endpoint(
        "POST",
        "/v1/predictions",
        create,
        "Make a video with the model or version that the body names.",
        schema.AnyPredictionRequest,
        answer=schema.Prediction,
        status=201,
        headers=CREATE_HEADERS,
    ),
    Endpoint(
        "POST",
        f"{MODEL}/predictions",
        create_of_model,
        "Make a video.",
        schema.PredictionRequest,
        answer=schema.Prediction,
        status=201,
        headers=CREATE_HEADERS,
    ),
    Endpoint(
        "GET",
        "/v1/predictions",
        list_predictions,
        "Predictions, newest first.",
        answer=schema.PredictionPage,
        query=(PAGE, *TIMES),
    ),
    Endpoint("GET", PREDICTION, get, "A prediction.", answer=schema.Prediction),
    Endpoint("POST", f"{PREDICTION}/cancel", cancel, "Cancel a prediction.", answer=schema.Prediction),
    Endpoint(
        "GET",
        f"{PREDICTION}/output/{{filename}}",
        output,
        "The video or picture; honours Range.",
        answer_type="*/*",
    ),
    Endpoint("GET", "/v1/models", list_models, "Models (for OpenAI's clients, too).", answer=schema.ModelPage),
    Endpoint("GET", MODEL, get_model, "A model.", answer=schema.Model),
    Endpoint("GET", f"{MODEL}/versions", list_versions, "A model's version.", answer=schema.VersionPage),
    Endpoint("GET", f"{MODEL}/versions/{{version_id}}", get_version, "A version.", answer=schema.Version),
    Endpoint("GET", "/v1/account", account, "The tenant of the key.", answer=schema.Account),
    Endpoint(
        "GET", "/v1/webhooks/default/secret", webhook_secret, "What signs the tenant's webhooks.", answer=schema.Secret
    ),
    *replicate_files.ENDPOINTS,
)
