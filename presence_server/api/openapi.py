"""The OpenAPI 3.1 document, made of the table of calls."""

from collections.abc import Sequence
from http import HTTPStatus
from typing import Any, Final

import msgspec

from presence_server.api.problems import CONTENT_TYPE
from presence_server.api.route_table import PARAMETERS, Route
from presence_server.api.schema import Problem

REF: Final = "#/components/schemas/{name}"
ALWAYS: Final = (400, 401, 403, 500, 503)
"""The problems that any call may be answered with: malformed, no key, not this way, the server's fault, no store."""
RATE_LIMIT: Final = ("RateLimit", "RateLimit-Policy")


def openapi_document(routes: Sequence[Route], version: str, *, keyed: bool) -> dict[str, Any]:
    """Return the document; `keyed` says whether calls need `api.key`."""
    types = [Problem, *PARAMETERS.values()]
    for route in routes:
        types += [body for body in (route.body, route.query, *route.answers.values()) if body is not None]
    schemas, components = msgspec.json.schema_components(types, ref_template=REF)
    schema_of = dict(zip(map(id, types), schemas, strict=True))
    paths: dict[str, dict[str, Any]] = {}
    for route in routes:
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route, schema_of, components)
    described: dict[str, Any] = {
        "openapi": "3.1.0",
        "info": {
            "title": "presence-server",
            "version": version,
            "description": "Rooms, users, limits and sessions, for backends and operators.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "paths": paths,
        "components": {"schemas": components},
    }
    if keyed:
        key = {"type": "http", "scheme": "bearer", "description": "api.key"}
        described["components"]["securitySchemes"] = {"key": key}
        described["security"] = [{"key": []}]
    return described


def _operation(route: Route, schema_of: dict[int, Any], components: dict[str, Any]) -> dict[str, Any]:
    operation: dict[str, Any] = {
        "operationId": route.carry_out.__name__,
        "summary": route.summary,
        "tags": [route.segments[1]],
        "parameters": [
            {"name": name, "in": "path", "required": True, "schema": schema_of[id(PARAMETERS[name])]}
            for name in route.parameters
        ],
        "responses": _responses(route, schema_of),
    }
    if route.query is not None:
        operation["parameters"] += _query(route.query, components)
    if route.if_match:
        operation["parameters"].append(
            {
                "name": "If-Match",
                "in": "header",
                "required": True,
                "description": "The version that is to be changed, in quotes",
                "schema": {"type": "string", "pattern": '^"[0-9]{1,15}"$'},
            }
        )
    if route.key_header:
        operation["parameters"].append(
            {
                "name": route.key_header,
                "in": "header",
                "required": True,
                "description": "Who is counted",
                "schema": {"type": "string", "pattern": "^[!-~]{1,512}$"},
            }
        )
    if route.body is not None:
        content = {"application/json": {"schema": schema_of[id(route.body)]}}
        operation["requestBody"] = {"required": not route.body_optional, "content": content}
    return operation


def _query(query: type[msgspec.Struct], components: dict[str, Any]) -> list[dict[str, Any]]:
    described = components[query.__name__]
    return [
        {"name": name, "in": "query", "required": name in described.get("required", ()), "schema": schema}
        for name, schema in described["properties"].items()
    ]


def _responses(route: Route, schema_of: dict[int, Any]) -> dict[str, Any]:
    responses: dict[str, Any] = {}
    for status, answer in route.answers.items():
        described: dict[str, Any] = {"description": HTTPStatus(status).phrase}
        responses[str(status)] = described
        if answer is not None:
            described["content"] = {"application/json": {"schema": schema_of[id(answer)]}}
        headers = RATE_LIMIT if route.rate_limited else ("ETag",) if route.etag else ()
        if headers:
            described["headers"] = _headers(headers)
    unsupported = (415,) if route.body is not None else ()
    for status in sorted({*ALWAYS, *route.problems, *unsupported}):
        if str(status) not in responses:
            responses[str(status)] = {
                "description": HTTPStatus(status).phrase,
                "content": {CONTENT_TYPE: {"schema": schema_of[id(Problem)]}},
            }
            if status == HTTPStatus.TOO_MANY_REQUESTS and route.rate_limited:
                responses[str(status)]["headers"] = _headers(RATE_LIMIT)
    return responses


def _headers(names: Sequence[str]) -> dict[str, Any]:
    return {name: {"schema": {"type": "string"}} for name in names}
