"""The OpenAPI document as one page of HTML."""

from __future__ import annotations

from html import escape
from typing import Any

_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
code, .path { font-family: ui-monospace, monospace; font-size: 0.95em; }
h2 { margin-top: 2.5rem; border-top: 1px solid #8884; padding-top: 1rem; font-size: 1.1rem; }
.method { text-transform: uppercase; font-weight: 700; margin-right: 0.5rem; }
table { border-collapse: collapse; width: 100%; } td { padding: 0.15rem 0.75rem 0.15rem 0; vertical-align: top; }
td:first-child { white-space: nowrap; } .note { opacity: 0.7; }
"""


def contract_page(document: dict[str, Any]) -> str:
    """All operations with their fields and replies."""
    info = document["info"]
    schemas = document["components"]["schemas"]
    parts = [
        _operation(method, path, operation, schemas)
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    ]
    title = escape(f"{info['title']} {info['version']}")
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        f'<meta name="viewport" content="width=device-width"><style>{_STYLE}</style></head><body>'
        f'<h1>{title}</h1><p>{escape(info["description"])} <a href="openapi.json">openapi.json</a></p>'
        f"{''.join(parts)}</body></html>"
    )


def _operation(method: str, path: str, operation: dict[str, Any], schemas: dict[str, Any]) -> str:
    rows = [(p["name"], f"{p['in']}; {_kind(p['schema'], schemas)}") for p in operation.get("parameters", [])]
    for content in operation.get("requestBody", {}).get("content", {}).values():
        schema = _resolved(content["schema"], schemas)
        required = schema.get("required", [])
        for name, field in schema["properties"].items():
            kind = f"{_kind(field, schemas)}{', required' if name in required else ''}"
            rows.append((name, f"{kind}. {field.get('description', '')}".strip()))
    replies = [row for status, reply in operation["responses"].items() for row in _reply_rows(status, reply)]
    return (
        f'<h2><span class="method">{method}</span><span class="path">{escape(path)}</span></h2>'
        f"<p>{escape(operation['summary'])}</p>{_table(rows)}{_table(replies)}"
    )


def _resolved(schema: dict[str, Any], schemas: dict[str, Any]) -> dict[str, Any]:
    resolved: dict[str, Any] = schemas[schema["$ref"].rsplit("/", 1)[1]] if "$ref" in schema else schema
    return resolved


def _kind(schema: dict[str, Any], schemas: dict[str, Any]) -> str:
    """A few words on what a field takes."""
    if "anyOf" in schema:
        return " or ".join(_kind(option, schemas) for option in schema["anyOf"] if option.get("type") != "null")
    if "$ref" in schema:
        return f"an object of {', '.join(_resolved(schema, schemas)['properties'])}"
    if "pattern" in schema:
        return f"{schema['type']} such as {schema['pattern']}"
    if "enum" in schema:
        return " | ".join(map(str, schema["enum"]))
    limits = [f"{sign}{schema[key]}" for key, sign in (("minimum", ">= "), ("maximum", "<= ")) if key in schema]
    default = [f"default {schema['default']}"] if schema.get("default") not in (None, "") else []
    return ", ".join([schema.get("format") or schema.get("type", "any"), *limits, *default])


def _reply_rows(status: str, reply: dict[str, Any]) -> list[tuple[str, str]]:
    headers = reply.get("headers", {}).items()
    return [
        (status, reply["description"] + _named(reply)),
        *((name, f"header; {header['description']}") for name, header in headers),
    ]


def _named(reply: dict[str, Any]) -> str:
    content = next(iter(reply.get("content", {}).values()), None)
    ref = (content or {}).get("schema", {}).get("$ref", "")
    return f": {ref.rsplit('/', 1)[1]}" if ref else ""


def _table(rows: list[tuple[str, str]]) -> str:
    cells = "".join(f"<tr><td><code>{escape(a)}</code></td><td>{escape(b)}</td></tr>" for a, b in rows)
    return f"<table>{cells}</table>" if rows else ""
