"""On whose behalf: verifying our own assertions, of the edge and of the STS."""

from __future__ import annotations

from cab.domain.configured.deployment import Broker
from cab.domain.errors import Reason
from cab.ports import Clock, VerificationKeys
from cab.protocol.jose import jws
from cab.protocol.tokens import assertions
from cab.protocol.tokens.assertions import Assertion
from cab.use_cases.identity.refused_credentials import credential_refused
from cab.use_cases.identity.verified_before import Verified, VerifiedTokens
from cab.use_cases.identity.verify_token import verify_token


class AssertionVerifier:
    """Assertions are reusable by design, bounded by may_act, task and limits; so one verified before is remembered."""

    def __init__(self, broker: Broker, keys: VerificationKeys, clock: Clock) -> None:
        self._rules = {
            issuer: assertions.rules(issuer, broker.sts_issuer) for issuer in (broker.edge_issuer, broker.sts_issuer)
        }
        self._keys = keys
        self._clock = clock
        self._verified = VerifiedTokens[Assertion](keys, clock)

    async def verify(self, token: str) -> Assertion:
        """Raises: BrokerError SUBJECT_TOKEN_INVALID, SUBJECT_TOKEN_EXPIRED; Unavailable."""
        try:
            return await self._verified.read(token, lambda: self._verify(token))
        except jws.TokenRejected as error:
            reason, detail = Reason.SUBJECT_TOKEN_INVALID, "The subject token is not valid."
            if error.expired:
                reason, detail = Reason.SUBJECT_TOKEN_EXPIRED, "The subject token has expired."
            raise credential_refused(reason, detail, error, token=token) from error

    async def _verify(self, token: str) -> Verified[Assertion]:
        unverified = jws.parse(token)
        rules = self._rules.get(unverified.unverified_issuer)
        if rules is None:
            raise jws.TokenRejected("iss is not one of ours")
        claims = await verify_token(unverified, rules, self._keys, now=self._clock.now())
        return Verified.by(claims, assertions.read(claims))
