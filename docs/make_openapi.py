"""Make the page of all HTTP calls from the server's OpenAPI document; `python -m docs.make_openapi` prints it."""

import json
from collections.abc import Iterator, Mapping
from inspect import cleandoc
from typing import Any, Final, TypeAlias

from presence_server import __version__
from presence_server.api.calls import ROUTES
from presence_server.api.openapi import openapi_document

Schema: TypeAlias = Mapping[str, Any]

HEAD: Final = """# HTTP API: reference

Every call of the internal port, made of the server's own description: `GET /openapi.json`, here
[openapi.json](openapi.json). What the calls are for, who may make them and what errors mean: [HTTP API](../api.md).
"""
PROBLEMS: Final = "Any call may be answered with a [Problem](#problem) and 400, 401, 403, 500 or 503."
ALWAYS: Final = frozenset(("400", "401", "403", "500", "503"))
BOUNDS: Final = (
    ("minLength", "maxLength", "{} characters"),
    ("minItems", "maxItems", "{} items"),
    ("minimum", "maximum", "{}"),
)
"""The names of a schema's bounds, least and most, and how the page writes them."""


def openapi_page(described: Schema) -> str:
    """Return the page in Markdown."""
    parts = [HEAD, PROBLEMS]
    by_tag: dict[str, list[str]] = {}
    for path, calls in described["paths"].items():
        for method, call in calls.items():
            by_tag.setdefault(call["tags"][0], []).append(_call(method.upper(), path, call))
    for tag in sorted(by_tag):
        parts += [f"## {tag.capitalize()}", *by_tag[tag]]
    parts.append("## Bodies")
    parts += [_body(name, schema) for name, schema in described["components"]["schemas"].items()]
    return "\n\n".join(parts) + "\n"


def _call(method: str, path: str, call: Schema) -> str:
    parts = [f"### `{method} {path}`", f"{call['summary']}."]
    if call.get("description"):
        parts.append(cleandoc(call["description"]))
    if call["parameters"]:
        rows = ["| parameter | in | type | meaning |", "|---|---|---|---|"]
        for each in call["parameters"]:
            name = f"`{each['name']}`" + (", required" if each["required"] else "")
            meaning = each.get("description") or each["schema"].get("description", "")
            rows.append(_row(name, each["in"], _type(each["schema"]), _with_bounds(meaning, each["schema"])))
        parts.append("\n".join(rows))
    if "requestBody" in call:
        parts.append(f"Body: {_content(call['requestBody'])}.")
    parts.append("\n".join(_answers(call["responses"])))
    return "\n\n".join(parts)


def _answers(responses: Schema) -> Iterator[str]:
    yield "| answer | body |"
    yield "|---|---|"
    for status, answer in responses.items():
        if status not in ALWAYS:
            yield _row(f"{status} {answer['description']}", _content(answer))


def _content(described: Schema) -> str:
    return ", ".join(_type(each["schema"]) for each in described.get("content", {}).values()) or "none"


def _body(name: str, schema: Schema) -> str:
    parts = [f"### {name}"]
    if schema.get("description"):
        parts.append(cleandoc(schema["description"]))
    required = schema.get("required", ())
    rows = ["| field | type | meaning |", "|---|---|---|"]
    for field, each in schema.get("properties", {}).items():
        named = f"`{field}`" + (", required" if field in required else "")
        rows.append(_row(named, _type(each), _with_bounds(each.get("description", ""), each)))
    parts.append("\n".join(rows))
    return "\n\n".join(parts)


def _type(schema: Schema) -> str:
    """Return which values a schema allows, without their bounds."""
    match schema:
        case {"$ref": ref}:
            name = ref.rpartition("/")[2]
            return f"[{name}](#{name.lower()})"
        case {"anyOf": alternatives}:
            return " or ".join(map(_type, alternatives))
        case {"enum": values}:
            return " or ".join(f"`{value}`" for value in values)
        case {"type": "array", "items": items}:
            return f"list of {_type(items)}"
        case {"type": "object", "additionalProperties": dict(values)}:
            return f"map of {_type(values)}"
    kind = str(schema.get("type", "any JSON"))
    return "map" if kind == "object" else kind


def _with_bounds(meaning: str, schema: Schema) -> str:
    """Add the constraints on a value to its meaning."""
    said = [meaning] if meaning else []
    for each in (schema, *schema.get("anyOf", ()), schema.get("items", {})):
        said += [
            text.format(_range(each.get(low), each.get(high)))
            for low, high, text in BOUNDS
            if {low, high} & set(each)
        ]
        if "pattern" in each:
            said.append(f"matches `{each['pattern']}`")
    if schema.get("default") not in (None, "", [], {}):
        said.append(f"`{json.dumps(schema['default'])}` by default")
    return "; ".join(said)


def _range(low: int | None, high: int | None) -> str:
    if low is None:
        return f"at most {high:,}"
    return f"at least {low:,}" if high is None else f"{low:,} to {high:,}"


def _row(*cells: str) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


if __name__ == "__main__":
    print(openapi_page(openapi_document(ROUTES, __version__, keyed=True)), end="")
