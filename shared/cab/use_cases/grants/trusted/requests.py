"""Asking a provider for a token on the organisation's trust: a JWT for the user out, an access token with exact scopes back.

RFC 7523 section 2.1 (`jwt_bearer`, and `id_jag` with an ID-JAG of our STS) and RFC 8693 (`token_exchange`). Each request is
sent once, and nothing of it is kept; a refresh token that comes along unasked is dropped with the answer.
"""

from __future__ import annotations

import json
from dataclasses import field
from typing import Any, Final
from urllib.parse import quote

from cab.domain.configured.connections import Connection, GrantKind, Provider
from cab.domain.errors import BrokerError, Reason
from cab.domain.grants import Timings
from cab.ports import Clock, HttpAnswer, Randomness, SecretReader, Unavailable
from cab.protocol import names
from cab.protocol.jose import jwk, jws
from cab.use_cases.upstream.answers import Granted, UserRefused, Wish, read_answer, sent_in_time
from cab.use_cases.upstream.provider_client import ProviderCalls
from cab.values import immutable

ASSERTION_LIFE_S: Final = 180  # the longest that Salesforce accepts
_SUBJECT_TOKEN_TYPES: Final = {"jwt": names.JWT_TYPE, "id_token": names.ID_TOKEN_TYPE}
# RFC 8693 section 2.2.2 has invalid_request for a subject token that is not accepted; others say invalid_grant.
_SUBJECT_TOKEN_REFUSED: Final = "invalid_request"


@immutable
class TrustedRequest:
    """What one request is about: the user as the provider knows them, and where our STS vouches the JWT that says so."""

    connection: Connection
    provider: Provider
    user: str
    scopes: tuple[str, ...]
    subject_token: str | None = field(default=None, repr=False)

    @property
    def named_scopes(self) -> tuple[str, ...]:
        """The scopes that the request names: none where the provider takes no wishes."""
        bearer = self.connection.grant_kind is GrantKind.JWT_BEARER
        return () if bearer and self.provider.assertion_scope == "none" else self.scopes

    @property
    def wish(self) -> Wish:
        exchange = self.connection.grant_kind is GrantKind.TOKEN_EXCHANGE
        refusals = {*self.provider.invalid_grant_errors, *([_SUBJECT_TOKEN_REFUSED] if exchange else [])}
        return Wish(self.connection, self.provider, self.scopes, self.named_scopes, frozenset(refusals))


class TrustedRequests:
    def __init__(
        self, calls: ProviderCalls, keys: SecretReader, clock: Clock, randomness: Randomness, timings: Timings
    ) -> None:
        self._calls = calls
        self._keys = keys
        self._clock = clock
        self._randomness = randomness
        self._timings = timings

    async def __call__(self, asked: TrustedRequest) -> Granted:
        """Raises: BrokerError GRANT_NEEDS_REAUTH, SCOPE_NOT_GRANTABLE, PROVIDER_UNAVAILABLE; Unavailable."""
        sent_at = self._clock.now()
        answer = await sent_in_time(self._send(asked), longest=self._timings.provider_timeout)
        try:
            return read_answer(answer, asked.wish, sent_at)
        except UserRefused:
            raise BrokerError(
                Reason.GRANT_NEEDS_REAUTH,
                "The connected system does not accept this user; the organisation must allow it.",
            ) from None

    async def _send(self, asked: TrustedRequest) -> HttpAnswer:
        try:
            form = await self._form(asked)
        except jwk.InvalidKey as error:
            raise Unavailable("secrets") from error
        # The JWT is the proof: the client authenticates beside it only where there is a secret (RFC 7521 section 4.1).
        return await self._calls.present(
            asked.connection,
            asked.provider,
            form,
            with_client=asked.connection.client_secret is not None,
            timeout_s=self._timings.provider_timeout.total_seconds(),
        )

    async def _form(self, asked: TrustedRequest) -> dict[str, str]:
        kind = asked.connection.grant_kind
        match kind:
            case GrantKind.JWT_BEARER:
                form = await self._bearer_form(asked)
            case GrantKind.ID_JAG:
                form = _id_jag_form(asked)
            case _:
                form = _exchange_form(asked)
        if asked.named_scopes and not (kind is GrantKind.JWT_BEARER and asked.provider.assertion_scope == "claim"):
            form["scope"] = _scope(asked)
        return form

    async def _bearer_form(self, asked: TrustedRequest) -> dict[str, str]:
        connection, provider = asked.connection, asked.provider
        reference = connection.assertion_key
        if reference is None:
            raise Unavailable("secrets")
        kid, key = jwk.parse_private(await self._keys.access(reference.secret, reference.version))
        issued_at = int(self._clock.now().timestamp())
        claims: dict[str, Any] = {
            "iss": connection.client_id,
            "sub": asked.user,
            "aud": provider.assertion_audience or provider.token_endpoint,
            "iat": issued_at,
            "exp": issued_at + ASSERTION_LIFE_S,
            "jti": self._randomness.token(16),
        }
        if asked.named_scopes and provider.assertion_scope == "claim":
            claims["scope"] = _scope(asked)
        return {
            "grant_type": names.JWT_BEARER,
            "assertion": jws.sign(claims, typ="JWT", kid=kid, private_key=key),
        }


def _id_jag_form(asked: TrustedRequest) -> dict[str, str]:
    """The server must know its client, which the ID-JAG names: where no secret does it, the request says who asks."""
    connection = asked.connection
    form = {"grant_type": names.JWT_BEARER, "assertion": asked.subject_token or ""}
    return form if connection.client_secret else form | {"client_id": connection.client_id or ""}


def _exchange_form(asked: TrustedRequest) -> dict[str, str]:
    provider = asked.provider
    form = {
        "grant_type": names.TOKEN_EXCHANGE,
        "audience": provider.exchange_audience or "",
        "requested_token_type": names.ACCESS_TOKEN_TYPE,
        "subject_token": asked.subject_token or "",
        "subject_token_type": _SUBJECT_TOKEN_TYPES[provider.subject_token_type],
    }
    if provider.exchange_options:
        # Google's own library percent-encodes the JSON before the form is encoded once more.
        form["options"] = quote(json.dumps(provider.exchange_options))
    return form


def _scope(asked: TrustedRequest) -> str:
    return asked.provider.scope_separator.join(asked.named_scopes)
