"""The OpenAPI document of the HTTP side, as FastAPI makes it of the routes."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from starlette.responses import Response

from zoetrope.serving.gateway.http.common.calls import CurrentCall
from zoetrope.serving.gateway.http.common.routes import AsciiResponse, GatewayRoute, api_router
from zoetrope.serving.gateway.http.health import ERRORS

KEY = "key"  # the security scheme
router = api_router("openapi", ERRORS, needs_key=False)


@router.get("/openapi.json", summary="This document.")
async def openapi(call: CurrentCall) -> Response:
    document: dict[str, Any] = call.request.app.openapi()
    return AsciiResponse({**document, "servers": [{"url": call.base_url}]})


class DocumentedApp(FastAPI):
    """An application whose document also says which routes need a key, and holds the schemas of forms and errors."""

    def openapi(self) -> dict[str, Any]:
        if self.openapi_schema is None:
            document = super().openapi()
            components = document.setdefault("components", {})
            for route in self.routes:
                if isinstance(route, GatewayRoute):
                    for method in route.methods or ():
                        operation = document["paths"][route.path_format][method.lower()]
                        # {}: a service without keys asks for none.
                        operation["security"] = [] if route.open else [{KEY: []}, {}]
            schemas = components.setdefault("schemas", {})
            _collect_definitions(document["paths"], schemas)
            components["securitySchemes"] = {
                KEY: {"type": "http", "scheme": "bearer", "description": "An API key, if the service asks for one."}
            }
        assert self.openapi_schema is not None
        return self.openapi_schema


def _collect_definitions(part: Any, schemas: dict[str, Any]) -> None:
    """Move the definitions that stand beside references to where the references point."""
    if isinstance(part, dict):
        for name, definition in part.pop("$defs", {}).items():
            assert schemas.setdefault(name, definition) == definition, f"two models are named {name}: rename one"
    for item in part.values() if isinstance(part, dict) else part if isinstance(part, list) else ():
        _collect_definitions(item, schemas)
