"""The request that an intent becomes: a pure function of the catalog entry and the intent, and of nothing else.

What the user approves, what is decided and what is sent are this same value: `digest` says so in the approval, in the attempt
and in the outcome.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final
from urllib.parse import quote, urlencode, urlsplit

from cab.domain.configured.actions import Action, Effect
from cab.domain.configured.calls import ID, Call, Json, McpCall, placeholder
from cab.domain.configured.connections import Connection
from cab.domain.errors import BrokerError, Reason
from cab.domain.identifiers import base64url
from cab.domain.intents import Intent
from cab.encoding.canonical_json import canonical

JSON: Final = "application/json"
FORM: Final = "application/x-www-form-urlencoded"
_ABSENT: Final = object()
_SEPARATORS: Final = re.compile(r"[/\\;]")  # the last one is where some servers end a segment's name


@dataclass(frozen=True)
class RenderedCall:
    """One request, whole but for the token. `path_template` is the catalog's own path, without values."""

    method: str
    url: str
    content_type: str | None
    body: bytes | None
    headers: tuple[tuple[str, str], ...]
    path_template: str

    @cached_property
    def digest(self) -> str:
        """`request_digest`: SHA-256 over the RFC 8785 form of method, URL, content type and the body's SHA-256."""
        body_sha256 = base64url(hashlib.sha256(self.body or b"").digest())
        named = {"method": self.method, "url": self.url, "content_type": self.content_type, "body_sha256": body_sha256}
        return "sha-256:" + base64url(hashlib.sha256(canonical(named)).digest())

    @property
    def host(self) -> str:
        return urlsplit(self.url).netloc

    @property
    def size(self) -> int:
        """Bytes of URL and body."""
        return len(self.url) + len(self.body or b"")


def render(action: Action, connection: Connection, intent: Intent) -> RenderedCall:
    """The request for this intent. Different intents of an action give different requests; none leaves the API's base.

    Raises: BrokerError CALL_NOT_CONFIGURED.
    """
    call = action.call
    if call is None or isinstance(call, McpCall) != (connection.mcp is not None):
        raise BrokerError(Reason.CALL_NOT_CONFIGURED, "The broker does not make calls of this action.")
    values: dict[str, Any] = dict(intent.parameters)
    if action.identifier.endswith("{id}"):
        values[ID] = intent.identifier.removeprefix(action.identifier.removesuffix("{id}"))
    if isinstance(call, McpCall):
        return _tool_call(call, connection, values)
    base = (connection.api_base or connection.resource).rstrip("/")
    url = base + _path(call.path, values) + _query(call.query, values)
    body = _body(call, values)
    content_type = None if body is None else FORM if call.encoding == "form" else JSON
    return RenderedCall(call.method.value, url, content_type, body, tuple(call.headers.items()), call.path)


def repeats_safely(action: Action) -> bool:
    """Whether a second call does no harm: it only reads, or the platform knows a repetition by its key."""
    return action.effect is Effect.READ or is_keyed(action)


def is_keyed(action: Action) -> bool:
    """Whether the platform knows a repetition by a key. There is none for tools of MCP servers."""
    return isinstance(action.call, Call) and action.call.idempotency_key is not None


def _tool_call(call: McpCall, connection: Connection, values: Mapping[str, Any]) -> RenderedCall:
    """The message as the protocol has it, without what each sending adds: its id, the version and `_meta`."""
    assert connection.mcp is not None  # noqa: S101  # `render` looked
    endpoint = connection.mcp.endpoint
    message: dict[str, Any] = {
        "method": "tools/call",
        "params": {"name": call.tool, "arguments": _filled(call.arguments, values)},
    }
    return RenderedCall("POST", endpoint, JSON, canonical(message), (), urlsplit(endpoint).path or "/")


def _path(path: str, values: Mapping[str, Any]) -> str:
    """Values become one segment each: nothing in them can end it, and none can be `.` or `..`."""
    segments = []
    for segment in path.split("/"):
        name = placeholder(segment)
        segments.append(segment if name is None else _segment(values.get(name, "")))
    return "/".join(segments)


def _segment(value: Any) -> str:
    text = _text(value)
    # Empty, `.` and `..` would be another path (RFC 3986 section 6.2.2.3), and so are dots between separators where a proxy decodes
    # these before it looks for dots. Catalogs are held to the same.
    if text.strip(".") == "" or not {".", ".."}.isdisjoint(_SEPARATORS.split(text)):
        raise BrokerError(
            Reason.INTENT_MALFORMED, "A value in a path must not be empty or dots, nor a part of it dots."
        )
    return quote(text, safe="")


def _query(query: Mapping[str, Any], values: Mapping[str, Any]) -> str:
    pairs = []
    for name, given in query.items():
        value = _filled(given, values)
        if value is _ABSENT:
            continue
        pairs += [(name, _text(item)) for item in (value if isinstance(value, list | tuple) else [value])]
    return "?" + urlencode(pairs, quote_via=quote) if pairs else ""


def _body(call: Call, values: Mapping[str, Any]) -> bytes | None:
    if call.body is None:
        return None
    content = _filled(call.body, values)
    if call.encoding == "form":
        return urlencode([(name, _text(value)) for name, value in content.items()], quote_via=quote).encode()
    return canonical({} if content is _ABSENT else content)


def _filled(given: Json, values: Mapping[str, Any]) -> Any:
    """The value with each placeholder replaced by its parameter, whole and of its own type. Absent members are left out."""
    if isinstance(given, dict):
        filled = {name: _filled(value, values) for name, value in given.items()}
        return {name: value for name, value in filled.items() if value is not _ABSENT}
    if isinstance(given, list):
        return [value for item in given if (value := _filled(item, values)) is not _ABSENT]
    name = placeholder(given)
    return given if name is None else values.get(name, _ABSENT)


def _text(value: Any) -> str:
    return ("true" if value else "false") if isinstance(value, bool) else str(value)
