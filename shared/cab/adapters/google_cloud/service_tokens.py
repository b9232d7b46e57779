"""`ServiceTokens` from Google: ID tokens of the account that this function runs as.

On Cloud Run the metadata server issues them (GCE_METADATA_HOST leads to another one); elsewhere google-auth takes the
service account key or impersonation that GOOGLE_APPLICATION_CREDENTIALS names.
"""

from __future__ import annotations

import asyncio
import logging
from datetime import UTC, datetime, timedelta
from typing import Any

import google.auth.exceptions

from cab.adapters.google_cloud import metadata_server
from cab.ports import Clock, Unavailable
from cab.protocol.jose import jws
from cab.single_flight import SingleFlight
from cab.values import immutable

_logger = logging.getLogger(__name__)

_BUDGET_S = 3.0
_RENEW_BEFORE = timedelta(minutes=5)


@immutable
class _Token:
    text: str
    expires_at: datetime

    def __repr__(self) -> str:
        return f"_Token(expires_at={self.expires_at})"


class GoogleServiceTokens:
    """Keeps one token per audience until five minutes before it expires. Concurrent callers share one fetch."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._tokens: dict[str, _Token] = {}
        self._fetches: SingleFlight[str, _Token] = SingleFlight()

    async def identity_token(self, audience: str) -> str:
        """Waits at most 3 s. Raises: Unavailable."""
        token = self._tokens.get(audience)
        if token is not None and self._clock.now() < token.expires_at - _RENEW_BEFORE:
            return token.text
        try:
            return (await self._fetches.do(audience, lambda: self._fetch(audience))).text
        except (google.auth.exceptions.GoogleAuthError, jws.TokenRejected, TimeoutError) as error:
            # Not its text: it can quote what the metadata server answered.
            _logger.warning("no ID token of this service is available: %s", type(error).__name__)
            raise Unavailable("service tokens") from None

    async def _fetch(self, audience: str) -> _Token:
        async with asyncio.timeout(_BUDGET_S):
            token = await asyncio.to_thread(_fetch_blocking, audience)
        self._tokens[audience] = token
        return token


def _fetch_blocking(audience: str) -> _Token:
    if metadata_server.is_here():
        text = metadata_server.identity_token(audience)
        expires_at = jws.parse(text).claims.get("exp")
        if not isinstance(expires_at, int):
            raise google.auth.exceptions.RefreshError("the metadata server's answer is no ID token")
        return _Token(text, datetime.fromtimestamp(expires_at, UTC))
    from google.auth.transport.requests import Request  # noqa: PLC0415 - costly, and not needed on Cloud Run
    from google.oauth2 import id_token  # noqa: PLC0415

    request = Request()
    fetch: Any = id_token.fetch_id_token_credentials  # untyped
    credentials = fetch(audience, request)
    credentials.refresh(request)
    return _Token(credentials.token, credentials.expiry.replace(tzinfo=UTC))
