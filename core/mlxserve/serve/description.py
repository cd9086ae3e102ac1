"""The API as OpenAPI JSON, and as a page that loads nothing and runs no script."""

from collections.abc import Iterator, Mapping
from html import escape
from typing import Any, Final

from litestar import Router
from litestar.connection import ASGIConnection
from litestar.openapi import OpenAPIConfig
from litestar.openapi.plugins import JsonRenderPlugin, OpenAPIRenderPlugin

from mlxserve_hookspecs import Admission, Credentials

PATH: Final = "/schema"
HEADERS: Final = {
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
VERBS: Final = ("get", "post", "put", "patch", "delete")
STYLE: Final = """
:root { color-scheme: light dark; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
summary { cursor: pointer; padding: .4rem 0; overflow-wrap: anywhere; }
summary span { opacity: .75; }
details { border-top: 1px solid #8884; } details > :not(summary) { margin-left: 1rem; }
code { font-family: ui-monospace, monospace; } b.verb { display: inline-block; min-width: 4rem; }
table { border-collapse: collapse; display: block; overflow-x: auto; margin: .5rem 0 1rem; }
td, th { text-align: left; vertical-align: top; padding: .2rem 1rem .2rem 0; }
"""

Schema = Mapping[str, Any]


def description(title: str, version: str, admission: Admission) -> OpenAPIConfig:
    """Return how the API is described, to whom the server's routes are open."""

    def authenticate(connection: ASGIConnection[Any, Any, Any, Any], _: Any) -> None:
        client = connection.client
        credentials = Credentials(
            headers=dict(connection.headers.items()),
            path=connection.url.path,
            client=client.host if client else "",
        )
        admission.authenticate(credentials)

    return OpenAPIConfig(
        title=title,
        version=version,
        use_handler_docstrings=True,
        render_plugins=[Page(path="/"), JsonRenderPlugin()],
        openapi_router=Router(
            PATH,
            route_handlers=[],
            guards=[authenticate],
            include_in_schema=False,
            response_headers=HEADERS,
        ),
    )


class Page(OpenAPIRenderPlugin):
    """Renders the description as a page for people."""

    def render(self, _: Any, openapi_schema: dict[str, Any]) -> bytes:
        """Return the page."""
        return page_of(openapi_schema).encode()


def page_of(schema: Schema) -> str:
    """Return an OpenAPI document as a page."""
    title = escape(f"{schema['info']['title']} {schema['info']['version']}")
    parts = [
        "<!doctype html><html lang=en><meta charset=utf-8>",
        "<meta name=viewport content='width=device-width, initial-scale=1'>",
        f"<title>{title}</title><style>{STYLE}</style><h1>{title}</h1>",
        f"<p>For programs: <a href='{PATH}/openapi.json'>openapi.json</a></p>",
    ]
    for tag, operations in _by_tag(schema).items():
        parts += [f"<h2>{escape(tag)}</h2>", *operations]
    return "".join(parts)


def _by_tag(schema: Schema) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for path, item in schema.get("paths", {}).items():
        for verb in VERBS:
            if verb in item:
                tag = (item[verb].get("tags") or ["Other"])[0]
                found.setdefault(tag, []).append(_operation(verb, path, item[verb], schema))
    return found


def _operation(verb: str, path: str, operation: Schema, schema: Schema) -> str:
    about = operation.get("description") or operation.get("summary") or ""
    body = operation.get("requestBody", {}).get("content", {})
    media: Schema = next(iter(body.values()), {})
    parts = [
        f"<details><summary><b class=verb>{verb.upper()}</b> <code>{escape(path)}</code> ",
        f"<span>{escape(about.partition('. ')[0])}</span></summary><p>{escape(about)}</p>",
        _table("Parameters", _parameters(operation)),
        _table("Body", _fields(media.get("schema", {}), schema)),
        _table("Answers", _answers(operation)),
        "</details>",
    ]
    return "".join(parts)


def _parameters(operation: Schema) -> Iterator[tuple[str, str, str]]:
    for one in operation.get("parameters", ()):
        where = f"in {one['in']}" + (", required" if one.get("required") else "")
        yield one["name"], where, one.get("description", "")


def _answers(operation: Schema) -> Iterator[tuple[str, str, str]]:
    for status, answer in operation.get("responses", {}).items():
        yield status, "", answer.get("description", "")


def _fields(body: Schema, schema: Schema) -> Iterator[tuple[str, str, str]]:
    for option in body.get("oneOf") or body.get("anyOf") or (body,):
        found = _resolved(option, schema)
        required = found.get("required", ())
        for name, field in found.get("properties", {}).items():
            kind = _kind(field) + (", required" if name in required else "")
            yield name, kind, field.get("description", "")


def _kind(field: Schema) -> str:
    options = field.get("oneOf") or field.get("anyOf")
    if options:
        return " or ".join(dict.fromkeys(map(_kind, options)))
    if "$ref" in field:
        return str(field["$ref"]).rpartition("/")[2].rpartition("_")[2]
    if "enum" in field:
        return ", ".join(map(str, field["enum"]))
    if field.get("type") == "array":
        return f"list of {_kind(field.get('items', {}))}"
    return str(field.get("type", "anything"))


def _resolved(schema: Schema, whole: Schema) -> Schema:
    name = str(schema.get("$ref", "")).rpartition("/")[2]
    found: Schema = whole.get("components", {}).get("schemas", {}).get(name, schema)
    return found


def _table(title: str, rows: Iterator[tuple[str, str, str]]) -> str:
    lines = "".join(
        f"<tr><td><code>{escape(name)}</code><td>{escape(kind)}<td>{escape(about)}"
        for name, kind, about in rows
    )
    return f"<h4>{title}</h4><table>{lines}</table>" if lines else ""
