"""The OpenAPI document is valid and describes every route."""

from __future__ import annotations

import re
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Annotated, Any, cast

import httpx
import pytest
from fastapi import Header
from fastapi import Query as ParameterQuery
from openapi_spec_validator import validate
from pydantic import BaseModel, Field
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from tests.serving.gateway.harness import running_service
from zoetrope.serving.gateway.auth.authenticator import Principal
from zoetrope.serving.gateway.core.core import Core
from zoetrope.serving.gateway.errors.api_error import ApiError
from zoetrope.serving.gateway.http.app import http_app
from zoetrope.serving.gateway.http.common.bodies import Bodies
from zoetrope.serving.gateway.http.common.calls import CurrentCall
from zoetrope.serving.gateway.http.common.compatibility import ErrorFormat
from zoetrope.serving.gateway.http.common.routes import FILE, api_router, form_of
from zoetrope.serving.gateway.http.openapi import DocumentedApp
from zoetrope.serving.gateway.limits.pace import Pace
from zoetrope.serving.gateway.limits.unfinished import CallerLimits


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, dict[str, Any]]]:
    """A gateway that wants keys, and its document, for which it wants none."""
    with running_service(tmp_path_factory.mktemp("openapi"), keys="required") as service:
        yield service.http, httpx.get(f"{service.http}/openapi.json").raise_for_status().json()


def core() -> Core:
    """As much of one as an application is made of."""
    return cast(Core, SimpleNamespace(pace=Pace(), settings=SimpleNamespace(allow_origins=())))


def test_valid(served: tuple[str, dict[str, Any]]) -> None:
    url, found = served
    validate(found)
    assert found["openapi"].startswith("3.1")
    assert found["servers"] == [{"url": url}]


def test_every_route_is_in_it(served: tuple[str, dict[str, Any]]) -> None:
    routes = http_app(core()).routes
    wanted = set()
    for route in routes:
        assert isinstance(route, Route)
        wanted |= {(route.path_format, method.lower()) for method in (route.methods or set()) - {"HEAD"}}
    assert wanted == {(path, method) for path, methods in served[1]["paths"].items() for method in methods}
    assert len(wanted) > 20


def test_operations_are_whole(served: tuple[str, dict[str, Any]]) -> None:
    ids = []
    for path, methods in served[1]["paths"].items():
        for operation in methods.values():
            ids.append(operation["operationId"])
            assert operation["summary"]
            assert "default" in operation["responses"]
            named = {item["name"] for item in operation.get("parameters", ()) if item["in"] == "path"}
            assert named == set(re.findall(r"\{(\w+)\}", path))
    assert len(set(ids)) == len(ids)


def test_schemas_have_names_of_their_own(served: tuple[str, dict[str, Any]]) -> None:
    """Of two models of one name, FastAPI would call both by their modules, and numbers or suffixes would come and go:
    the names are those of classes in generated clients."""
    names = list(served[1]["components"]["schemas"])
    assert len(names) > 30
    assert [name for name in names if not re.fullmatch(r"[A-Z][A-Za-z]+", name)] == []


def test_two_models_of_one_name_are_found_out() -> None:
    app = DocumentedApp(title="a", version="1")
    router = api_router("a", ErrorFormat(render, Twin.Query))
    router.get("/a", summary="Nothing.", openapi_extra=form_of(Query))(nothing)
    app.router.routes.extend(router.routes)
    with pytest.raises(AssertionError, match="two models are named Query"):
        app.openapi()


def test_what_needs_no_key_says_so(served: tuple[str, dict[str, Any]]) -> None:
    """Asked of the gateway itself, with parameters that name nothing."""
    url, found = served
    with httpx.Client(base_url=url) as web:
        for path, methods in found["paths"].items():
            for method, operation in methods.items():
                answer = web.request(method.upper(), re.sub(r"\{\w+\}", "x", path))
                assert (answer.status_code == 401) == bool(operation["security"]), (method, path, answer.status_code)


def test_head_is_answered_as_get_is(served: tuple[str, dict[str, Any]]) -> None:
    url, _ = served
    answer, whole = httpx.head(f"{url}/healthz"), httpx.get(f"{url}/healthz")
    assert (answer.status_code, answer.content) == (200, b"")
    assert answer.headers["content-length"] == str(len(whole.content))
    assert httpx.put(f"{url}/healthz").headers["allow"] == "GET, HEAD"


def test_described_errors(served: tuple[str, dict[str, Any]]) -> None:
    url, found = served
    content = found["paths"]["/v1/predictions"]["get"]["responses"]["default"]["content"]
    (kind,) = content
    answer = httpx.get(f"{url}/v1/predictions")
    assert answer.headers["content-type"] == kind == "application/problem+json"
    schema = found["components"]["schemas"][content[kind]["schema"]["$ref"].rpartition("/")[2]]
    assert set(schema["required"]) <= set(answer.json()) <= set(schema["properties"])


class Query(BaseModel):
    """A body."""

    text: str = Field(max_length=5)


class Twin:
    class Query(BaseModel):
        """Another one of the same name."""

        number: int


def render(error: ApiError) -> tuple[int, dict[str, Any]]:
    return error.http_status + 1, {"fields": [violation.field for violation in error.violations]}


async def nothing(
    call: CurrentCall, b: str, q: Annotated[int, ParameterQuery(description="what", le=3)] = 1
) -> Response:
    return JSONResponse([b, q])


async def echo(
    call: CurrentCall, b: str, body: Query, x_y: Annotated[str | None, Header(alias="X-Y", description="why")] = None
) -> Response:
    return JSONResponse(body.model_dump())


def app_of() -> DocumentedApp:
    """An application with a few routes of one API, as one more file would add them."""
    app = DocumentedApp(title="a", version="1")
    kept, free = (
        api_router("a", ErrorFormat(render, Twin.Query, "application/x"), needs_key=key) for key in (True, False)
    )
    kept.post("/a/{b}", summary="Nothing.", status_code=202, response_model=Twin.Query)(echo)
    free.get("/a/{b}", summary="Less.", **FILE)(nothing)
    free.delete("/a/{b}", summary="Least.", status_code=204)(nothing)
    for router in (kept, free):
        app.router.routes.extend(router.routes)
    return app


def test_an_endpoint() -> None:
    found = app_of().openapi()
    validate(found)
    operation = found["paths"]["/a/{b}"]["post"]
    places = [(item["name"], item["in"], item["required"]) for item in operation["parameters"]]
    assert places == [("b", "path", True), ("X-Y", "header", False)]
    body = operation["requestBody"]["content"]["application/json"]["schema"]["$ref"].rpartition("/")[2]
    result = operation["responses"]["202"]["content"]["application/json"]["schema"]["$ref"].rpartition("/")[2]
    schemas = found["components"]["schemas"]
    assert schemas[body]["properties"]["text"]["maxLength"] == 5
    assert list(schemas[result]["properties"]) == ["number"]
    assert list(operation["responses"]["default"]["content"]) == ["application/x"]
    assert "content" not in found["paths"]["/a/{b}"]["delete"]["responses"]["204"]
    assert list(found["paths"]["/a/{b}"]["get"]["responses"]["200"]["content"]) == ["application/octet-stream", "*/*"]


async def test_parameters_are_checked_and_errors_are_the_api_s_own() -> None:
    """What FastAPI checks itself, and what our own reader does."""
    app = app_of()
    app.state.core = SimpleNamespace(
        pace=Pace(), answers=CallerLimits(1, 1, 1), settings=SimpleNamespace(public_url="", allow_origins=())
    )
    app.state.core.authenticate, app.state.bodies = authenticate, Bodies(app.state.core.pace)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost") as web:
        assert (await web.get("/a/b", params={"q": "2"})).json() == ["b", 2]
        answer = await web.get("/a/b", params={"q": "4"})
        assert (answer.status_code, answer.json()) == (401, {"fields": ["q"]})
        assert answer.headers["content-type"] == "application/x"
        assert (await web.post("/a/b", content='{"text": "12345"}')).json() == {"text": "12345"}
        answer = await web.post("/a/b", content='{"text": "123456"}', headers={"content-type": "text/plain"})
        assert (answer.status_code, answer.json()) == (401, {"fields": ["text"]})


async def authenticate(secret: str | None, address: str) -> Principal:
    return Principal()


def test_no_api_hides_another() -> None:
    """One list of models serves two APIs, see `replicate.list_models`; nothing else is there twice."""
    routes = http_app(core()).routes
    places = [(method, route.path) for route in routes if isinstance(route, Route) for method in route.methods or ()]
    assert len(set(places)) == len(places) > 20
