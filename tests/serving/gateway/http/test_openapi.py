"""The OpenAPI document is valid and describes every route."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any, cast

import httpx
import pytest
from openapi_spec_validator import validate
from pydantic import BaseModel, Field
from starlette.responses import Response
from starlette.routing import Route

from serving.gateway.core import Core
from serving.gateway.http.app import FACES, http_app
from serving.gateway.http.base import Call, Endpoint
from serving.gateway.http.health import render_error
from serving.gateway.http.openapi import document, openapi_path
from tests.serving.gateway.harness import running_service


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, dict[str, Any]]]:
    """A gateway that wants keys, and its document, for which it wants none."""
    with running_service(tmp_path_factory.mktemp("openapi"), keys="required") as service:
        yield service.http, httpx.get(f"{service.http}/openapi.json").raise_for_status().json()


def test_valid(served: tuple[str, dict[str, Any]]) -> None:
    url, found = served
    validate(found)
    assert found["openapi"].startswith("3.1")
    assert found["servers"] == [{"url": url}]


def test_every_route_is_in_it(served: tuple[str, dict[str, Any]]) -> None:
    routes = http_app(cast(Core, None)).routes
    wanted = set()
    for route in routes:
        assert isinstance(route, Route)
        wanted |= {(openapi_path(route.path), method.lower()) for method in (route.methods or set()) - {"HEAD"}}
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


def test_what_needs_no_key_says_so(served: tuple[str, dict[str, Any]]) -> None:
    """Asked of the gateway itself, with parameters that name nothing."""
    url, found = served
    with httpx.Client(base_url=url) as web:
        for path, methods in found["paths"].items():
            for method, operation in methods.items():
                answer = web.request(method.upper(), re.sub(r"\{\w+\}", "x", path))
                assert (answer.status_code == 401) == bool(operation["security"]), (method, path, answer.status_code)


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


async def nothing(call: Call) -> Response:
    return Response()


def made(*endpoints: Endpoint) -> dict[str, Any]:
    return document([(endpoints, render_error)])


def test_an_endpoint() -> None:
    endpoint = Endpoint(
        "POST",
        "/a/{b}/{c:path}",
        nothing,
        "Nothing.",
        Query,
        answer=Twin.Query,
        status=202,
        query=(("q", "what"),),
        headers=(("X-Y", "why"), ("Authorization", "left out")),
    )
    found = made(endpoint, Endpoint("DELETE", "/a/{b}/{c:path}", nothing, "Less.", status=204, open=True))
    validate(found)
    operation = found["paths"]["/a/{b}/{c}"]["post"]
    places = [(item["name"], item["in"], item["required"]) for item in operation["parameters"]]
    assert places == [("b", "path", True), ("c", "path", True), ("q", "query", False), ("X-Y", "header", False)]
    body = operation["requestBody"]["content"]["application/json"]["schema"]["$ref"].rpartition("/")[2]
    result = operation["responses"]["202"]["content"]["application/json"]["schema"]["$ref"].rpartition("/")[2]
    schemas = found["components"]["schemas"]
    assert schemas[body]["properties"]["text"]["maxLength"] == 5
    assert list(schemas[result]["properties"]) == ["number"]
    assert "content" not in found["paths"]["/a/{b}/{c}"]["delete"]["responses"]["204"]


def test_the_first_of_two_counts() -> None:
    pair: Sequence[Endpoint] = [Endpoint("GET", "/a", nothing, text) for text in ("First.", "Second.")]
    assert made(*pair)["paths"]["/a"]["get"]["summary"] == "First."


def test_no_face_hides_another() -> None:
    """One list of models serves two faces, see `replicate.list_models`; nothing else is there twice."""
    places = [(item.method, openapi_path(item.path)) for endpoints, _ in FACES for item in endpoints]
    assert {place for place in places if places.count(place) > 1} <= {("GET", "/v1/models")}
