"""Asking a provider for a token on the organisation's trust: a JWT for the user out, an access token with exact scopes back.

RFC 7523 section 2.1 (`jwt_bearer`) and RFC 8693 (`token_exchange`). Each request is sent once, and nothing of it is kept.
"""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Final
from urllib.parse import quote

from cab.domain.connections import Connection, GrantKind, Provider
from cab.domain.errors import BrokerError, Reason, Remedy
from cab.domain.grants import Timings
from cab.ports import AnswerTooLarge, Clock, HttpAnswer, NotFound, Randomness, SecretReader, SendFailed, Unavailable
from cab.protocol import jwk, jws, names, token_responses
from cab.protocol.token_responses import UNKNOWN_LIFETIME, TokenError
from cab.use_cases.provider_calls import ProviderCalls

ASSERTION_LIFE_S: Final = 180  # the longest that Salesforce accepts
LONGEST_PAUSE_S: Final = 60
_PAUSE_S: Final = 2
_SUBJECT_TOKEN_TYPES: Final = {"jwt": names.JWT_TYPE, "id_token": names.ID_TOKEN_TYPE}
# RFC 8693 section 2.2.2 has invalid_request for a subject token that is not accepted; others say invalid_grant.
_SUBJECT_TOKEN_REFUSED: Final = "invalid_request"


@dataclass(frozen=True, slots=True)
class Granted:
    """An access token of the provider and what it is good for. `narrowed`: for nothing beyond the scopes asked for."""

    access_token: str = field(repr=False)
    scopes: tuple[str, ...]
    narrowed: bool
    expires_at: datetime
    usable_until: datetime  # from then on a new one is asked for


@dataclass(frozen=True, slots=True)
class Asked:
    """What one request is about: the user as the provider knows them, and for a token exchange the JWT that says so."""

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


class TrustedRequests:
    def __init__(
        self, calls: ProviderCalls, keys: SecretReader, clock: Clock, randomness: Randomness, timings: Timings
    ) -> None:
        self._calls = calls
        self._keys = keys
        self._clock = clock
        self._randomness = randomness
        self._timings = timings

    async def __call__(self, asked: Asked) -> Granted:
        """Raises: BrokerError GRANT_NEEDS_REAUTH, SCOPE_NOT_GRANTABLE, PROVIDER_UNAVAILABLE; Unavailable."""
        sent_at = self._clock.now()
        timeout_s = self._timings.provider_timeout.total_seconds()
        try:
            async with asyncio.timeout(timeout_s):
                form = await self._form(asked)
                answer = await self._calls.present(asked.connection, asked.provider, form, timeout_s=timeout_s)
        except (SendFailed, TimeoutError, AnswerTooLarge):
            raise _unavailable(None) from None
        except (NotFound, jwk.InvalidKey) as error:
            raise Unavailable("secrets") from error
        return _granted(answer, asked, sent_at)

    async def _form(self, asked: Asked) -> dict[str, str]:
        bearer = asked.connection.grant_kind is GrantKind.JWT_BEARER
        form = await self._bearer_form(asked) if bearer else _exchange_form(asked)
        if asked.named_scopes and not (bearer and asked.provider.assertion_scope == "claim"):
            form["scope"] = _scope(asked)
        return form

    async def _bearer_form(self, asked: Asked) -> dict[str, str]:
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


def _exchange_form(asked: Asked) -> dict[str, str]:
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


def _scope(asked: Asked) -> str:
    return asked.provider.scope_separator.join(asked.named_scopes)


def _granted(answer: HttpAnswer, asked: Asked, sent_at: datetime) -> Granted:
    provider = asked.provider
    tokens = token_responses.parse(answer.body, scope_claim=provider.scope_claim)
    if isinstance(tokens, TokenError):
        raise _refusal(tokens.code, answer, asked)
    issued_type = tokens.members.get("issued_token_type", names.ACCESS_TOKEN_TYPE)
    if not 200 <= answer.status < 300 or issued_type != names.ACCESS_TOKEN_TYPE:
        raise _unavailable(answer)
    scopes = tokens.scopes or asked.named_scopes
    if scopes and not set(asked.scopes) <= set(scopes):
        raise BrokerError(
            Reason.SCOPE_NOT_GRANTABLE, "The connected system did not grant the scopes of this action to the user."
        )
    # Neither asked for nor said: whatever the user may do there.
    narrowed = bool(scopes) and set(scopes) <= {*asked.scopes, *provider.base_scopes}
    if not narrowed and not asked.connection.allow_unnarrowed:
        raise BrokerError(
            Reason.SCOPE_NOT_GRANTABLE, "The connected system grants more than this action needs, or does not say what."
        )
    stated = provider.access_token_lifetime_s
    life = tokens.expires_in or (UNKNOWN_LIFETIME if stated is None else timedelta(seconds=stated))
    margin = min(timedelta(seconds=provider.refresh_margin_s), life / 2)
    return Granted(
        tokens.access_token, scopes or asked.scopes, narrowed, sent_at + life, usable_until=sent_at + life - margin
    )


def _refusal(code: str, answer: HttpAnswer, asked: Asked) -> BrokerError:
    """What an answer without a token means. Nobody is blamed for a server that is busy or broken."""
    provider = asked.provider
    if answer.status == 429 or answer.status >= 500:
        return _unavailable(answer)
    exchange = asked.connection.grant_kind is GrantKind.TOKEN_EXCHANGE
    if code in provider.invalid_grant_errors or (exchange and code == _SUBJECT_TOKEN_REFUSED):
        return BrokerError(
            Reason.GRANT_NEEDS_REAUTH, "The connected system does not accept this user; the organisation must allow it."
        )
    if code == "invalid_scope":
        return BrokerError(Reason.SCOPE_NOT_GRANTABLE, "The connected system does not grant the scopes of this action.")
    return _unavailable(answer)


def _unavailable(answer: HttpAnswer | None) -> BrokerError:
    asked = "" if answer is None else answer.headers.get("retry-after", "")
    wait_s = int(asked) if asked.isascii() and asked.isdigit() and len(asked) < 6 else _PAUSE_S
    return BrokerError(
        Reason.PROVIDER_UNAVAILABLE,
        "The system behind this connection does not answer.",
        remedy=Remedy(retry_after_s=min(max(1, wait_s), LONGEST_PAUSE_S)),
    )
