"""The one way in: every API turns its request into one call of `Submitter.submit`."""

from __future__ import annotations

import asyncio
import hashlib
import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from zoetrope.cluster.telemetry.traces import traceparent
from zoetrope.model.catalog.weights_identity import weights_here
from zoetrope.model.request.loras import AdapterUse
from zoetrope.model.request.resolve import resolve
from zoetrope.model.request.sampling_rules import sampling_violations
from zoetrope.model.request.schema_errors import short
from zoetrope.model.request.sizes import size_name
from zoetrope.model.request.specs import VideoSpec
from zoetrope.model.request.tasks import (
    MAX_DRAWN_SEED,
    RANDOM_SEED,
    InvalidRequest,
    ModelCard,
    VideoRequest,
    Violation,
    parse_request,
)
from zoetrope.model.runtime.errors import Picklable
from zoetrope.serving.api.names import JOB_ID, new_id
from zoetrope.serving.config.served_models import ServedModels
from zoetrope.serving.config.settings import Settings
from zoetrope.serving.gateway.auth.authenticator import Principal
from zoetrope.serving.gateway.submit.adapters import find_adapters
from zoetrope.serving.gateway.submit.counts import counted
from zoetrope.serving.gateway.submit.feasible import check_feasible, outlook_of
from zoetrope.serving.gateway.submit.media import ClientMedia, Prepared
from zoetrope.serving.gateway.submit.media_refs import put_media, take_media
from zoetrope.serving.gateway.submit.options import Options, check_options
from zoetrope.serving.gateway.submit.prices import Prices, Quote
from zoetrope.serving.gateway.submit.webhook_check import WebhookCheck
from zoetrope.serving.gateway.watch.forecasts import Forecasts
from zoetrope.serving.jobs.adapter_table import AdapterTable
from zoetrope.serving.jobs.job import Job, NewJob, QueueLimits
from zoetrope.serving.jobs.store import JobStore
from zoetrope.serving.jobs.usage import PRICE
from zoetrope.serving.outbound import Guard
from zoetrope.serving.outbound.hooks import Moderation, verdict
from zoetrope.serving.router.pricing import Price

MAX_REQUEST_ID_CHARS = 128
MAX_BATCH = 100
COUNTED_OPTIONS = ("labels", "priority", "deadline_at", "retention_seconds", "webhook", "expand_prompt")
NO_OPTIONS = Options()
# Of all models, once: stored fingerprints of requests with this size, or with none, lack it.
OLD_DEFAULT_SIZE = "480p"
# Stands in for a task that is missing, so that the other fields are checked too.
ANY_TASK = {"kind": "text_to_video", "prompt": "any"}


class UnknownModel(Picklable):
    """The request names a model that is not served, or not to this key."""

    def __init__(self, name: str, served: Sequence[str]) -> None:
        self.violation = Violation("model", f"{short(name)} is not served here; served: {', '.join(served)}")
        super().__init__(f"model: {self.violation.description}")


@dataclass(frozen=True)
class Submission:
    """One request as an API hands it over.

    Attributes:
        data: the fields of a zoetrope.model.request.tasks.VideoRequest. ``task`` may be missing, which is a violation;
            its media are media/ID, operations/ID, http, https or data URLs.
        request_id: "" for none.
        found: what the API knows to be wrong with fields that it left out of ``data``.
        warnings: what the job is to say of fields that change nothing here; they follow those of the model.
    """

    data: Mapping[str, Any]
    options: Options = field(default_factory=Options)
    request_id: str = ""
    found: Sequence[Violation] = ()
    warnings: Sequence[str] = ()


@dataclass(frozen=True)
class Validated:
    """A request that was found right: the job that it would be, and what is known of it."""

    job: NewJob
    spec: VideoSpec
    card: ModelCard
    quote: Quote
    price: Price | None
    outlook: tuple[float, float, float] | None = None  # seconds until it is done, at least and at most how many


class Submitter:
    """Checks requests against the model that they name and stores them as jobs.

    Attributes:
        weights: identify those of each model, by its name; "" if its files are not here.
    """

    def __init__(
        self,
        settings: Settings,
        models: ServedModels,
        store: JobStore,
        client_media: ClientMedia,
        moderation: Moderation,
        guard: Guard,
        adapters: AdapterTable | None = None,
        forecasts: Forecasts | None = None,
    ) -> None:
        self._settings = settings
        self._forecasts = forecasts
        self._prices = Prices(settings, store, [card.name for card in models])
        self._models = models
        self._store = store
        self._client_media = client_media
        self._moderation = moderation
        self._webhooks = WebhookCheck(guard)
        self._adapters = adapters
        self.weights = {card.name: weights_here(card) for card in models}  # now, that no request waits for it

    async def submit(self, order: Submission, who: Principal) -> Job:
        """Store a job, or find the one that an earlier call with this request id stored.

        Raises:
            InvalidRequest: with every field at fault.
            UnknownModel, UnknownAdapter, MediaNotFound: what the request names is not there.
            RequestConflict: the request id was used for another request.
            QueueFull, BacklogFull, QuotaExceeded: too many jobs.
            DeadlineOutOfReach: too much waits for the job's deadline.
            PromptRefused: by moderation.
            StoreError, ArtifactError: the job or its media cannot be stored.
        """
        with counted([order]):
            made = await self._prepare(order, who)
            return await self._store.acreate(made.job, self._limits(who, made.quote))

    async def validate(self, order: Submission, who: Principal) -> Validated:
        """Do as `submit` would, with the same refusals, but store no job. Media that the request brings are stored, as
        they would be."""
        made = await self._prepare(order, who)
        await asyncio.to_thread(self._store.check, made.job, self._limits(who, made.quote))
        return made

    async def submit_all(self, orders: Sequence[Submission], who: Principal) -> list[Job]:
        """Store all or none; errors as of `submit`, their fields as ``requests.N.field``."""
        check_batch(len(orders))
        made: list[Validated] = []
        bad: list[Violation] = []
        for i, order in enumerate(orders):
            try:
                made.append(await self._prepare(order, who))
            except InvalidRequest as error:
                bad += [replace(v, field=f"requests.{i}.{v.field}") for v in error.violations]
        if bad:
            raise InvalidRequest(*bad)
        jobs = [one.job for one in made]
        with counted(orders):
            return await self._store.acreate_batch(jobs, self._limits(who, *(one.quote for one in made)))

    async def _prepare(self, order: Submission, who: Principal) -> Validated:
        options = order.options
        bad = [*order.found, *check_options(options, who, self._settings)]
        if options.webhook is not None and not bad and (problem := await self._webhooks.problem(options.webhook.url)):
            bad.append(Violation("webhook.url", problem))
        if len(order.request_id) > MAX_REQUEST_ID_CHARS:
            description = f"has {len(order.request_id)} characters, at most {MAX_REQUEST_ID_CHARS} are allowed"
            bad.append(Violation("request_id", description))
        data = dict(order.data)
        if data.get("task") is None:
            bad.append(Violation("task", f"is not set; {self._offers(data.get('model'))}"))
            data["task"] = ANY_TASK
        named = take_media(data)
        try:
            request = parse_request(named.data)
        except InvalidRequest as error:
            raise InvalidRequest(*bad, *error.violations) from None
        card = self._choose(request, who)
        adapters = await self._find_adapters(request, card, who)
        if bad:
            if not named.media:  # all at once, where nothing has to be fetched for it
                bad += self._problems(request, card, adapters)
            raise InvalidRequest(*bad)
        prepared = await self._client_media.prepare(named.media, named.fields, who.owner)
        digests = {placeholder: item.digest for placeholder, item in prepared.items()}
        print_of_request = fingerprint(request, card, digests, options, adapters)
        spec = self._resolve(request, card, prepared, named.fields, adapters)
        quote = await self._prices.quote(card)
        price = quote.price(spec, card)
        forecast = None if self._forecasts is None else await self._forecasts.of(card.name)
        outlook = None if price is None else outlook_of(quote, price, forecast, who.owner)
        check_feasible(
            spec,
            card,
            quote,
            price,
            deadline_at=options.deadline_at,
            soonest=None if outlook is None or forecast is None else outlook[1],
            resized=lambda size: self._resized(request, size, card, prepared, named.fields, adapters),
        )
        prompt, verdicts = await self._review(request, options.expand_prompt)
        values = put_media(spec.to_dict(), {placeholder: item.id for placeholder, item in prepared.items()})
        values["task"]["prompt"] = prompt
        retention = options.retention_seconds
        job = NewJob(
            id=new_id(JOB_ID),
            owner=who.owner,
            key_id=who.key_id,
            model=card.name,
            spec=values,
            steps=spec.steps * len(spec.spans),
            seconds=spec.frames / spec.fps,
            request_id=order.request_id or None,
            fingerprint=print_of_request,
            labels=dict(options.labels),
            priority=options.priority,
            deadline_at=options.deadline_at,
            retention_seconds=self._settings.retention_seconds if retention is None else retention,
            origin=self._origin(options, request.model, card),
            webhook=options.webhook,
            verdicts=verdicts,
            media=tuple(sorted({item.id for item in prepared.values()})),
            traceparent=traceparent() or options.traceparent,  # the call is part of the caller's trace
            warnings=(*spec.warnings, *order.warnings),
            weights=self.weights[card.name],
            price=0.0 if price is None else price.total,
        )
        return Validated(job, spec, card, quote, price, outlook)

    async def _review(self, request: VideoRequest, expand: bool) -> tuple[str, tuple[dict[str, Any], ...]]:
        """Return the prompt to use and the verdicts on it. An expanded prompt is checked too; a model's own negative
        prompt is not, for nobody could change it."""
        given, negative = request.task.prompt, request.task.negative_prompt or ""
        verdicts = await self._moderation.check_prompt(given, negative)
        if not expand:
            return given, tuple(verdicts)
        prompt = await self._moderation.expand(given)
        if prompt != given:
            verdicts = await self._moderation.check_prompt(prompt, negative)
            verdicts.append(verdict("expansion", "changed"))
        return prompt, tuple(verdicts)

    async def _find_adapters(self, request: VideoRequest, card: ModelCard, who: Principal) -> tuple[AdapterUse, ...]:
        """Return what the request's adapters are; () if it breaks a limit, which `resolve` will say."""
        if self._adapters is None or any(sampling_violations(request, card)):
            return ()
        return await find_adapters(self._adapters, self._settings, card.name, request.loras, who.owner)

    def _resolve(
        self,
        request: VideoRequest,
        card: ModelCard,
        prepared: Mapping[str, Prepared],
        fields: Mapping[str, str],
        adapters: Sequence[AdapterUse],
    ) -> VideoSpec:
        infos = {fields[placeholder]: item.info for placeholder, item in prepared.items() if item.info is not None}
        return resolve(request, card, random.randint(0, MAX_DRAWN_SEED), infos, adapters)

    def _resized(
        self,
        request: VideoRequest,
        size: str,
        card: ModelCard,
        prepared: Mapping[str, Prepared],
        fields: Mapping[str, str],
        adapters: Sequence[AdapterUse],
    ) -> VideoSpec | None:
        """Resolve the same request at another size; None if that breaks a limit."""
        try:
            return self._resolve(request.model_copy(update={"size": size}), card, prepared, fields, adapters)
        except InvalidRequest:
            return None

    def _problems(
        self, request: VideoRequest, card: ModelCard, adapters: Sequence[AdapterUse]
    ) -> tuple[Violation, ...]:
        try:
            self._resolve(request, card, {}, {}, adapters)
        except InvalidRequest as error:
            return tuple(error.violations)
        return ()

    def _offers(self, model: object) -> str:
        """Say which tasks the model that a request names has, or each that is served."""
        named = self._models.find(model) if isinstance(model, str) else None
        cards = self._models.cards if named is None else (named,)
        return "; ".join(f"{card.name} serves {', '.join(card.tasks)}" for card in cards)

    def _choose(self, request: VideoRequest, who: Principal) -> ModelCard:
        """Return the model that the request names; if it names none, the first one that has its task.

        Raises:
            UnknownModel: it is not served, or not to this key.
        """
        name, models = request.model, self._models.allowed(who.limits.models)
        if models is None:
            raise UnknownModel(name or self._models.default.name, who.limits.models or ())
        if name and models.find(name) is None:
            raise UnknownModel(name, models.names)
        return models.find(name) or models.of_task((request.task.kind,)) or models.default

    def _origin(self, options: Options, asked_model: str, card: ModelCard) -> dict[str, Any]:
        asked = {"model": asked_model} if asked_model not in ("", card.name) else {}
        hour = self._settings.gpu_hour_price
        return {**asked, **({PRICE: hour} if hour > 0 else {}), **options.origin}

    def _limits(self, who: Principal, *quotes: Quote) -> QueueLimits:
        limits, settings = who.limits, self._settings
        most = settings.max_result_bytes if limits.result_bytes is None else limits.result_bytes
        return QueueLimits(
            settings.max_queued,
            limits.concurrent_jobs,
            limits.queued_seconds,
            most,
            # Before an engine was measured, prices may be far off, and refuse nothing.
            gpu_seconds=settings.max_queued_gpu_seconds if all(quote.calibrated for quote in quotes) else None,
            gpus=max(quote.gpus for quote in quotes),
            retry_seconds=next((quote.retry_seconds for quote in quotes if quote.retry_seconds is not None), None),
        )


def check_batch(count: int) -> None:
    """
    Raises:
        InvalidRequest: so many orders cannot be given at once.
    """
    if not 1 <= count <= MAX_BATCH:
        raise InvalidRequest(Violation("requests", f"has {count} entries, give 1 to {MAX_BATCH}"))


def fingerprint(
    request: VideoRequest,
    card: ModelCard,
    media: Mapping[str, str],
    options: Options | None = None,
    adapters: Sequence[AdapterUse] = (),
) -> str:
    """Hash what was asked for (SHA-256). Defaults are left out, so that a field added later changes no stored one.

    Args:
        media: placeholder -> what stands for it, see `Prepared.digest`.
        options: all of them count but for what tells of the call itself, its API and its trace.
        adapters: what those of the request are: their contents count, for a name may be given to others.
    """
    asked = request.model_dump(exclude_defaults=True)
    asked |= {"model": card.name, "kind": request.task.kind}
    if request.size is not None:
        asked["size"] = size_name(request.size)
        if asked["size"] == OLD_DEFAULT_SIZE:
            del asked["size"]
    if request.seed == RANDOM_SEED:
        del asked["seed"]
    if not request.task.negative_prompt and not card.default_negative_prompt:
        asked["task"].pop("negative_prompt", None)  # there is none to switch off
    given = {} if options is None else {name: getattr(options, name) for name in COUNTED_OPTIONS}
    given = {name: value for name, value in given.items() if value != getattr(NO_OPTIONS, name)}
    if options is not None and options.deadline_seconds is not None:
        given["deadline_seconds"] = options.deadline_seconds
        given.pop("deadline_at", None)
    if given:
        webhook = given.get("webhook")
        asked["options"] = given if webhook is None else {**given, "webhook": asdict(webhook)}
    if media:
        asked["media"] = dict(media)
    if adapters:
        asked["adapters"] = [adapter.digest for adapter in adapters]
    return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()
