"""Whether a connection can work, check by check against the live provider, before a user finds out.

Nothing is changed there: the only token that is shown is made up, and whoever answers that it is no good has accepted the client.
No secret, token or text of the provider's own is in the findings; of its answers only status and error codes are.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from email.utils import parsedate_to_datetime
from enum import StrEnum
from typing import Any, Final, TypeVar
from urllib.parse import parse_qsl, urlsplit

from cab.domain.configured.connections import Connection, GrantKind, Provider
from cab.domain.configured.deployment import Deployment
from cab.encoding import strict_json
from cab.ports import AnswerTooLarge, Clock, HttpAnswer, HttpClient, NotFound, Randomness, SendFailed, Unavailable
from cab.protocol import token_responses
from cab.protocol.pkce import code_challenge
from cab.protocol.token_responses import TokenError
from cab.use_cases.upstream.provider_client import ProviderCalls

CLOCK_MAY_DIFFER: Final = timedelta(seconds=60)
_TIMEOUT_S: Final = 10.0
_CODE: Final = re.compile(r"[A-Za-z][A-Za-z0-9_.-]{0,63}")
_Result = TypeVar("_Result")
Why = Callable[[SendFailed], str]


class Holds(StrEnum):
    YES = "holds"
    NO = "does not hold"
    UNKNOWN = "not known"


@dataclass(frozen=True, slots=True)
class Finding:
    check: str
    holds: Holds
    says: str


class CheckConnection:
    """`why` turns a failed connection into words; `calls` has no way to a secret when the operator gave none."""

    def __init__(
        self,
        deployment: Deployment,
        http: HttpClient,
        calls: ProviderCalls | None,
        clock: Clock,
        randomness: Randomness,
        *,
        why: Why,
    ) -> None:
        self._deployment = deployment
        self._http = http
        self._calls = calls
        self._clock = clock
        self._randomness = randomness
        self._why = why

    async def __call__(self, connection: Connection) -> list[Finding]:
        """The findings in the order in which a connection needs them to hold. Raises nothing: what fails is a finding."""
        provider = self._deployment.provider_of(connection)
        by_consent = connection.grant_kind is GrantKind.AUTHORIZATION_CODE
        found = await self._metadata(connection, provider)
        if by_consent:
            found.append(await self._authorization(connection, provider))
        found += await self._token_endpoint(connection, provider)
        if by_consent and provider.userinfo_endpoint is not None:
            found.append(await self._userinfo(provider.userinfo_endpoint))
        if by_consent:
            found.append(await self._revocation(connection, provider))
        return found

    # --- what the provider publishes ---

    async def _metadata(self, connection: Connection, provider: Provider) -> list[Finding]:
        """RFC 8414 section 3 and OpenID Connect Discovery 1.0 section 4. A provider need not publish any."""
        name = "metadata"
        if provider.issuer is None:
            return [Finding(name, Holds.UNKNOWN, "the provider has no issuer here, so nothing published is compared")]
        says = ""
        for url in _metadata_urls(provider.issuer):
            answer = await self._sent(self._http.get(url, timeout_s=_TIMEOUT_S))
            if isinstance(answer, str):
                says = answer
                continue
            says = f"HTTP {answer.status}, no metadata"
            if answer.status == 200:
                try:
                    members = strict_json.load_object(answer.body)
                except strict_json.InvalidJson:
                    continue
                return [Finding(name, Holds.YES, "published"), *_compared(members, connection, provider)]
        return [Finding(name, Holds.UNKNOWN, says)]

    # --- what answers ---

    async def _authorization(self, connection: Connection, provider: Provider) -> Finding:
        """As the user's browser asks, without anybody logged in. Redirects are not followed."""
        name, redirect_uri = "authorization request", self.redirect_uri(connection)
        url = ProviderCalls.authorization_url(
            connection,
            provider,
            redirect_uri=redirect_uri,
            state=self._randomness.token(32),
            code_challenge=code_challenge(self._randomness.token(32)),
            scopes=tuple(dict.fromkeys((*provider.base_scopes, *connection.consent_scopes))),
        )
        answer = await self._sent(self._http.get(url, timeout_s=_TIMEOUT_S, max_bytes=2_000_000))
        if isinstance(answer, str):
            return Finding(name, Holds.NO, answer)
        location = answer.headers.get("location", "")
        if location.startswith(redirect_uri):
            code = dict(parse_qsl(urlsplit(location).query)).get("error", "")
            if code in ("login_required", "interaction_required"):
                return Finding(name, Holds.YES, "accepted, and the redirect URI is registered")
            return Finding(name, Holds.NO, f"the redirect URI is registered, but the answer is {_code(code)}")
        if answer.status < 400:
            return Finding(name, Holds.YES, f"HTTP {answer.status}: a page or a login; register {redirect_uri}")
        return Finding(name, Holds.NO, f"HTTP {answer.status}: is {redirect_uri} registered, and the client_id right?")

    async def _token_endpoint(self, connection: Connection, provider: Provider) -> list[Finding]:
        names = ("token endpoint", "client authentication", "clock")
        if self._calls is None:
            answer = await self._sent(
                self._http.post_form(
                    provider.token_endpoint or "", {"grant_type": "refresh_token"}, timeout_s=_TIMEOUT_S
                )
            )
        else:
            made_up = f"cab-connection-check-{self._randomness.token(16)}"
            answer = await self._sent(
                self._calls.refresh(connection, provider, refresh_token=made_up, scopes=(), timeout_s=_TIMEOUT_S)
            )
        if isinstance(answer, str):
            return [Finding(names[0], Holds.NO, answer), *(Finding(it, Holds.UNKNOWN, "no answer") for it in names[1:])]
        parsed = token_responses.parse(answer.body)
        code = parsed.code if isinstance(parsed, TokenError) else ""
        if answer.status >= 500 or answer.status in (404, 405) or (300 <= answer.status < 400):
            here = Finding(names[0], Holds.NO, f"HTTP {answer.status}: not what a token endpoint answers")
            client = Finding(names[1], Holds.UNKNOWN, "no answer of a token endpoint")
        else:
            here = Finding(names[0], Holds.YES, f"HTTP {answer.status}")
            client = _client(answer, code, provider) if self._calls else _not_tried(names[1])
        return [here, client, compared_clock(answer, self._clock)]

    async def _userinfo(self, url: str) -> Finding:
        headers = {"Authorization": f"Bearer cab-connection-check-{self._randomness.token(16)}"}
        answer = await self._sent(self._http.get(url, headers=headers, timeout_s=_TIMEOUT_S))
        if isinstance(answer, str):
            return Finding("userinfo endpoint", Holds.NO, answer)
        holds = Holds.YES if answer.status in (400, 401, 403) else Holds.NO
        wanted = "" if holds is Holds.YES else ": a made-up token should be refused with 401"
        return Finding("userinfo endpoint", holds, f"HTTP {answer.status}{wanted}")

    async def _revocation(self, connection: Connection, provider: Provider) -> Finding:
        """RFC 7009 section 2.2: 200 also for a token that is unknown."""
        name = "revocation"
        if provider.revocation.endpoint is None:
            return Finding(name, Holds.UNKNOWN, "no endpoint: disconnecting ends the access here only")
        if provider.revocation.blast_radius in ("user", "unknown"):
            ends = provider.revocation.blast_radius
            return Finding(name, Holds.UNKNOWN, f"never used: what one revocation ends is `{ends}`")
        if self._calls is None:
            return _not_tried(name)
        token = f"cab-connection-check-{self._randomness.token(16)}"
        answer = await self._sent(self._calls.revoke(connection, provider, token=token, hint="refresh_token"))
        if isinstance(answer, str):
            return Finding(name, Holds.NO, answer)
        holds = Holds.YES if 200 <= answer.status < 300 else Holds.UNKNOWN
        return Finding(name, holds, f"HTTP {answer.status} for a made-up token")

    def redirect_uri(self, connection: Connection) -> str:
        return f"{self._deployment.broker.origin}/connect/callback/{connection.id}"

    async def _sent(self, sending: Awaitable[_Result]) -> _Result | str:
        return await answer_or_words(sending, self._why)


async def answer_or_words(sending: Awaitable[_Result], why: Why) -> _Result | str:
    """The answer, or in words why there is none."""
    try:
        return await sending
    except SendFailed as error:
        return why(error)
    except AnswerTooLarge:
        return "the answer is too large"
    except NotFound:
        return "the client secret is not in Secret Manager under that name and version"
    except Unavailable as error:
        return f"{error.what} cannot be reached"


def compared_clock(answer: HttpAnswer, clock: Clock) -> Finding:
    """RFC 9110 section 6.6.1. The broker's clock is this machine's here."""
    try:
        theirs = parsedate_to_datetime(answer.headers.get("date", ""))
        apart = abs(theirs - clock.now())
    except (TypeError, ValueError):
        return Finding("clock", Holds.UNKNOWN, "the answer has no usable Date")
    holds = Holds.YES if apart <= CLOCK_MAY_DIFFER else Holds.NO
    return Finding("clock", holds, f"{int(apart.total_seconds())} s apart from this machine's")


def _metadata_urls(issuer: str) -> Iterator[str]:
    parts = urlsplit(issuer)
    yield f"{issuer.rstrip('/')}/.well-known/openid-configuration"
    yield f"{parts.scheme}://{parts.netloc}/.well-known/oauth-authorization-server{parts.path.rstrip('/')}"


def _compared(members: Mapping[str, Any], connection: Connection, provider: Provider) -> Iterator[Finding]:
    """What is published against what is configured. A member that is not there says nothing."""
    named = {
        "issuer": provider.issuer,
        "authorization_endpoint": provider.authorization_endpoint,
        "token_endpoint": provider.token_endpoint,
        "userinfo_endpoint": provider.userinfo_endpoint,
        "revocation_endpoint": provider.revocation.endpoint,
    }
    for name, configured in named.items():
        published = members.get(name)
        if isinstance(published, str) and configured is not None:
            same = published == configured
            says = "as published" if same else "the provider publishes another one"
            yield Finding(f"metadata: {name}", Holds.YES if same else Holds.NO, says)
    wanted = (*provider.base_scopes, *connection.consent_scopes)
    if missing := _missing(members, "scopes_supported", wanted):
        yield Finding("metadata: scopes", Holds.UNKNOWN, f"does not list {', '.join(missing)}")
    if _missing(members, "token_endpoint_auth_methods_supported", (provider.token_endpoint_auth_method,)):
        says = f"does not list {provider.token_endpoint_auth_method}"
        yield Finding("metadata: client authentication", Holds.NO, says)
    if provider.pkce != "unsupported" and _missing(members, "code_challenge_methods_supported", ("S256",)):
        yield Finding("metadata: PKCE", Holds.UNKNOWN, "does not list S256")


def _missing(members: Mapping[str, Any], name: str, wanted: tuple[str, ...]) -> list[str]:
    listed = members.get(name)
    return [item for item in wanted if item not in listed] if isinstance(listed, list) else []


def _client(answer: HttpAnswer, code: str, provider: Provider) -> Finding:
    """What an answer to a made-up refresh token says about who asked (RFC 6749 section 5.2)."""
    name = "client authentication"
    if code == "invalid_client":
        return Finding(
            name, Holds.NO, f"refused (HTTP {answer.status} invalid_client): client_id, secret or method is wrong"
        )
    if code == "unauthorized_client":
        return Finding(name, Holds.NO, "refused (unauthorized_client): the client may not use refresh tokens there")
    if code in provider.invalid_grant_errors:
        return Finding(name, Holds.YES, f"accepted: {code} is about the made-up token")
    return Finding(name, Holds.UNKNOWN, f"HTTP {answer.status} {_code(code)}".rstrip())


def _not_tried(name: str) -> Finding:
    return Finding(
        name, Holds.UNKNOWN, "not tried: the client secret was not read (--project, and the right to read it)"
    )


def _code(text: str) -> str:
    return text if _CODE.fullmatch(text) else "an error without a usable code"
