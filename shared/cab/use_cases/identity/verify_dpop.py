"""Proof of possession (RFC 9449), opt-in per request: verified, spent once, and compared with what is bound already."""

from __future__ import annotations

from cab.domain.errors import BrokerError, Reason
from cab.ports import Clock
from cab.protocol.tokens import dpop
from cab.stores.single_use import Kind, SingleUse
from cab.use_cases.identity.refused_credentials import credential_refused


class DpopVerifier:
    """For one endpoint URL, as configured: the platform terminates TLS, so the Host header proves nothing."""

    def __init__(self, url: str, single_use: SingleUse, clock: Clock, *, method: str = "POST") -> None:
        self._url = url
        self._method = method
        self._single_use = single_use
        self._clock = clock

    async def key_of(self, proof: str | None, *, tenant: str, access_token: str | None = None) -> str | None:
        """The thumbprint of the key that proved itself, None without a proof. With an `access_token`, the proof must name it.

        Raises: BrokerError DPOP_PROOF_INVALID, also for a replay; Unavailable.
        """
        if proof is None:
            return None
        try:
            verified = dpop.verify(
                proof, method=self._method, url=self._url, now=self._clock.now(), access_token=access_token
            )
        except dpop.InvalidProof as error:
            raise _invalid(error, proof) from error
        first_use = await self._single_use.claim(
            Kind.DPOP_PROOF, tenant=tenant, issuer=verified.jkt, identifier=verified.jti, until=verified.spend_until
        )
        if not first_use:
            raise _invalid("used before", proof)
        return verified.jkt


def check_binding(bound: str | None, proven: str | None) -> None:
    """What is bound to a key works only with that key. Raises: BrokerError DPOP_PROOF_INVALID."""
    if bound is not None and bound != proven:
        raise BrokerError(
            Reason.DPOP_PROOF_INVALID,
            "The token is bound to a key that was not proven.",
            why="bound to a key that was not proven",
        )


def _invalid(cause: Exception | str, proof: str) -> BrokerError:
    return credential_refused(Reason.DPOP_PROOF_INVALID, "The DPoP proof is not valid.", cause, token=proof)
