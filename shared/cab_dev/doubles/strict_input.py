"""Reading requests strictly: each name once, small, UTF-8, not too deep. What does not fit is the caller's mistake."""

import base64
import binascii
import json
from collections.abc import Mapping, Sequence
from typing import Any, cast
from urllib.parse import parse_qsl, unquote_plus

from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response

MAX_BODY_BYTES = 64 * 1024
MAX_FIELDS = 50
MAX_JSON_DEPTH = 20


class BadRequest(Exception):
    """The caller's mistake: becomes a JSON error answer. `description` is shown, so it never quotes the input."""

    def __init__(
        self,
        error: str,
        description: str,
        *,
        status: int = 400,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(error)
        self.error = error
        self.description = description
        self.status = status
        self.headers = dict(headers or {})

    def response(self) -> Response:
        body = {"error": self.error, "error_description": self.description}
        return JSONResponse(body, status_code=self.status, headers=self.headers)


async def read_body(request: Request) -> bytes:
    """The whole body, at most 64 KiB (413 above)."""
    body = bytearray()
    try:
        async for chunk in request.stream():
            body += chunk
            if len(body) > MAX_BODY_BYTES:
                raise BadRequest("invalid_request", "The body is larger than 64 KiB.", status=413)
    except ClientDisconnect as exc:
        raise BadRequest("invalid_request", "The body ended early.") from exc
    return bytes(body)


def _require_media_type(request: Request, wanted: str) -> None:
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type != wanted:
        raise BadRequest("invalid_request", f"The body must be {wanted}.", status=415)


def _single_values(pairs: Sequence[tuple[str, str]]) -> dict[str, str]:
    values = dict(pairs)
    if len(values) != len(pairs):
        raise BadRequest("invalid_request", "A parameter is repeated.")
    return values


def _parse_urlencoded(raw: bytes) -> dict[str, str]:
    try:
        pairs = parse_qsl(raw.decode("ascii"), keep_blank_values=True, errors="strict", max_num_fields=MAX_FIELDS)
    except ValueError as exc:
        raise BadRequest("invalid_request", "The parameters are not readable.") from exc
    return _single_values(pairs)


async def read_form(request: Request) -> dict[str, str]:
    """The form fields of the body, each name once. Query parameters are never mixed in."""
    _require_media_type(request, "application/x-www-form-urlencoded")
    return _parse_urlencoded(await read_body(request))


def read_query(request: Request) -> dict[str, str]:
    """The query parameters, each name once."""
    return _parse_urlencoded(request.scope["query_string"])


def _refuse_constant(_: str) -> Any:
    raise ValueError("NaN and Infinity are not JSON")


def _refuse_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise ValueError("a member is repeated")
    return members


def _depth_of(raw: bytes) -> int:
    """Deepest nesting of brackets, counted before parsing; brackets inside strings only make it stricter."""
    depth = deepest = 0
    for byte in raw:
        if byte in b"[{":
            depth += 1
            deepest = max(deepest, depth)
        elif byte in b"]}":
            depth -= 1
    return deepest


async def read_json_object(request: Request) -> dict[str, Any]:
    """The body as one JSON object: UTF-8, no repeated members, no NaN, at most 20 levels deep."""
    _require_media_type(request, "application/json")
    raw = await read_body(request)
    if _depth_of(raw) > MAX_JSON_DEPTH:
        raise BadRequest("invalid_request", "The JSON is nested too deeply.")
    try:
        value = json.loads(raw.decode("utf-8"), parse_constant=_refuse_constant, object_pairs_hook=_refuse_duplicates)
        json.dumps(value, ensure_ascii=False).encode("utf-8")  # a lone surrogate parses but cannot be stored
    except ValueError as exc:
        raise BadRequest("invalid_request", "The body is not valid JSON.") from exc
    if not isinstance(value, dict):
        raise BadRequest("invalid_request", "The body must be a JSON object.")
    return cast(dict[str, Any], value)


def basic_credentials(request: Request) -> tuple[str, str] | None:
    """Client id and secret of an HTTP Basic header, form-decoded as RFC 6749 section 2.3.1 asks, or None."""
    values = request.headers.getlist("authorization")
    if len(values) != 1:
        return None
    scheme, _, encoded = values[0].partition(" ")
    if scheme.lower() != "basic":
        return None
    try:
        user, colon, password = base64.b64decode(encoded.strip(), validate=True).decode("utf-8").partition(":")
        return (unquote_plus(user, errors="strict"), unquote_plus(password, errors="strict")) if colon else None
    except (binascii.Error, ValueError):
        return None
