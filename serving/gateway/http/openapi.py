"""The OpenAPI document of all HTTP faces, made of their endpoints.

A face that defines ``ERROR_MODEL`` (and ``ERROR_TYPE``, where that is not JSON) beside its ``render_error`` has its
errors described.
"""

from __future__ import annotations

import functools
import re
import sys
from collections.abc import Sequence
from importlib import metadata
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import JsonSchemaMode, models_json_schema
from starlette.responses import Response

from serving.gateway.http.base import Call, Endpoint, RenderError, base_url
from serving.gateway.http.health import render_error
from serving.gateway.http.replicate_errors import answer

__all__ = ["ENDPOINTS", "document", "openapi_path", "render_error"]

REF = "#/components/schemas/{model}"
KEY = "key"  # the security scheme
JSON = "application/json"
PLACEHOLDER = re.compile(r"\{(\w+)(?::\w+)?\}")  # in Starlette's paths, with or without a convertor
SKIPPED_HEADERS = ("accept", "authorization", "content-type")  # which OpenAPI has elsewhere
Face = tuple[Sequence[Endpoint], RenderError]


async def openapi(call: Call) -> Response:
    """GET /openapi.json"""
    return answer({**_document_of_app(), "servers": [{"url": base_url(call)}]})


@functools.cache
def _document_of_app() -> dict[str, Any]:
    from serving.gateway.http.app import FACES  # which imports this module

    return document(FACES)


def document(faces: Sequence[Face]) -> dict[str, Any]:
    """OpenAPI 3.1. Of two endpoints with the same method and path the first one counts, as it does for the router."""
    models = {model: mode for endpoints, render in faces for model, mode in _models(endpoints, render)}
    refs, definitions = models_json_schema(list(models.items()), ref_template=REF)
    schemas = {model: refs[model, mode] for model, mode in models.items()}
    paths: dict[str, dict[str, Any]] = {}
    for endpoints, render in faces:
        for endpoint in endpoints:
            operations = paths.setdefault(openapi_path(endpoint.path), {})
            operations.setdefault(endpoint.method.lower(), _operation(endpoint, render, schemas))
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Zoetrope",
            "version": metadata.version("zoetrope"),
            "description": "Videos by the Wan family of models. The same jobs by the APIs of Replicate, OpenAI and"
            " DashScope.",
        },
        "paths": paths,
        "components": {
            "schemas": definitions.get("$defs", {}),
            "securitySchemes": {
                KEY: {"type": "http", "scheme": "bearer", "description": "An API key, where the service asks for one."}
            },
        },
    }


def openapi_path(path: str) -> str:
    """Starlette's notation without convertors."""
    return PLACEHOLDER.sub(r"{\1}", path)


def _models(endpoints: Sequence[Endpoint], render: RenderError) -> list[tuple[type[BaseModel], JsonSchemaMode]]:
    found: list[tuple[type[BaseModel], JsonSchemaMode]] = []
    for endpoint in endpoints:
        if endpoint.body is not None:
            found.append((endpoint.body, "validation"))
        if endpoint.answer is not None:
            found.append((endpoint.answer, "serialization"))
    error = _error_model(render)
    return [*found, (error, "serialization")] if error is not None else found


def _operation(
    endpoint: Endpoint, render: RenderError, schemas: dict[type[BaseModel], dict[str, Any]]
) -> dict[str, Any]:
    parameters = [_parameter(name, "path", "", required=True) for name in PLACEHOLDER.findall(endpoint.path)]
    parameters += [_parameter(name, "query", meaning) for name, meaning in endpoint.query]
    parameters += [
        _parameter(name, "header", meaning)
        for name, meaning in endpoint.headers
        if name.lower() not in SKIPPED_HEADERS
    ]
    operation: dict[str, Any] = {
        "operationId": _operation_id(endpoint),
        "summary": endpoint.summary,
        "tags": [endpoint.handler.__module__.rpartition(".")[2].partition("_")[0]],
        "responses": {str(endpoint.status): _success(endpoint, schemas), "default": _failure(render, schemas)},
    }
    if parameters:
        operation["parameters"] = parameters
    if endpoint.body is not None:
        content = {endpoint.body_type: {"schema": schemas[endpoint.body]}}
        operation["requestBody"] = {"required": True, "content": content}
    operation["security"] = [] if endpoint.open else [{KEY: []}, {}]  # {}: a service without keys asks for none
    return operation


def _parameter(name: str, place: str, meaning: str, *, required: bool = False) -> dict[str, Any]:
    parameter: dict[str, Any] = {"name": name, "in": place, "required": required, "schema": {"type": "string"}}
    return parameter | ({"description": meaning} if meaning else {})


def _operation_id(endpoint: Endpoint) -> str:
    words = re.sub(r"\W+", "_", openapi_path(endpoint.path)).strip("_")
    return f"{endpoint.method.lower()}_{words}"


def _success(endpoint: Endpoint, schemas: dict[type[BaseModel], dict[str, Any]]) -> dict[str, Any]:
    response: dict[str, Any] = {"description": endpoint.summary}
    if endpoint.status == 204:
        return response
    if endpoint.answer is not None:
        content: dict[str, Any] = schemas[endpoint.answer]
    else:
        content = {} if endpoint.answer_type == JSON else {"type": "string", "format": "binary"}
    return response | {"content": {endpoint.answer_type: {"schema": content}}}


def _failure(render: RenderError, schemas: dict[type[BaseModel], dict[str, Any]]) -> dict[str, Any]:
    model = _error_model(render)
    kind = getattr(_module(render), "ERROR_TYPE", JSON)
    content = {"type": "object"} if model is None else schemas[model]
    return {"description": "What is wrong.", "content": {kind: {"schema": content}}}


def _error_model(render: RenderError) -> type[BaseModel] | None:
    return getattr(_module(render), "ERROR_MODEL", None)


def _module(render: RenderError) -> Any:
    return sys.modules[render.__module__]


ENDPOINTS: Sequence[Endpoint] = (Endpoint("GET", "/openapi.json", openapi, "This document.", open=True),)
