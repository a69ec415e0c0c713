"""What a client may ask for beside the task: labels, priority, deadline, retention, webhook."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from zoetrope.model.request.schema_errors import short
from zoetrope.model.request.tasks import Violation
from zoetrope.serving.config.settings import Settings
from zoetrope.serving.gateway.auth.authenticator import Principal
from zoetrope.serving.jobs.job import JobWebhook

MAX_LABELS = 32
MAX_LABEL_VALUE_CHARS = 256
LABEL_KEY = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_./-]{0,62}")
MAX_PRIORITY = 9
MAX_DEADLINE_SECONDS = 365 * 86_400.0  # from now; not every API can write dates of any year
WEBHOOK_EVENTS = ("start", "output", "logs", "completed")
MAX_URL_CHARS = 2_048


@dataclass(frozen=True)
class Options:
    """Of one job. None means the service's default.

    Attributes:
        deadline_seconds: from which ``deadline_at`` was reckoned, if the client gave it so; a repeated request has the
            same, and another ``deadline_at``.
        origin: which API it came through (``api``) and what that API wants to see again.
        traceparent: of the caller's trace, W3C Trace Context.
    """

    labels: Mapping[str, str] = field(default_factory=dict)
    priority: int = 0
    deadline_at: float | None = None
    deadline_seconds: float | None = None
    retention_seconds: float | None = None
    webhook: JobWebhook | None = None
    expand_prompt: bool = False
    origin: Mapping[str, Any] = field(default_factory=lambda: {"api": "grpc"})
    traceparent: str | None = None


def check_options(options: Options, who: Principal, settings: Settings) -> list[Violation]:
    """Report what is wrong with a job's options."""
    bad = check_labels(options.labels)
    highest = min(MAX_PRIORITY, who.limits.max_priority)
    if not 0 <= options.priority <= highest:
        bad.append(Violation("priority", f"{options.priority} must be from 0 to {highest}"))
    ahead = None if options.deadline_at is None else options.deadline_at - time.time()
    if ahead is not None and not ahead > 0:
        bad.append(Violation("deadline", "is not in the future"))
    elif ahead is not None and ahead > MAX_DEADLINE_SECONDS:
        bad.append(Violation("deadline", f"is more than {MAX_DEADLINE_SECONDS / 86_400:g} days from now"))
    if options.retention_seconds is not None and not 0 < options.retention_seconds <= settings.max_retention_seconds:
        description = (
            f"{options.retention_seconds:g} s must be above 0 and at most {settings.max_retention_seconds:g} s"
        )
        bad.append(Violation("retention", description))
    if options.webhook is not None:
        bad += check_webhook(options.webhook)
    if options.expand_prompt and not settings.prompt_expansion_url:
        bad.append(Violation("expand_prompt", "true, but this service expands no prompts"))
    return bad


def check_labels(labels: Mapping[str, str]) -> list[Violation]:
    if len(labels) > MAX_LABELS:
        return [Violation("labels", f"has {len(labels)} entries, at most {MAX_LABELS} are allowed")]
    bad = []
    for key, value in labels.items():
        if not LABEL_KEY.fullmatch(key):
            bad.append(Violation("labels", f"the key {short(key)} does not match {LABEL_KEY.pattern}"))
        elif len(value) > MAX_LABEL_VALUE_CHARS or "\0" in value:
            bad.append(
                Violation(
                    f"labels.{key}",
                    f"has {len(value)} characters, at most {MAX_LABEL_VALUE_CHARS} without NUL are allowed",
                )
            )
    return bad


def check_webhook(webhook: JobWebhook) -> list[Violation]:
    """Report what is wrong with a webhook's form; where it leads is checked when it is sent."""
    bad = []
    problem = url_problem(webhook.url)
    if problem:
        bad.append(Violation("webhook.url", problem))
    unknown = [event for event in webhook.events if event not in WEBHOOK_EVENTS]
    if unknown:
        bad.append(Violation("webhook.events", f"{short(unknown[0])} is not one of {', '.join(WEBHOOK_EVENTS)}"))
    return bad


def url_problem(url: str) -> str | None:
    """Tell why a text is not an http or https URL."""
    if len(url) > MAX_URL_CHARS:
        return f"has {len(url)} characters, at most {MAX_URL_CHARS} are allowed"
    if not url.isprintable() or " " in url:  # some of which urlsplit drops silently
        return f"{short(url)} holds spaces or control characters"
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        return f"{short(url)} is no address"
    if parts.scheme not in ("http", "https") or not parts.hostname or (port is not None and port == 0):
        return f"{short(url)} must be an http or https URL"
    if parts.username is not None or parts.password is not None:
        return "holds a name or password, which is not allowed"
    return None
