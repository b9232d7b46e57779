"""What every HTTP function does with a request before anybody looks at its content: method, media type, size, headers."""

from __future__ import annotations

import ipaddress
from functools import lru_cache
from typing import Final

import orjson
from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from cab.domain.errors import BrokerError, Reason
from cab.encoding.trace_context import TRACEPARENT, TraceContext, current, read_trace
from cab.ports import Randomness
from cab.protocol.oauth_errors import error_body, error_headers, status_of
from cab.use_cases.audit.auditor import RequestContext

MAX_BODY_BYTES: Final = 65_536
_TRACEPARENT: Final = TRACEPARENT.encode()
NO_STORE: Final = {"Cache-Control": "no-store", "Pragma": "no-cache"}
_NO_STORE_AS_SENT: Final = Headers(NO_STORE).raw
_IS_JSON: Final = (b"content-type", b"application/json")


def context_of(request: Request, randomness: Randomness) -> RequestContext:
    """A fresh `txn`, the platform's trace id and the caller's network, never its full address."""
    trace = current.get()
    return RequestContext(
        txn=randomness.token(16), caller_ip_prefix=_prefix(request), trace_id=trace.trace_id if trace else None
    )


def trace_of(request: Request) -> TraceContext | None:
    return read_trace(_header(request, _TRACEPARENT), _header(request, b"x-cloud-trace-context"))


def _prefix(request: Request) -> str | None:
    """/24 or /48 of the client as the load balancer saw it: the last but one entry it appends to X-Forwarded-For.

    The header's earlier entries are the sender's own words. Used for flood control and audit, never for a decision.
    """
    hops = [hop.strip() for hop in (_header(request, b"x-forwarded-for") or "").split(",") if hop.strip()]
    if not hops:
        host, _ = request.scope.get("client") or ("", 0)
        hops = [host]
    return _network(hops[-2] if len(hops) > 1 else hops[0])


@lru_cache(maxsize=1024)
def _network(text: str) -> str | None:
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return None
    return str(ipaddress.ip_network((address, 24 if address.version == 4 else 48), strict=False))


async def read_body(request: Request, *, media_type: str) -> bytes:
    """The body of a POST of the expected type. Raises: BrokerError METHOD_NOT_ALLOWED, UNSUPPORTED_MEDIA_TYPE, BODY_TOO_LARGE."""
    if request.method != "POST":
        raise BrokerError(Reason.METHOD_NOT_ALLOWED, "Use POST.")
    # Compared without parameters: some clients add a charset.
    if (_header(request, b"content-type") or "").partition(";")[0].strip().lower() != media_type:
        raise BrokerError(Reason.UNSUPPORTED_MEDIA_TYPE, f"Send {media_type}.")
    if _header(request, b"content-encoding") is not None:
        raise BrokerError(Reason.UNSUPPORTED_MEDIA_TYPE, "Send the body without content encoding.")
    return await bounded_body(request)


async def bounded_body(request: Request) -> bytes:
    """Raises: BrokerError BODY_TOO_LARGE; PARAMETER_INVALID where the caller goes away while it sends."""
    try:
        body = await received(request, most=MAX_BODY_BYTES)
    except ClientDisconnect as error:
        raise BrokerError(Reason.PARAMETER_INVALID, "The body did not come to its end.") from error
    if len(body) > MAX_BODY_BYTES:
        raise BrokerError(Reason.BODY_TOO_LARGE, "The body is larger than 64 KiB.")
    return body


async def received(request: Request, *, most: int) -> bytes:
    """The body, or its beginning where it is longer than `most`. Raises: ClientDisconnect where the caller goes away while it sends."""
    body = bytearray()
    while True:
        message = await request.receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        body += message.get("body", b"")
        if len(body) > most or not message.get("more_body", False):
            return bytes(body)


def _headers(request: Request, name: bytes) -> list[str]:
    """All of that name, which is in lower case. Starlette looks for each in a loop, and through an exception where there is none."""
    return [value.decode("latin-1") for other, value in request.scope["headers"] if other == name]


def _header(request: Request, name: bytes) -> str | None:
    """The first of that name."""
    for other, value in request.scope["headers"]:
        if other == name:
            text: str = value.decode("latin-1")
            return text
    return None


def single_header(request: Request, name: str) -> str | None:
    """A header that must not be repeated, nor joined with another by a comma on the way.

    Raises: BrokerError CLIENT_AUTHENTICATION_FAILED, for `dpop` DPOP_PROOF_INVALID (RFC 9449 section 4.3, check 1).
    """
    values = _headers(request, name.encode())
    if not values:
        return None
    if len(values) > 1 or "," in values[0]:
        reason = Reason.DPOP_PROOF_INVALID if name == "dpop" else Reason.CLIENT_AUTHENTICATION_FAILED
        raise BrokerError(reason, f"The header {name} is repeated.")
    return values[0]


def hardening(*, https: bool) -> dict[str, str]:
    """Headers that every answer has, JSON too. `https` is whether the public origin is: on http, HSTS must not be said."""
    headers = {"X-Content-Type-Options": "nosniff"}
    return headers | {"Strict-Transport-Security": "max-age=31536000"} if https else headers


def refusal_response(refusal: BrokerError, *, txn: str, tried_basic: bool = False) -> Response:
    """The JSON error of RFC 6749 section 5.2."""
    headers = NO_STORE | {"CAB-Txn": txn} | error_headers(refusal, tried_basic=tried_basic)
    if refusal.reason is Reason.METHOD_NOT_ALLOWED:
        headers["Allow"] = "POST"
    return Response(
        orjson.dumps(error_body(refusal, txn=txn)),
        status_code=status_of(refusal.reason),
        media_type="application/json",
        headers=headers,
    )


class JsonAnswer(Response):
    """JSON that nobody stores, or nothing; its headers written as they go out, which Starlette makes of text each time."""

    def __init__(self, body: bytes, *, status: int, txn: str) -> None:
        self.status_code, self.body, self.background = status, body, None
        self.raw_headers = [*_NO_STORE_AS_SENT, (b"cab-txn", txn.encode("latin-1"))]
        if status != 204:
            self.raw_headers.append((b"content-length", b"%d" % len(body)))
        if body:
            self.raw_headers.append(_IS_JSON)


def health(txn: str | None = None) -> Response:
    """No secrets, no details of dependencies."""
    headers = {"Cache-Control": "no-store"} | ({} if txn is None else {"CAB-Txn": txn})
    return Response(b'{"status":"ok"}', media_type="application/json", headers=headers)
