"""Revocation at the provider (RFC 7009), where one revocation ends no more than this grant."""

from __future__ import annotations

from enum import Enum

from cab.domain.configured.connections import Connection, Provider
from cab.ports import AnswerTooLarge, NotFound, Unavailable
from cab.stores.grant_payloads import Payload
from cab.use_cases.upstream.provider_client import ProviderCalls


class Upstream(Enum):
    CONFIRMED = "confirmed"
    IMPOSSIBLE = "impossible"  # no endpoint, too wide an effect, or refused for good
    FAILED = "failed"  # worth another try


class RevokeUpstream:
    def __init__(self, calls: ProviderCalls) -> None:
        self._calls = calls

    async def __call__(self, payload: Payload, connection: Connection, provider: Provider) -> Upstream:
        """The refresh token where there is one: its revocation takes the access tokens along (RFC 7009 section 2.1)."""
        token, hint = (
            (payload.refresh_token, "refresh_token")
            if payload.refresh_token is not None
            else (payload.newest.access_token, "access_token")
        )
        return await self.token(token, hint, connection, provider)

    async def token(self, token: str, hint: str, connection: Connection, provider: Provider) -> Upstream:
        """One token that is in no payload. The same rule."""
        if provider.revocation.endpoint is None or provider.revocation.blast_radius in ("user", "unknown"):
            return Upstream.IMPOSSIBLE
        try:
            answer = await self._calls.revoke(connection, provider, token=token, hint=hint)
        except (Unavailable, NotFound, AnswerTooLarge):
            return Upstream.FAILED
        if 200 <= answer.status < 300:
            return Upstream.CONFIRMED
        return Upstream.FAILED if answer.status == 429 or answer.status >= 500 else Upstream.IMPOSSIBLE
