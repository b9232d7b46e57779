"""One refusal of a credential: the same bare answer for every fault, and for the audit the phrase that distinguishes the faults."""

from __future__ import annotations

from cab.domain.errors import BrokerError, Claimed, Reason
from cab.protocol.jose import jws
from cab.protocol.tokens import dpop


def credential_refused(
    reason: Reason, detail: str, cause: Exception | str, *, token: str | None = None, client_id: str | None = None
) -> BrokerError:
    """`cause` is our own phrase, or the exception that has one. `token` is read for whom it claims to be of."""
    claimed = jws.claimed_by(token) if token is not None else Claimed()
    if client_id is not None:
        claimed = Claimed(client_id, claimed.issuer)
    return BrokerError(reason, detail, why=_phrase(cause), claimed=claimed)


def _phrase(cause: Exception | str) -> str:
    match cause:
        case str():
            return cause
        case jws.TokenRejected():
            return cause.why
        case dpop.InvalidProof():
            inner = cause.__cause__
            return f"{cause}: {inner.why}" if isinstance(inner, jws.TokenRejected) else str(cause)
        case BrokerError():
            return cause.why or cause.reason.value
        case _:
            return "malformed"
