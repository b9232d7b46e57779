"""What a person's browser sends: cookies, queries, and forms that must come from a page of ours."""

from __future__ import annotations

import hmac
import re
from collections.abc import Awaitable, Collection, Mapping
from dataclasses import field, replace
from typing import Final

from starlette.requests import Request
from starlette.responses import Response

from cab.domain.errors import BrokerError, Reason, Remedy, invalid_parameter
from cab.ports import Randomness
from cab.protocol.forms import parse_form, parse_query
from cab.protocol.names import FORM_MEDIA_TYPE
from cab.stores.sessions import Session
from cab.transport.requests import read_body
from cab.use_cases.audit.auditor import Facts, RequestContext
from cab.use_cases.people.approvals import Stored
from cab.use_cases.people.connect import Visitor
from cab.values import mutable

MAX_QUERY_BYTES: Final = 8192
_COOKIE_VALUE: Final = re.compile(r"[A-Za-z0-9_-]{43}")
# `str.strip` takes away more than RFC 6265 section 5.2 does. Browsers let any host of our domain set "\xa0__Host-cab_session": to
# them, that is no name of the prefix which nobody but our own host can set.
_COOKIE_SPACE: Final = " \t"


@mutable
class Visit:
    """One request on its way. `query` holds what the page reads, `names` the name of every parameter of the address.

    `session` and `cookie` are both there or both absent.
    """

    request: Request
    context: RequestContext
    facts: Facts
    name: str  # the last part of the path, where a route has one
    query: Mapping[str, str] = field(default_factory=dict)
    names: frozenset[str] = frozenset()
    session: Session | None = None
    cookie: str | None = None
    approval: Awaitable[Stored] | None = None  # of a route that shows one

    @property
    def visitor(self) -> Visitor | None:
        return None if self.session is None else Visitor.of(self.session)


class Cookies:
    """The two kinds of cookies: one binds logins on their way to their browser, one is the session. Only ever compared as hashes.

    Tabs that are opened at once each begin a login before any answer has set a cookie: each then gets a binding under a name of
    its own, or the last one would undo the others. Where there is a binding already, it is used again.
    """

    def __init__(self, *, https: bool) -> None:
        self._https = https
        prefix = "__Host-" if https else ""  # browsers keep cookies of that name over https only, also on loopback
        self.session = f"{prefix}cab_session"
        self.login = f"{prefix}cab_login"

    @staticmethod
    def read(request: Request, name: str) -> str | None:
        """The value of a cookie of ours; none when it is repeated or does not look like ours."""
        values = [value for key, value in _pairs(request) if key == name]
        return values[0] if len(values) == 1 and _COOKIE_VALUE.fullmatch(values[0]) else None

    def bindings(self, request: Request) -> dict[str, str]:
        """What binds logins to this browser, by cookie name; more than one after logins that began at once."""
        named = {name for name, _ in _pairs(request) if name.startswith(self.login)}
        found = {name: self.read(request, name) for name in sorted(named)}
        return {name: value for name, value in found.items() if value is not None}

    def binding(self, request: Request, randomness: Randomness) -> tuple[str, str]:
        """Name and value of the cookie for a login that begins."""
        known = self.bindings(request)
        return next(iter(known.items()), (f"{self.login}_{randomness.token(6)}", randomness.token(32)))

    def put(self, answer: Response, name: str, value: str, *, max_age_s: int) -> None:
        # Lax: the answers of identity and other providers arrive by links from their sites.
        answer.set_cookie(name, value, max_age=max_age_s, path="/", secure=self._https, httponly=True, samesite="lax")

    def drop(self, answer: Response, name: str) -> None:
        answer.delete_cookie(name, path="/", secure=self._https, httponly=True, samesite="lax")


def _pairs(request: Request) -> list[tuple[str, str]]:
    """The names and values of all cookies that came."""
    parts = (part.partition("=") for header in request.headers.getlist("cookie") for part in header.split(";"))
    return [(name.strip(_COOKIE_SPACE), value.strip(_COOKIE_SPACE)) for name, _, value in parts]


def read_query(request: Request, wanted: Collection[str]) -> tuple[dict[str, str], frozenset[str]]:
    """As `parse_query`. Raises: BrokerError as that does; PARAMETER_INVALID when it is too long."""
    raw = request.scope.get("query_string", b"")
    if len(raw) > MAX_QUERY_BYTES:
        raise invalid_parameter("query")
    return parse_query(raw, wanted)


async def read_own_form(visit: Visit, *, origin: str, way_on: str) -> dict[str, str]:
    """The form of a page of ours, sent from that page by the person it was shown to. `way_on` is the page to start from again.

    Raises: BrokerError STEP_UP_REQUIRED without a session; CSRF_INVALID; as `read_body` and `parse_form`.
    """
    form = parse_form(await read_body(visit.request, media_type=FORM_MEDIA_TYPE))
    if visit.session is None:
        raise login_needed(origin + way_on)
    headers = visit.request.headers
    # `null` is what browsers send from a page with `Referrer-Policy: no-referrer`: it says nothing.
    elsewhere = headers.get("origin", "null") not in ("null", origin)
    cross_site = headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none")
    token = form.pop("csrf", "")
    if elsewhere or cross_site or not hmac.compare_digest(token.encode(), visit.session.csrf.encode()):
        raise with_way_on(
            BrokerError(Reason.CSRF_INVALID, "The form is not from a page shown to you."), origin + way_on
        )
    return form


def login_needed(uri: str) -> BrokerError:
    return BrokerError(Reason.STEP_UP_REQUIRED, "A fresh login is needed.", remedy=Remedy(interaction_uri=uri))


def with_way_on(error: BrokerError, uri: str) -> BrokerError:
    """The same refusal, with the page to go on from."""
    return BrokerError(error.reason, error.detail, remedy=replace(error.remedy, interaction_uri=uri))
