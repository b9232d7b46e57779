"""Who calls a tool, and for whom: verifying call tokens, in the function that executes and again in the one that decides."""

from __future__ import annotations

from cab.domain.configured.deployment import Broker
from cab.domain.errors import Reason
from cab.ports import Clock, VerificationKeys
from cab.protocol.jose import jws
from cab.protocol.tokens import call_tokens
from cab.protocol.tokens.call_tokens import CallToken
from cab.use_cases.identity.refused_credentials import credential_refused
from cab.use_cases.identity.verified_before import Verified, VerifiedTokens
from cab.use_cases.identity.verify_token import verify_token


class CallTokenVerifier:
    """Call tokens are used for many calls until they end; so one verified before is remembered."""

    def __init__(self, broker: Broker, keys: VerificationKeys, clock: Clock) -> None:
        self._rules = call_tokens.rules(broker.sts_issuer, broker.calls_resource)
        self._keys = keys
        self._clock = clock
        self._verified = VerifiedTokens[CallToken](keys, clock)

    async def verify(self, token: str) -> CallToken:
        """Raises: BrokerError CALL_TOKEN_INVALID, one answer for every fault; Unavailable."""
        try:
            return await self._verified.read(token, lambda: self._verify(token))
        except jws.TokenRejected as error:
            raise credential_refused(
                Reason.CALL_TOKEN_INVALID, "The call token is not valid.", error, token=token
            ) from error

    async def _verify(self, token: str) -> Verified[CallToken]:
        claims = await verify_token(jws.parse(token), self._rules, self._keys, now=self._clock.now())
        return Verified.by(claims, call_tokens.read(claims))
