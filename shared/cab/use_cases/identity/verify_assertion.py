"""On whose behalf: verifying our own assertions, of the edge and of the STS."""

from __future__ import annotations

from cab.domain.configured.deployment import Broker
from cab.domain.errors import BrokerError, Reason
from cab.ports import Clock, NotFound, VerificationKeys
from cab.protocol.jose import jws
from cab.protocol.tokens import assertions
from cab.protocol.tokens.assertions import Assertion
from cab.use_cases.identity.refused_credentials import credential_refused
from cab.use_cases.identity.verified_before import Verified, VerifiedTokens


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
            known = await self._verified.recall(token)
            return self._verified.remember(token, await self._verify(token)) if known is None else known
        except jws.TokenRejected as error:
            if error.expired:
                raise credential_refused(
                    Reason.SUBJECT_TOKEN_EXPIRED, "The subject token has expired.", error, token=token
                ) from error
            raise _invalid(error, token) from error
        except NotFound as error:
            raise _invalid(error, token) from error

    async def _verify(self, token: str) -> Verified[Assertion]:
        unverified = jws.parse(token)
        issuer = unverified.unverified_issuer
        rules = self._rules.get(issuer)
        if rules is None:
            raise jws.TokenRejected("iss is not one of ours")
        key = await self._keys.find(issuer, unverified.kid, unverified.algorithm)
        claims = jws.verify(unverified, key, rules, now=self._clock.now())
        return Verified(assertions.read(claims), claims.issuer, claims.expires_at, key)


def _invalid(cause: Exception, token: str) -> BrokerError:
    return credential_refused(Reason.SUBJECT_TOKEN_INVALID, "The subject token is not valid.", cause, token=token)
