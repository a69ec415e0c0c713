"""Pages of jobs, by filter and by words of their prompts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from zoetrope.serving.gateway.errors.api_error import invalid_argument
from zoetrope.serving.gateway.http.common.calls import HttpCall
from zoetrope.serving.gateway.submit.listing import (
    MAX_PAGE_SIZE,
    check_page_size,
    decode_page_token,
    encode_page_token,
    parse_filter,
)
from zoetrope.serving.jobs.job import Job

PAGE_SIZE = 24  # fills rows of two, three and four cards
MAX_SEARCHED = 1_000  # jobs that one call of a search reads, in pages of MAX_PAGE_SIZE: others have their turn between
MAX_SEARCH_CHARS = 200


@dataclass(frozen=True)
class JobPage:
    """Jobs, newest first.

    Attributes:
        next_token: of the page behind it; "" for none.
        searched_to: when the last job was created that a search looked at, where it stopped before the oldest.
    """

    jobs: Sequence[Job]
    next_token: str
    searched_to: float | None = None


async def page_of_jobs(call: HttpCall, *, filter: str, search: str, size: int, token: str) -> JobPage:
    """Return a page of the caller's jobs.

    Args:
        search: is in the prompt or the id, in capitals or not; "" for all.

    Raises:
        ApiError: a parameter is malformed.
        TooManyReads.
    """
    where, size = parse_filter(filter), check_page_size(size or PAGE_SIZE)
    if len(search) > MAX_SEARCH_CHARS:
        raise invalid_argument("search", f"has {len(search)} characters, at most {MAX_SEARCH_CHARS} are allowed")
    wanted = search.strip().casefold()
    made_for = f"dashboard\n{filter}\n{wanted}"
    before = decode_page_token(token, made_for)
    found: list[Job] = []
    step = MAX_PAGE_SIZE if wanted else size + 1
    for _ in range(MAX_SEARCHED // MAX_PAGE_SIZE if wanted else 1):
        read = await call.core.jobs(call.who, page_size=step, where=where, before=before)
        found += [job for job in read if wanted in job.spec["task"]["prompt"].casefold() or wanted in job.id]
        if len(found) > size:
            last = found[size - 1]
            return JobPage(found[:size], encode_page_token(last.created_at, last.id, made_for))
        if len(read) < step:
            return JobPage(found, "")
        before = read[-1].created_at, read[-1].id
    assert before is not None  # as many were read as one call may
    return JobPage(found, encode_page_token(*before, made_for), before[0])
