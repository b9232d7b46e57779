"""`POST /internal/outcomes`: what came of a call that `call_tool` made, for the user's own page. The record has it from the audit event."""

from __future__ import annotations

from contextlib import suppress

from cab.domain import audit
from cab.domain.configured.deployment import Deployment
from cab.domain.errors import Reason
from cab.ports import Clock, Conflict, VerificationKeys
from cab.protocol.jose import jws
from cab.protocol.tokens import attempts
from cab.protocol.tokens.attempts import Attempt
from cab.stores.issued_tokens import IssuedTokens
from cab.use_cases.identity.refused_credentials import credential_refused
from cab.use_cases.identity.verify_token import verify_token


class Attempts:
    """Reads what `internal` signed when it let a call through."""

    def __init__(self, deployment: Deployment, keys: VerificationKeys, clock: Clock) -> None:
        self._issuer = deployment.broker.sts_issuer
        self._keys = keys
        self._clock = clock

    async def read(self, token: str) -> Attempt:
        """Raises: BrokerError CALL_TOKEN_INVALID; Unavailable."""
        try:
            verified = await verify_token(
                jws.parse(token), attempts.rules(self._issuer), self._keys, now=self._clock.now()
            )
            return attempts.read(verified)
        except jws.TokenRejected as error:
            raise not_under_way(error, token) from error


class NoteOutcome:
    def __init__(self, attempts: Attempts, issued_tokens: IssuedTokens) -> None:
        self._attempts = attempts
        self._issued_tokens = issued_tokens

    async def __call__(self, attempt: str, outcome: audit.CallOutcome) -> None:
        """Raises: BrokerError CALL_TOKEN_INVALID; Unavailable."""
        of = await self._attempts.read(attempt)
        with suppress(Conflict):  # the same call is being made once more: what comes of that will be told too
            await self._issued_tokens.tell(
                tenant=of.tenant, subject=of.subject, client_id=of.agent, call_id=of.call_id, outcome=outcome
            )


def not_under_way(cause: Exception | str, token: str) -> Exception:
    return credential_refused(Reason.CALL_TOKEN_INVALID, "The call is not under way.", cause, token=token)
