"""Requests made from our own OpenAPI document: ``python -m tests.serving.hostile.fuzz --cases 10000``.

Schemathesis makes them, half of them well-formed, half against the schema; a third of the ids name jobs and files that
exist. No answer may be a 5xx, hold a traceback or a path of this machine, or not come at all. Prints the answers by
endpoint and status.
"""

from __future__ import annotations

import argparse
import copy
import json
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

import hypothesis
import requests
import schemathesis
from hypothesis import HealthCheck, Phase
from hypothesis import strategies as st
from requests.exceptions import InvalidHeader, InvalidURL
from schemathesis import GenerationMode

from tests.serving.gateway.http.samples import picture
from tests.serving.hostile.kit import Broken, Target, finished_job, target

IDS = ("prediction_id", "video_id", "task_id", "job_id", "file_id")
# What stands in paths and bodies beside them, so that not every case ends at a name that is not known.
NAMES: dict[str, Sequence[str]] = {
    "owner": ("wan-video",),
    "name": ("wan-2.7-t2v", "wan-2.7-i2v", "wan-2.7-videoedit", "nano"),
    "model": ("nano", "wan2.7-t2v", "wan2.7-i2v", "wan-video/wan-2.7-t2v"),
    "filename": ("video.mp4",),
    "version": ("wan-video/nano",),
    "app": ("nano", "wan-t2v", "wan-i2v"),
}
# Bodies that are taken, for endpoints that Schemathesis seldom finds one for; then they are spoilt in one place.
TASK = {"kind": "text_to_video", "prompt": "x"}
SYNTHESIS = {"model": "wan2.7-t2v", "input": {"prompt": "x"}, "parameters": {"size": "832*480", "seed": 1}}
TEMPLATES: dict[str, Any] = {
    "/v1/predictions": {"version": "wan-video/nano", "input": {"task": TASK, "steps": 2, "seed": 1, "fps": 8}},
    "/v1/models/{owner}/{name}/predictions": {"input": {"prompt": "x", "seed": 1, "resolution": "480p", "duration": 2}},
    "/v1/videos": {"prompt": "x", "size": "832x480", "seconds": 2, "seed": 1},
    "/v1/videos/{video_id}/remix": {"prompt": "x", "seed": 1, "num_inference_steps": 2, "guidance_scale": 1.5},
    "/api/v1/services/aigc/video-generation/video-synthesis": SYNTHESIS,
    "/api/v1/services/aigc/image2video/video-synthesis": SYNTHESIS,
    "/fal-ai/{app}": {"prompt": "x", "seed": 1, "num_inference_steps": 2, "resolution": "480p", "duration": "2"},
    "/zoetrope/{app}": {"task": TASK, "steps": 2, "seed": 1, "fps": 8},
    "/dashboard/jobs": {"prompt": "x", "seed": 1, "steps": 2, "size": "480p", "duration_seconds": 2},
}
EMPTY_EVERY = 250  # cases, so that lists stay short
MAX_BROKEN = 20  # after which going on tells nothing new
SECONDS = 60.0  # for an answer, on a machine that does other things as well
QUIRKS: tuple[Any, ...] = (
    *("", "\0", "../../etc/passwd", "%00", "a" * 5_000, "\r\nx: y", "é🐈", "NaN", "-1", "1e309", "' OR 1=1 --"),
    *(None, True, -1, 0, 2**31, 2**63, 10**300, -(2**70), 1.5, 1e308, float("nan"), float("inf"), [], {}, [[[]]]),
)


@dataclass
class Tally:
    """Statuses by endpoint, and what was found."""

    statuses: dict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    broken: list[str] = field(default_factory=list)
    cases: int = 0

    def table(self) -> str:
        lines = []
        for endpoint in sorted(self.statuses):
            counts = "  ".join(f"{status}: {count}" for status, count in sorted(self.statuses[endpoint].items()))
            lines.append(f"{endpoint:<80} {counts}")
        every = sum(self.statuses.values(), Counter())
        lines.append(f"{'all':<80} " + "  ".join(f"{status}: {count}" for status, count in sorted(every.items())))
        return "\n".join(lines)


def run(
    found: Target,
    cases: int,
    seed: int,
    progress: Callable[[str], None] = lambda _: None,
    modes: Sequence[GenerationMode] = (GenerationMode.POSITIVE, GenerationMode.NEGATIVE),
) -> Tally:
    """As many cases, spread evenly over the endpoints; what breaks is gathered, at most one finding an endpoint.

    Args:
        modes: cases against the schema take a second or two for each endpoint until the first one is made.
    """
    service, tally = found.service, Tally()
    document = found.web.get("/openapi.json").raise_for_status().json()
    results: Any = schemathesis.openapi.from_dict(document).get_all_operations()
    operations = [result.ok() for result in results]
    session = requests.Session()
    started = time.monotonic()
    rounds, ids = 0, known_ids(found)
    while tally.cases < cases and len(tally.broken) < MAX_BROKEN:
        # Some endpoints have no parts that could vary: the next ones get their share, and the last ones another round.
        todo, before = cases - tally.cases, tally.cases
        for number, operation in enumerate(operations):
            share = todo * (number + 1) // len(operations) - (tally.cases - before)
            if share > 0:
                _endpoint(found, operation, share, seed + rounds, tally, session, modes, ids)
                if operation.method.upper() != "GET":  # it may have cancelled or deleted what the next one asks for
                    ids = known_ids(found)
            spent = time.monotonic() - started
            where = f"{operation.method.upper()} {operation.path}"
            progress(f"{tally.cases:>6} cases, {spent:6.1f} s, {len(tally.broken)} broken: {where}")
        rounds += 1
    service.empty_queue()
    return tally


def known_ids(found: Target) -> tuple[str, ...]:
    """Of a job that is done, one that waits and a file, all new, and one that nothing has."""
    service = found.service
    done = finished_job(service, service.client.create(prompt="done")).id
    waiting = service.client.create(prompt="waiting").removeprefix("operations/")
    form = {"content": ("a.png", picture(), "image/png")}
    made = found.web.post("/v1/files", files=form, timeout=SECONDS).raise_for_status().json()
    return done, waiting, made["id"], "vid_unknown"


def _endpoint(
    found: Target,
    operation: Any,
    share: int,
    seed: int,
    tally: Tally,
    session: requests.Session,
    modes: Sequence[GenerationMode],
    ids: tuple[str, ...],
) -> None:
    service, endpoint = found.service, f"{operation.method.upper()} {operation.path}"

    def one(case: Any, data: Any) -> None:
        _vary(case, data, ids)
        kwargs = _request(case, service.http)
        tally.cases += 1
        if tally.cases % EMPTY_EVERY == 0:
            service.empty_queue()
        try:
            answer = session.request(**kwargs)
        except (InvalidHeader, InvalidURL, UnicodeError):
            tally.statuses[endpoint]["not sent"] += 1  # by the client's own library
            return
        except requests.RequestException as error:
            raise Broken(f"{endpoint}: no answer: {error!r} to {kwargs!r:.600}") from None
        tally.statuses[endpoint][str(answer.status_code)] += 1
        what = f"{endpoint} {kwargs!r:.600}"
        found.check(answer.status_code, answer.headers, answer.content, what, operation.path)

    for number, mode in enumerate(modes):
        count = share * (number + 1) // len(modes) - share * number // len(modes)
        if count > 0:
            _drive(one, operation, mode, count, seed, tally)
    found.check_alive()


def _drive(one: Callable[..., None], operation: Any, mode: Any, count: int, seed: int, tally: Tally) -> None:
    try:
        strategy = operation.as_strategy(generation_mode=mode)
        test = hypothesis.given(case=strategy, data=st.data())(lambda case, data: one(case, data))
        test = hypothesis.seed(seed)(test)
        hypothesis.settings(
            max_examples=count,
            deadline=None,
            database=None,
            phases=(Phase.generate,),
            report_multiple_bugs=False,
            suppress_health_check=list(HealthCheck),
        )(test)()
    except Broken as error:
        tally.broken.append(str(error))
    except (hypothesis.errors.Unsatisfiable, schemathesis.errors.SchemathesisError):
        # Nothing can be wrong with a request that has no parts.
        if mode is GenerationMode.NEGATIVE:
            _drive(one, operation, GenerationMode.POSITIVE, count, seed, tally)
        else:
            raise


def _request(case: Any, base_url: str) -> dict[str, Any]:
    """For requests; JSON as Python writes it, with NaN and all."""
    kwargs: dict[str, Any] = case.as_transport_kwargs(base_url=base_url)
    if "json" in kwargs:
        kwargs["data"] = json.dumps(kwargs.pop("json"))
        kwargs["headers"] = {"content-type": "application/json", **(kwargs.get("headers") or {})}
    return kwargs | {"timeout": SECONDS, "allow_redirects": False}


def _vary(case: Any, data: Any, ids: tuple[str, ...]) -> None:
    """Ids and names that exist, and odd values where the document says no more than that something is text."""
    places = case.path_parameters or {}
    for name in sorted(set(places) & {*IDS, *NAMES}):
        if data.draw(st.integers(0, 1)) == 0:
            places[name] = data.draw(st.sampled_from(NAMES.get(name, ids)))
        elif data.draw(st.integers(0, 4)) == 0:
            odd = data.draw(st.sampled_from([quirk for quirk in QUIRKS if isinstance(quirk, str) and quirk]))
            places[name] = quote(odd, safe="")
    if "video-synthesis" in case.path and data.draw(st.integers(0, 9)):
        case.headers = {**(case.headers or {}), "X-DashScope-Async": "enable"}
    body = case.body
    if not isinstance(body, dict):
        return
    template = TEMPLATES.get(case.path)
    if template is not None and data.draw(st.integers(0, 2)) == 0:
        body.clear()
        body.update(copy.deepcopy(template))
    for name in sorted(set(body) & set(NAMES)):
        if data.draw(st.integers(0, 1)) == 0:
            body[name] = data.draw(st.sampled_from(NAMES[name]))
    if case.media_type == "application/json" and body and data.draw(st.integers(0, 3)) == 0:
        where = body
        while (inner := [v for v in where.values() if isinstance(v, dict) and v]) and data.draw(st.booleans()):
            where = data.draw(st.sampled_from(inner))
        where[data.draw(st.sampled_from(sorted(where, key=repr)))] = data.draw(st.sampled_from(QUIRKS))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--cases", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory, target(Path(directory), max_queued=1_000_000) as found:
        tally = run(found, args.cases, args.seed, lambda line: print(line, flush=True))
        unexpected = found.errors()
    print(tally.table())
    for finding in tally.broken:
        print("BROKEN", finding)
    for line in unexpected:
        print("LOG", line.rstrip())
    return 1 if tally.broken or unexpected else 0


if __name__ == "__main__":
    sys.exit(main())
